"""The bytes of single tokens, which need not be whole characters. Knows no model."""

from __future__ import annotations

import json
import re
from functools import cached_property

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


class TokenText:
    """Invariant: the bytes of an answer's tokens, special ones left out, joined are its text's
    (but for the space that sentencepiece puts before a text)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()

    def bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return str(self._added[token_id].content).encode()
        token: str | None = self._tokenizer.id_to_token(token_id)
        if token is None:  # the model's matrix has more rows than the tokenizer has words
            return b""
        if self._is_byte_level:
            return bytes(_BYTE_OF[character] for character in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace(_SPACE, " ").encode()

    def is_special(self, token_id: int) -> bool:
        """Whether the token has no part in the text of an answer."""
        return token_id in self._added and bool(self._added[token_id].special)

    @cached_property
    def _is_byte_level(self) -> bool:
        decoder = self._tokenizer.decoder
        return decoder is not None and "ByteLevel" in _types(json.loads(decoder.__getstate__()))


def _types(decoder: dict[str, object]) -> set[object]:
    inner = decoder.get("decoders")
    types = {decoder.get("type")}
    for part in inner if isinstance(inner, list) else []:
        types |= _types(part)
    return types


def _byte_characters() -> dict[str, int]:
    """Byte-level BPE's character for each byte (Radford et al. 2019): printable ones are their
    own, the others are counted on from 256."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    moved = {chr(256 + number): byte for number, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in own}, **moved}


_BYTE_OF = _byte_characters()
