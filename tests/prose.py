"""Takes pages of Markdown apart: paragraphs, sentences, links and code. Judges nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAX_WORDS = 25
ABBREVIATIONS = ("e.g.", "i.e.", "vs.", "etc.", "cf.", "approx.", "No.")

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`]*`")
FENCED = re.compile(r"^( *)```(?P<kind>[^\n]*)\n(?P<code>.*?)^\1```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def paragraphs(text: str) -> list[str]:
    """Paragraphs and list items, without headings, tables and code blocks."""
    text = COMMENT.sub("", FENCED.sub("", text))
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "|")) or _is_code(line, blocks[-1]):
            blocks.append([])
        elif item := re.match(r"\s*(?:-|\d+\.) (.*)", line):
            blocks.append([item[1]])
        else:
            blocks[-1].append(line.strip())
    return [" ".join(block) for block in blocks if block]


def _is_code(line: str, block: list[str]) -> bool:
    """Four spaces begin code, unless they go on with an item."""
    return line.startswith("    ") and not block


def sentences(block: str) -> list[str]:
    """A point ends a sentence before white space, but not in an abbreviation or in code."""
    block = CODE.sub("`code`", LINK.sub(r"\1", block))
    parts, begin = [], 0
    for point in re.finditer(r"[.!?][)\"'*]*(?=\s|$)", block):
        if not block[: point.end()].endswith(ABBREVIATIONS):
            parts.append(block[begin : point.end()].strip())
            begin = point.end()
    rest = block[begin:].strip()
    return [*parts, rest] if rest else parts


def num_words(sentence: str) -> int:
    return sum(any(sign.isalnum() for sign in word) for word in sentence.split())


def long_sentences(page: Path) -> list[str]:
    parts = [part for block in paragraphs(page.read_text()) for part in sentences(block)]
    return [part for part in parts if num_words(part) > MAX_WORDS]


def dead_links(page: Path) -> list[str]:
    """The targets of links to files that are not there."""
    targets = [target.partition("#")[0] for _, target in LINK.findall(page.read_text())]
    local = [target for target in targets if target and "://" not in target]
    return [target for target in local if not (page.parent / target).exists()]


def code_lines(text: str) -> Iterator[str]:
    """The lines of fenced and indented code, and each piece of code within a line."""
    text = text.replace("\\\n", " ")
    for block in FENCED.finditer(text):
        yield from (line.strip() for line in block["code"].splitlines())
    rest = FENCED.sub("", text)
    yield from (line.strip() for line in rest.splitlines() if line.startswith("    "))
    yield from (code.strip("`") for code in CODE.findall(rest))
