"""Log probabilities in the two forms of the OpenAI API."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from hotswap.serving.engine.sequence import Logprobs
from hotswap.serving.requests.token_text import TokenText


class ChatLogprobs:
    """Of a chat answer: an entry a token, with the bytes it stands for."""

    def __init__(self, words: TokenText) -> None:
        self._words = words

    def of(self, token_id: int, logprobs: Logprobs) -> dict[str, Any]:
        """What one token adds, in the form of a whole answer's."""
        top = [self._entry(*pair) for pair in logprobs.top]
        return {
            "content": [{**self._entry(token_id, logprobs.chosen), "top_logprobs": top}],
            "refusal": None,
        }

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        token_bytes = self._words.bytes_of(token_id)
        return {
            "token": _readable(token_bytes),
            "logprob": _finite(logprob),
            "bytes": list(token_bytes),
        }


class TextLogprobs:
    """Of a text completion: four lists side by side. Counts where in the text each token starts,
    so tokens must come in order."""

    def __init__(self, words: TokenText) -> None:
        self._words = words
        self._offset = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def of_prompt(self, token_ids: Sequence[int], logprobs: Sequence[Logprobs]) -> dict[str, Any]:
        """What an echoed prompt adds; nothing comes before its first token, so that one has none.

        A special token's text is in an echoed prompt, and counts for where the next ones start.
        """
        parts = [self._entry(token_ids[0], None, is_shown=True)]
        for token_id, chosen in zip(token_ids[1:], logprobs, strict=True):
            parts.append(self._entry(token_id, chosen, is_shown=True))
        return joined(parts) or {}

    def of(self, token_id: int, logprobs: Logprobs) -> dict[str, Any]:
        """What one token adds, in the form of a whole answer's."""
        return self._entry(token_id, logprobs, is_shown=not self._words.is_special(token_id))

    def _entry(self, token_id: int, logprobs: Logprobs | None, *, is_shown: bool) -> dict[str, Any]:
        token_bytes = self._words.bytes_of(token_id) if is_shown else b""
        if token_bytes and not 0x80 <= token_bytes[0] < 0xC0:  # it does not go on with a character
            self._offset += len(self._characters.decode(b"", final=True))
        start = self._offset
        self._offset += len(self._characters.decode(token_bytes))
        return {
            "text_offset": [start],
            "token_logprobs": [logprobs and _finite(logprobs.chosen)],
            "tokens": [self._name(token_id)],
            "top_logprobs": [logprobs and self._top(token_id, logprobs)],
        }

    def _top(self, token_id: int, logprobs: Logprobs) -> dict[str, float]:
        pairs = [(token_id, logprobs.chosen), *logprobs.top]
        return {self._name(token_id): _finite(logprob) for token_id, logprob in pairs}

    def _name(self, token_id: int) -> str:
        """Tokens that are no whole characters keep apart from one another by their bytes."""
        token_bytes = self._words.bytes_of(token_id)
        return token_bytes.decode() if _is_text(token_bytes) else f"bytes:{_readable(token_bytes)}"


def joined(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The lists of all parts, each one after the other; None of no parts."""
    if not parts:
        return None
    return {
        name: value if value is None else [entry for part in parts for entry in part[name]]
        for name, value in parts[0].items()
    }


def _is_text(token_bytes: bytes) -> bool:
    try:
        token_bytes.decode()
    except UnicodeDecodeError:
        return False
    return True


def _readable(token_bytes: bytes) -> str:
    """The text, or `\\xf0\\x9f` for bytes that are none."""
    return (
        token_bytes.decode()
        if _is_text(token_bytes)
        else "".join(f"\\x{byte:02x}" for byte in token_bytes)
    )


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI's own stand-in for the least likely."""
    return max(logprob, -9999.0)
