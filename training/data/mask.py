"""A row as text with its supervised tokens marked, for a person to check. No torch, no terminal."""

from __future__ import annotations

from itertools import groupby

from tokenizers import Tokenizer

from hotswap.training.data.dataset import Row

OPEN, CLOSE = "⟦", "⟧"
_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"


def marked(row: Row, tokenizer: Tokenizer, *, coloured: bool) -> str:
    """The row's text, special tokens too, each run of supervised tokens between ⟦ and ⟧, in green
    where `coloured`. Control characters are escaped: data does not command a terminal."""
    pieces = []
    for supervised, group in groupby(
        zip(row.ids, row.supervised, strict=True), key=lambda pair: pair[1]
    ):
        ids = [token_id for token_id, _ in group]
        text = _visible(tokenizer.decode(ids, skip_special_tokens=False))
        pieces.append(_highlighted(text, coloured) if supervised else text)
    return "".join(pieces)


def _highlighted(text: str, coloured: bool) -> str:
    inner = f"{OPEN}{text}{CLOSE}"
    return f"{_GREEN}{inner}{_PLAIN}" if coloured else inner


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
