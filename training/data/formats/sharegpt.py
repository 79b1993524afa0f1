"""ShareGPT rows: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", …}]}`."""

from __future__ import annotations

from typing import Any

from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Example
from hotswap.training.data.formats.fields import Fields, cannot_say, conversation

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}


class ShareGpt:
    """A system message is the first of the conversation or stands beside it in `system`; the
    row's `id` is passed over."""

    name = "sharegpt"
    signs = ("conversations",)

    def read(self, row: Fields) -> Example:
        row.only("conversations", "system", "id")
        messages = [_message(item) for item in row.objects("conversations")]
        shift = 0
        if (system := row.text_or_none("system")) is not None:
            messages.insert(0, {"role": "system", "content": system})
            shift = 1
        return conversation(row.place, messages, lambda i: f"conversations[{i - shift}].from")

    def write(self, example: Example) -> dict[str, Any]:
        if example.context:
            cannot_say(example, "that an answer is not learnt", self.name)
        return {
            "conversations": [
                {"from": _NAMES[m["role"]], "value": m["content"]} for m in example.messages
            ]
        }


def _message(item: Fields) -> Message:
    item.only("from", "value")
    role = item.text("from")
    if role not in _ROLES:
        item.refuse("from", f"expected one of {', '.join(_ROLES)}, found {role!r}")
    return {"role": _ROLES[role], "content": item.text("value")}
