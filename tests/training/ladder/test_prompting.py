from __future__ import annotations

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.rendering import render
from hotswap.training.data.example import Example, Place
from hotswap.training.data.tokens import encode, tokenize
from hotswap.training.errors import InvalidData
from hotswap.training.ladder.prompting import Context, Prompting, in_front
from tests.refusals import refused
from tests.training.rows import examples_of

SHOWN = examples_of([{"question": f"q{n} fox", "answer": f"a{n}"} for n in range(6)])
(ROW,) = examples_of([{"question": "What now?", "answer": "this"}])


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def context(base: BaseDirectory, prompt: PromptFormat, room: int) -> Context:
    return Context(prompt, base.tokenizer, max_model_len=room, max_tokens=4)


def contents(example: Example) -> list[str]:
    return [m["content"] for m in example.messages]


def test_examples_are_earlier_turns_and_are_not_learnt() -> None:
    found = in_front(ROW, SHOWN[:2], None)

    assert contents(found) == ["q0 fox", "a0", "q1 fox", "a1", "What now?", "this"]
    assert found.learnt == (5,)
    assert found.place == ROW.place


def test_a_given_system_prompt_takes_the_place_of_the_rows_own() -> None:
    own = Example(
        (
            message("system", "Old."),
            *(message("user", "u0"), message("assistant", "x")),
            *(message("user", "u1"), message("assistant", "y")),
        ),
        Place("x.jsonl", 1),
        frozenset({2}),
    )

    kept, changed = in_front(own, SHOWN[:1], None), in_front(own, SHOWN[:1], "New.")
    of_examples = in_front(ROW, [own], None)

    assert contents(kept) == ["Old.", "q0 fox", "a0", "u0", "x", "u1", "y"]
    assert contents(changed) == ["New.", *contents(kept)[1:]]
    assert kept.learnt == changed.learnt == (6,)
    assert contents(of_examples) == ["u0", "x", "u1", "y", "What now?", "this"]
    assert in_front(ROW, [], None) == ROW
    assert contents(in_front(ROW, [], "New.")) == ["New.", "What now?", "this"]


def test_the_supervised_tokens_are_the_same_on_every_rung(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    plain, shown = (
        tokenize(row, prompt, base.tokenizer) for row in (ROW, in_front(ROW, SHOWN, "New."))
    )

    def answer(row):
        return [i for i, is_answer in zip(row.ids, row.supervised, strict=True) if is_answer]

    assert answer(plain) == answer(shown)
    assert len(shown.ids) > len(plain.ids)


def test_the_nearest_example_stands_by_the_question(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    prompting = Prompting(choose=lambda _: SHOWN[:3], is_nearest_last=True)

    found, count = prompting.asked(ROW, context(base, prompt, 512))

    assert contents(found)[:6] == ["q2 fox", "a2", "q1 fox", "a1", "q0 fox", "a0"]
    assert count == 3


def test_a_prompt_shows_as_many_examples_as_the_context_holds(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    """Every length of context, beside counting one by one."""
    for is_nearest_last in (False, True):
        prompting = Prompting(None, lambda _: SHOWN, is_nearest_last)
        lengths = []
        for count in range(len(SHOWN) + 1):
            kept = SHOWN[:count][::-1] if is_nearest_last else SHOWN[:count]
            rendered = render(prompt, in_front(ROW, kept, None).messages[:-1])
            lengths.append(len(encode(rendered, base.tokenizer)))
        # 4 tokens of an answer are fewer than the reference, its end token and one that is told
        answer = max(4, len(encode("this", base.tokenizer)) + 2)
        for room in range(lengths[0] + answer, lengths[-1] + answer + 2):
            found, count = prompting.asked(ROW, context(base, prompt, room))
            assert count == sum(length + answer <= room for length in lengths[1:])
            shown = {content for content in contents(found) if content.startswith("q")}
            assert shown == {f"q{n} fox" for n in range(count)}


def test_a_row_that_does_not_fit_alone_is_refused(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    with refused(InvalidData, "rows.jsonl:1"):
        Prompting(None, lambda _: SHOWN).asked(ROW, context(base, prompt, 20))
