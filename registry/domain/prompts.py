"""How messages become the text that a model reads, as a value. Pure: it renders nothing.

The prompt format is part of what an adapter is. It is stored in the adapter's manifest;
`serving.rendering` renders with it, for training too, so the two cannot differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum

from hotswap.registry.domain.values import ValueObject

Message = Mapping[str, str]  # {"role": …, "content": …}


class Normaliser(StrEnum):
    """What is done to the text of user messages before rendering."""

    NONE = "none"
    WHITESPACE = "whitespace"  # NFC, then runs of white space to one space, ends trimmed
    LOWERCASE = "lowercase"  # NFC, then small letters, composed again
    WHITESPACE_LOWERCASE = "whitespace-lowercase"

    def apply(self, text: str) -> str:
        """Applied twice it gives what it gives once."""
        if self is Normaliser.NONE:
            return text
        text = unicodedata.normalize("NFC", text)
        if self is not Normaliser.WHITESPACE:
            text = unicodedata.normalize("NFC", text.lower())
        if self is not Normaliser.LOWERCASE:
            text = re.sub(r"\s+", " ", text).strip()
        return text

    def __or__(self, other: Normaliser) -> Normaliser:
        """The normaliser that does what both do."""
        if Normaliser.NONE in (self, other):
            return other if self is Normaliser.NONE else self
        return self if self is other else Normaliser.WHITESPACE_LOWERCASE


class PromptFormat(ValueObject):
    """A chat template (Jinja, as in `tokenizer_config.json`) and what goes into it.

    `system_prompt` is put in front of conversations that bring no system message of their own;
    None leaves the template's own default. `end_of_turn` is the token text that ends an answer.
    """

    chat_template: str
    system_prompt: str | None = None
    normaliser: Normaliser = Normaliser.NONE
    bos_token: str = ""
    end_of_turn: str
