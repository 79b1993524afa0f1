"""PEFT's regular expressions over names of modules, matched in time linear in pattern and name.

A pattern comes from whoever pushes an adapter. RE2 (Cox 2010) has no backtracking, so no pattern
can run for ever. It has no lookaround and no backreferences, and `\\w`, `\\d` and `\\s` mean ASCII.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MAX_PATTERN_LENGTH = 4096
MAX_MATCHES = 500_000
"""Of patterns with modules; an adapter with a rank of its own for 560 layers needs 313,600."""
_MAX_COMPILED_BYTES = 1 << 20
# Without a repetition Python's own engine, which is six times as fast a call, is linear, too.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")


class InvalidPattern(ValueError):
    """A pattern that is no regular expression, or one that cannot be matched in linear time."""


def fits_whole(pattern: str, module: str) -> bool:
    """Whether the pattern is all of the module's name, as PEFT reads a `target_modules` that is a
    text; raises InvalidPattern."""
    return _compiled(f"(?:{pattern})$").match(module) is not None


def fits_end(key: str, module: str) -> bool:
    """Whether the key is the module's name or its end behind a dot, as PEFT reads the keys of
    `rank_pattern` and `alpha_pattern`; raises InvalidPattern."""
    return (
        _compiled(rf"(.*\.)?({key})$", is_plain=_PLAIN.fullmatch(key) is not None).match(module)
        is not None
    )


def check_pattern(pattern: str) -> None:
    """Raises InvalidPattern, saying what is wrong with it."""
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidPattern(f"it has {len(pattern)} characters, and may have {MAX_PATTERN_LENGTH}")
    fits_whole(pattern, "")
    fits_end(pattern, "")


@lru_cache(4096)
def _compiled(pattern: str, *, is_plain: bool = False) -> Any:
    if is_plain:
        return re.compile(pattern)
    import re2  # for adapters that have patterns

    options = re2.Options()
    options.max_mem = _MAX_COMPILED_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(error)
        raise InvalidPattern(text) from None
