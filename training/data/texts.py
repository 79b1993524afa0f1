"""What a text is: the form and hash that it is compared by, and whether it is JSON, SQL or code.

Knows no rows.
"""

from __future__ import annotations

import json
import re
import unicodedata
from hashlib import blake2b
from typing import Any, NoReturn

HASH_BYTES = 16
NOT_JSON = object()
"""In the place of a value, of a text that is no JSON."""

_SQL = re.compile(
    r"\A\s*(select\b.+\bfrom\b|insert\s+into\b|update\b.+\bset\b|delete\s+from\b"
    r"|(create|drop|alter)\s+(table|view|index)\b|with\s+\w+\s+as\s*\()",
    re.IGNORECASE | re.DOTALL,
)
# English sentences begin with "select … from" too. Statements have one of these besides, or are a
# whole `select a, b from c` in small letters.
_SQL_SIGN = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|WITH)\b|[*=(;]"
    r"|\A\s*select\s+[\w.]+(\s*,\s*[\w.]+)*\s+from\s+[\w.]+\s*\Z"
)
_CODE = re.compile(
    r"```|^\s*(def|class|fn|func|function)\s+\w+\s*[({:\[]|^\s*(from\s+[\w.]+\s+)?import\s+[\w.{*]+;?$"
    r"|^\s*#include\b|^\s*(const|let|var)\s+\w+\s*=|^\s*(if|for|while)\b.*[:{]\s*$"
    r"|^\s*return\b.*;\s*$|</\w+>|^\s*[\w.]+\(.*\);?\s*$|^#!/",
    re.MULTILINE,
)


def normalised(text: str) -> str:
    """NFKC, casefolded, runs of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_hash(text: str) -> bytes:
    """16 bytes that stand for the text: two of 10⁹ meet with a probability of 10⁻²¹."""
    return blake2b(text.encode("utf-8"), digest_size=HASH_BYTES).digest()


def normalised_hash(text: str) -> bytes:
    """What stands for all texts that are the same when they are `normalised`."""
    return text_hash(normalised(text))


def structure_of(text: str) -> str | None:
    """`JSON` (an object or a list), `SQL` or `code`; None for other text. A guess for SQL and code,
    by their signs."""
    if text.lstrip().startswith(("{", "[")) and is_json(text):
        return "JSON"
    if _SQL.search(text) and _SQL_SIGN.search(text):
        return "SQL"
    return "code" if _CODE.search(text) else None


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value (RFC 8259: no NaN, no Infinity)."""
    return json_value(text) is not NOT_JSON


def json_value(text: str) -> Any:
    """The value of a text that `is_json`, NOT_JSON of others."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOT_JSON


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
