"""How messages become the text a model reads. Pure: no tokenizer, no torch.

The prompt format is part of what an adapter is. It is stored in the adapter's manifest, and
training and serving both render with this module, so the two cannot differ.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from hotswap.registry.domain.errors import InvalidPrompt
from hotswap.registry.domain.values import ValueObject

if TYPE_CHECKING:
    import jinja2

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

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt text for `messages`; raises InvalidPrompt when the template refuses them."""
        if not messages:
            raise InvalidPrompt("'messages' is empty; give at least one message", param="messages")
        prepared = [
            {**m, "content": self.normaliser.apply(m["content"])} if m["role"] == "user" else {**m}
            for m in messages
        ]
        if self.system_prompt is not None and prepared[0]["role"] != "system":
            prepared.insert(0, {"role": "system", "content": self.system_prompt})
        import jinja2  # who only reads manifests need not wait for it

        try:
            return _compiled(self.chat_template).render(
                messages=prepared,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.end_of_turn,
            )
        except jinja2.TemplateError as error:
            raise InvalidPrompt(
                f"the chat template refused the messages: {error}", param="messages"
            ) from error


@lru_cache(maxsize=256)
def _compiled(chat_template: str) -> jinja2.Template:
    """Compile like transformers does, so that a template from the hub renders the same here."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(chat_template)
    except jinja2.TemplateError as error:
        raise InvalidPrompt(f"the chat template does not compile: {error}") from error
