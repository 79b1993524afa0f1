"""What of a row is compared when rows are looked for that are the same, or nearly."""

from __future__ import annotations

from training.data.formats import Example
from training.data.near import key


def input_key(example: Example) -> str:
    """Of all messages before the last answer."""
    return "\n".join(f"{m['role']} {key(m['content'])}" for m in example.messages[:-1])


def input_text(example: Example) -> str:
    """What users say before the last answer."""
    said = (m["content"] for m in example.messages[:-1] if m["role"] == "user")
    return "\n".join(said)
