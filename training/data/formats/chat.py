"""OpenAI's chat rows, `{"messages": [{"role", "content", "weight"}, …]}`, and TRL's rows of a
prompt and a completion, which are texts or lists of such messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Example
from hotswap.training.data.formats.fields import Fields, cannot_say, conversation

_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {
    "developer": "write it as 'system'",
    "tool": "tool calls cannot be learnt; leave such rows out",
    "function": "tool calls cannot be learnt; leave such rows out",
}


class Chat:
    """`{"messages": […]}`: an answer with `"weight": 0` is context and is not learnt."""

    name = "messages"
    signs = ("messages",)

    def read(self, row: Fields) -> Example:
        row.only("messages")
        items = row.objects("messages")
        messages = [_message(item) for item in items]
        weightless = frozenset(i for i, item in enumerate(items) if not _weight(item))
        return conversation(row.place, messages, lambda i: f"messages[{i}].role", weightless)

    def write(self, example: Example) -> dict[str, Any]:
        return {
            "messages": [
                {**message, "weight": 0} if index in example.context else dict(message)
                for index, message in enumerate(example.messages)
            ]
        }


class PromptCompletion:
    """`{"prompt": …, "completion": …}`: the answers of the completion are learnt, and none of the
    prompt's. A text is one message, of the user and of the assistant."""

    name = "prompt-completion"
    signs = ("prompt", "completion")

    def read(self, row: Fields) -> Example:
        row.only("prompt", "completion")
        prompt = self._part(row, "prompt", "user")
        completion = self._part(row, "completion", "assistant")
        messages = [*prompt, *completion]
        context = frozenset(i for i, m in enumerate(prompt) if m["role"] == "assistant")

        def field(index: int) -> str:
            if index < len(prompt):
                return f"prompt[{index}].role"
            return f"completion[{index - len(prompt)}].role"

        return conversation(row.place, messages, field, context)

    def write(self, example: Example) -> dict[str, Any]:
        first = example.learnt[0]
        if any(index > first for index in example.context):
            cannot_say(example, "that an answer behind a learnt one is not learnt", self.name)
        prompt, completion = example.messages[:first], example.messages[first:]
        if len(prompt) == len(completion) == 1:
            return {"prompt": prompt[0]["content"], "completion": completion[0]["content"]}
        return {"prompt": _plain(prompt), "completion": _plain(completion)}

    def _part(self, row: Fields, name: str, role: str) -> list[Message]:
        if not isinstance(row.values.get(name), list):
            return [{"role": role, "content": row.text(name)}]
        items = row.objects(name)
        for item in items:
            item.only("role", "content")
        return [_message(item) for item in items]


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [dict(message) for message in messages]


def _message(item: Fields) -> Message:
    item.only("role", "content", "weight")
    role = item.text("role")
    if role not in _ROLES:
        advice = f"; {_OTHER_ROLES[role]}" if role in _OTHER_ROLES else ""
        item.refuse("role", f"expected one of {', '.join(_ROLES)}, found {role!r}{advice}")
    return {"role": role, "content": item.text("content")}


def _weight(item: Fields) -> bool:
    """False for an answer that is not learnt."""
    if (weight := item.values.get("weight")) is None:
        return True
    if isinstance(weight, bool) or weight not in (0, 1):
        item.refuse("weight", f"expected 0 or 1, found {weight!r}")
    if item.values["role"] != "assistant":
        item.refuse("weight", "only an answer of the assistant has a weight; remove it")
    return bool(weight)
