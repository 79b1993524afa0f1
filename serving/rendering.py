"""Renders messages with an adapter's prompt format, in a sandbox. Knows no tokenizer and no torch.

Serving and training both render here, so what a model is trained on is what it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hotswap.registry.domain.errors import InvalidPrompt
from hotswap.registry.domain.prompts import Message, PromptFormat


def render(
    prompt: PromptFormat, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> str:
    """The prompt text for `messages`; raises InvalidPrompt when the template refuses them."""
    if not messages:
        raise InvalidPrompt("'messages' is empty; give at least one message", param="messages")
    prepared = [
        {**m, "content": prompt.normaliser.apply(m["content"])} if m["role"] == "user" else {**m}
        for m in messages
    ]
    if prompt.system_prompt is not None and prepared[0]["role"] != "system":
        prepared.insert(0, {"role": "system", "content": prompt.system_prompt})
    try:
        return _compiled(prompt.chat_template).render(
            messages=prepared,
            add_generation_prompt=add_generation_prompt,
            bos_token=prompt.bos_token,
            eos_token=prompt.end_of_turn,
        )
    except jinja2.TemplateError as error:
        raise InvalidPrompt(
            f"the chat template refused the messages{_line(error)}: {error}", param="messages"
        ) from error
    except Exception as error:  # a template is a program, and may fail like one
        raise InvalidPrompt(
            f"the chat template failed on these messages{_line(error)}: {type(error).__name__}: "
            f"{error}; correct the template, and push the adapter again",
            param="messages",
        ) from error


def _line(error: BaseException) -> str:
    """` in line 3` of the template; nothing when the error came from elsewhere."""
    number, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            number = trace.tb_lineno
        trace = trace.tb_next
    return "" if number is None else f" in line {number}"


@lru_cache(maxsize=256)
def _compiled(chat_template: str) -> jinja2.Template:
    """Compile like transformers does, so that a template from the hub renders the same here."""

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
        raise InvalidPrompt(f"the chat template does not compile{_line(error)}: {error}") from error
