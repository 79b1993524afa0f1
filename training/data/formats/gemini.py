"""Gemini's supervised tuning rows:

{"systemInstruction": {"role", "parts": [{"text"}]}, "contents": [{"role", "parts": [{"text"}]}]}
"""

from __future__ import annotations

from typing import Any

from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Example
from hotswap.training.data.formats.fields import Fields, cannot_say, conversation

_ROLES = {"user": "user", "model": "assistant"}
_NAMES = {ours: theirs for theirs, ours in _ROLES.items()}


class Gemini:
    """The parts of a message are joined as they are; parts that are no text are refused."""

    name = "gemini"
    signs = ("contents", "systemInstruction")

    def read(self, row: Fields) -> Example:
        row.only("systemInstruction", "contents")
        messages = [_message(item) for item in row.objects("contents")]
        shift = 0
        if "systemInstruction" in row.values:
            instruction = row.object("systemInstruction")
            instruction.only("role", "parts")
            messages.insert(0, {"role": "system", "content": _joined(instruction)})
            shift = 1
        return conversation(row.place, messages, lambda i: f"contents[{i - shift}].role")

    def write(self, example: Example) -> dict[str, Any]:
        if example.context:
            cannot_say(example, "that an answer is not learnt", self.name)
        messages = list(example.messages)
        row: dict[str, Any] = {}
        if messages[0]["role"] == "system":
            row["systemInstruction"] = _written("system", messages.pop(0)["content"])
        row["contents"] = [_written(_NAMES[m["role"]], m["content"]) for m in messages]
        return row


def _message(item: Fields) -> Message:
    item.only("role", "parts")
    role = item.text("role")
    if role not in _ROLES:
        item.refuse("role", f"expected one of {', '.join(_ROLES)}, found {role!r}")
    return {"role": _ROLES[role], "content": _joined(item)}


def _joined(item: Fields) -> str:
    parts = item.objects("parts", "parts")
    for part in parts:
        part.only("text")
    return "".join(part.text("text") for part in parts)


def _written(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text}]}
