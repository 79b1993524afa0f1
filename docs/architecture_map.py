"""Writes the map in ARCHITECTURE.md: one sentence a file, taken from its docstring.

`make map` runs it after a file was added, moved or described anew; a test compares.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
PACKAGES = ("hotswap", "registry", "serving", "training")
BEGIN, END = "<!-- map: made by `make map` -->", "<!-- end of the map -->"


def sentence(path: Path) -> str:
    """The first sentence of a Python file's docstring or of a C file's head comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        head = re.match(r"\s*/\*+(.*?)\*/", text, re.DOTALL)
        text = re.sub(r"\n\s*\*\s?", "\n", head[1]) if head else ""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.:;])\s", paragraph, maxsplit=1)[0].rstrip(".:; ")


def files(folder: Path) -> list[Path]:
    kinds = (".py", ".h")
    found = [path for path in sorted(folder.iterdir()) if path.suffix in kinds]
    return [path for path in found if path.name != "__init__.py"]


def folders(folder: Path) -> Iterator[Path]:
    """The folder and those below it that hold sources, links left out."""
    yield folder
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(("_", ".")):
            yield from folders(path)


def map_text() -> str:
    """The map as it stands between the marks."""
    lines = []
    for package in PACKAGES:
        for folder in folders(ROOT / package):
            if not (listed := files(folder)):
                continue
            init = folder / "__init__.py"
            says = sentence(init) if init.exists() else ""
            lines.append(f"### {folder.relative_to(ROOT).as_posix()}/")
            lines += [
                "",
                *([f"{says}.", ""] if says else []),
                "| file | what it is for |",
                "|---|---|",
            ]
            lines += [f"| {path.name} | {sentence(path).replace('|', '/')} |" for path in listed]
            lines.append("")
    return "\n".join(lines)


def with_map(page: str) -> str:
    """The page with the map that fits the files."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{map_text()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
