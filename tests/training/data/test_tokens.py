from __future__ import annotations

from hotswap.registry.domain.prompts import Normaliser, PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.rendering import render
from hotswap.training.batches import batches, collate, micro_batches
from hotswap.training.data.example import Example, Place
from hotswap.training.data.tokens import tokenize
from hotswap.training.errors import InvalidData
from tests.refusals import refused
from tests.training.rows import examples_of, tokenized

CHAT = (
    {"role": "user", "content": "one two"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "four"},
    {"role": "assistant", "content": "five fox"},
)


def ids_of(text: str, base: BaseDirectory) -> list[int]:
    return list(base.tokenizer.encode(text, add_special_tokens=False).ids)


def test_the_prompt_is_the_rendered_text_in_tokens(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    (example,) = examples_of([{"question": "one two", "answer": "three"}])

    row = tokenize(example, prompt, base.tokenizer)

    rendered = ids_of(render(prompt, example.messages[:1]), base)
    assert list(row.ids[: len(rendered)]) == rendered
    assert "Count." in base.tokenizer.decode(rendered)


def test_only_the_answer_and_its_end_token_are_supervised(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    (example,) = examples_of([{"question": "one two", "answer": "three four"}])

    row = tokenize(example, prompt, base.tokenizer)

    learnt = [i for i, supervised in zip(row.ids, row.supervised, strict=True) if supervised]
    assert learnt == [*ids_of("three four", base), base.tokenizer.token_to_id("<|im_end|>")]


def test_the_end_token_has_a_label_though_it_is_the_padding_token(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(3, prompt, base)
    end_id = int(base.tokenizer.token_to_id("<|im_end|>"))

    batch = collate(rows, pad_id=end_id)

    assert len({len(row.ids) for row in rows}) > 1  # so there is padding
    assert batch.targets.tolist().count(end_id) == len(rows)
    assert batch.num_supervised == sum(row.num_supervised for row in rows)


def test_a_target_stands_one_place_behind_its_state(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    batch = collate(tokenized(4, prompt, base), pad_id=2)

    assert (batch.ids[batch.row_index, batch.position + 1] == batch.targets).all()


def test_every_answer_of_a_chat_is_supervised_in_the_context_serving_gives_it(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    row = tokenize(Example(CHAT, Place("chat.jsonl", 1)), prompt, base.tokenizer)

    end = base.tokenizer.token_to_id("<|im_end|>")
    first = ids_of(render(prompt, CHAT[:1]), base)
    second = ids_of(render(prompt, CHAT[:3]), base)
    assert list(row.ids) == [*second, *ids_of("five fox", base), end]
    learnt = [i for i, supervised in zip(row.ids, row.supervised, strict=True) if supervised]
    assert learnt == [*ids_of("three", base), end, *ids_of("five fox", base), end]
    assert row.supervised.index(True) == len(first)


def test_a_template_that_drops_earlier_answers_is_refused(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    forgetful = prompt.model_copy(
        update={
            "chat_template": "{% for m in messages if m['role'] != 'assistant' %}"
            "{{ m['content'] }}<|im_end|>{% endfor %}"
        }
    )

    with refused(InvalidData, "chat.jsonl:7", "messages[3]"):
        tokenize(Example(CHAT, Place("chat.jsonl", 7)), forgetful, base.tokenizer)


def test_the_normaliser_is_applied_in_training_too(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    tidy = prompt.model_copy(update={"normaliser": Normaliser.WHITESPACE})
    clean, untidy = examples_of(
        [{"question": "one two", "answer": "x"}, {"question": "  one\t two ", "answer": "x"}]
    )

    assert tokenize(clean, tidy, base.tokenizer).ids == tokenize(untidy, tidy, base.tokenizer).ids


def test_an_epoch_holds_every_row_once_in_a_seeded_order(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(50, prompt, base)

    first = batches(rows, 8, seed=1, epoch=0)

    assert sorted(row.place.line for batch in first for row in batch) == list(range(1, 51))
    assert first == batches(rows, 8, seed=1, epoch=0)
    assert first != batches(rows, 8, seed=1, epoch=1)
    assert first != batches(rows, 8, seed=2, epoch=0)


def test_micro_batches_hold_every_row_and_at_most_their_tokens(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(20, prompt, base)

    passes = micro_batches(rows, 100)

    assert sorted(row.place.line for p in passes for row in p) == list(range(1, 21))
    assert len(passes) > 1
    assert all(len(p) * max(len(row.ids) for row in p) <= 100 for p in passes)


def test_a_row_above_the_token_limit_has_a_pass_of_its_own(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    assert [len(p) for p in micro_batches(tokenized(3, prompt, base), 1)] == [1, 1, 1]
