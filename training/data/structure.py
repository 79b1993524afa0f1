"""Whether a text is JSON, SQL or code, where letter case and white space carry meaning."""

from __future__ import annotations

import json
import re

_SQL = re.compile(
    r"\A\s*(select\b.+\bfrom\b|insert\s+into\b|update\b.+\bset\b|delete\s+from\b"
    r"|(create|drop|alter)\s+(table|view|index)\b|with\s+\w+\s+as\s*\()",
    re.IGNORECASE | re.DOTALL,
)
# English sentences begin with "select … from" too; statements have one of these besides.
_SQL_SIGN = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|WITH)\b|[*=(;]")
_CODE = re.compile(
    r"```|^\s*(def|class|fn|func|function)\s+\w+\s*[({:\[]|^\s*(from\s+[\w.]+\s+)?import\s+[\w.{*]+;?$"
    r"|^\s*#include\b|^\s*(const|let|var)\s+\w+\s*=|^\s*(if|for|while)\b.*[:{]\s*$"
    r"|^\s*return\b.*;\s*$|</\w+>|^\s*[\w.]+\(.*\);?\s*$|^#!/",
    re.MULTILINE,
)


def structure_of(text: str) -> str | None:
    """`JSON`, `SQL` or `code`; None for other text. A guess for SQL and code, by their signs."""
    if _is_json(text):
        return "JSON"
    if _SQL.search(text) and _SQL_SIGN.search(text):
        return "SQL"
    return "code" if _CODE.search(text) else None


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
