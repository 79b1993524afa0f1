"""What is untidy in single rows: empty texts, white space, letter case, personal data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from hotswap.training.data.checks.findings import Finding, Places, error, warning
from hotswap.training.data.example import Example
from hotswap.training.data.personal import personal_data
from hotswap.training.data.texts import structure_of

# A set with fewer texts has no usual case; a smaller share of others is left to chance.
MIN_JUDGED = 20
MIN_CASE_SHARE = 0.01
_MAX_STRUCTURED_SHARE = 0.05
_NUM_SAMPLED = 200

_COLUMNS = {"user": ("questions", "question"), "assistant": ("answers", "answer")}
_FORMS = {"small": "no capital letters", "capital": "only capital letters", "mixed": "both cases"}


def check_tidiness(examples: Sequence[Example], judged: Sequence[str]) -> Iterator[Finding]:
    """Of the rows of one file; letter case of the messages of the roles that are `judged`."""
    untidy: dict[str, Places] = defaultdict(Places)
    cases = {role: _Cases() for role in judged}
    for example in examples:
        yield from _empty(example)
        yield from _personal(example)
        for role, (name, _) in _COLUMNS.items():
            texts = example.texts_of(role)
            if any(map(_is_untidy, texts)):
                untidy[name].add(example.place)
            if role in cases:
                for text in texts:
                    cases[role].add(text, example)
    for name, places in untidy.items():
        text = f"{name} with white space at an end, or doubled: {places}"
        yield warning("white_space", places.first, text)
    for role, spellings in cases.items():
        yield from spellings.findings(role)


def _empty(example: Example) -> Iterator[Finding]:
    if not all(answer.strip() for answer in example.answers):
        yield error("empty_answer", example.place, "the answer is empty")
    if not all(question.strip() for question in example.texts_of("user")):
        yield warning("empty_question", example.place, "the question is empty")


def _personal(example: Example) -> Iterator[Finding]:
    text = "\n".join(message["content"] for message in example.messages)
    for kind in personal_data(text):
        yield warning(
            "personal_data", example.place, f"holds what looks like personal data: {kind}"
        )


class _Cases:
    """How the letters of a column's texts are written. What is JSON, SQL or code is not judged,
    and texts without any difference between small and capital letters neither."""

    def __init__(self) -> None:
        self._places: dict[str, Places] = defaultdict(Places)
        self._structured: Counter[bool] = Counter()

    def add(self, text: str, example: Example) -> None:
        small = text.lower()
        if small == (capital := text.upper()):
            return
        if self._structured.total() < _NUM_SAMPLED:
            self._structured[structure_of(text) is not None] += 1
        self._places[_form(text, small, capital)].add(example.place)

    def findings(self, role: str) -> Iterator[Finding]:
        total = sum(places.count for places in self._places.values())
        structured = self._structured[True] > _MAX_STRUCTURED_SHARE * self._structured.total()
        if total < MIN_JUDGED or structured:
            return
        usual, *others = sorted(self._places, key=lambda form: -self._places[form].count)
        for form in others:
            places = self._places[form]
            if places.count >= MIN_CASE_SHARE * total:
                name, column = _COLUMNS[role]
                yield warning(
                    "casing",
                    places.first,
                    f"{places.count} of {total} {name} have {_FORMS[form]} and"
                    f" {self._places[usual].count} {_FORMS[usual]} ({places}); `--lower {column}`"
                    " makes them alike",
                )


def _form(text: str, small: str, capital: str) -> str:
    if text == small:
        return "small"
    return "capital" if text == capital else "mixed"


def _is_untidy(text: str) -> bool:
    return bool(text.strip()) and (text != text.strip() or "  " in text)
