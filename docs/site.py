"""Hooks of mkdocs: pages that are made from the code, and the repository's own pages beside docs/.

A link is written as it works in the repository; here it becomes one that works in the site.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.references import PAGES  # noqa: E402

BESIDE = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DECISIONS/**/*.md",
    "benchmarks/results/*.md",
    "benchmarks/figures/*.svg",
)
NAMES = "|".join(pattern.split("*")[0].rstrip("/") for pattern in BESIDE)
UP = re.compile(rf"\]\((?P<up>(?:\.\./)*)\.\./(?P<name>(?:{NAMES})[^)]*)\)")
DOWN = re.compile(r"\]\((?P<up>(?:\.\./)*)docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, make in PAGES.items():
        files.append(File.generated(config, uri, content=make()))
    for path in (path for pattern in BESIDE for path in sorted(ROOT.glob(pattern))):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """docs/ is the site's root, and what stands beside it in the repository stands inside it."""
    if (page.file.abs_src_path or "").startswith(str(ROOT / "docs")):
        return UP.sub(r"](\g<up>\g<name>)", markdown)
    return DOWN.sub(r"](\g<up>", markdown)
