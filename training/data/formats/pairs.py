"""Rows of one question and one answer: question/answer, and Alpaca's instruction/input/output."""

from __future__ import annotations

from typing import Any

from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Example
from hotswap.training.data.formats.fields import Fields, cannot_say, conversation


class QuestionAnswer:
    """`{"question": …, "answer": …}`"""

    name = "question-answer"
    signs = ("question", "answer")

    def read(self, row: Fields) -> Example:
        row.only("question", "answer")
        return _pair(row, None, row.text("question"), row.text("answer"), "question")

    def write(self, example: Example) -> dict[str, Any]:
        system, question, answer = one_turn(example, self.name)
        if system is not None:
            cannot_say(example, "a system message", self.name)
        return {"question": question, "answer": answer}


class Alpaca:
    """`{"instruction": …, "input": …, "output": …}`, with a `system` where a row has one.

    The question is instruction and input with a line break between them; it is written back as
    instruction alone.
    """

    name = "alpaca"
    signs = ("instruction", "output")

    def read(self, row: Fields) -> Example:
        row.only("instruction", "input", "output", "system")
        question = row.text("instruction")
        if (more := row.text_or_none("input")) is not None:
            question = f"{question}\n{more}"
        system = row.text_or_none("system")
        return _pair(row, system, question, row.text("output"), "instruction")

    def write(self, example: Example) -> dict[str, Any]:
        system, question, answer = one_turn(example, self.name)
        if system == "":
            cannot_say(example, "an empty system message", self.name)
        row = {"instruction": question, "input": "", "output": answer}
        return row if system is None else {**row, "system": system}


def one_turn(example: Example, target: str) -> tuple[str | None, str, str]:
    """System message, question and answer of an example that has no more than these."""
    messages = list(example.messages)
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
    if [message["role"] for message in messages] != ["user", "assistant"]:
        cannot_say(example, f"{len(messages)} messages in turn", target)
    return system, messages[0]["content"], messages[1]["content"]


def _pair(row: Fields, system: str | None, question: str, answer: str, field: str) -> Example:
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return conversation(row.place, messages, lambda _: field)
