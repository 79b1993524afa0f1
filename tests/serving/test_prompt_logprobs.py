"""What the model thought of a prompt's own tokens: from the runner, and through the API."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.scheduler import Admission, Scheduler
from hotswap.serving.settings import Kernels, Quantization
from tests.serving.conftest import MakeRunner
from tests.serving.sequences import LIMITS, make_sequence, random_prompt, run_to_end
from tests.serving.test_api import client, url

__all__ = ["client", "url"]

CACHED = replace(LIMITS, is_cut_invariant=True, enable_prefix_caching=True)


def test_prompt_logprobs_are_those_of_transformers_however_the_prompt_is_cut(
    make_runner: MakeRunner, tiny_base: BaseDirectory
) -> None:
    rng = random.Random(1)
    prompts = [random_prompt(rng, 300, 70) for _ in range(4)]
    told = [make_sequence(prompt, max_tokens=3, prompt_logprobs=2) for prompt in prompts]
    others = [make_sequence(prompt, max_tokens=3) for prompt in prompts]
    run_to_end(make_runner(), [*told, *others])  # in float32
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float32)

    for sequence, plain in zip(told, others, strict=True):
        ids = torch.tensor(sequence.prompt_ids)
        with torch.inference_mode():
            expected = model(ids[None]).logits[0].log_softmax(-1)
        assert len(sequence.prompt_logprobs) == len(ids) - 1
        for at, found in enumerate(sequence.prompt_logprobs):
            assert found.chosen == pytest.approx(float(expected[at, ids[at + 1]]), abs=1e-4)
            assert [i for i, _ in found.top] == expected[at].topk(2).indices.tolist()
        assert sequence.output_ids == plain.output_ids
        assert plain.prompt_logprobs == []


def test_a_prompt_is_told_of_once_and_whole_with_pages_in_the_cache_and_after_a_preemption(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(Kernels.NATIVE, Quantization.INT8)
    rng = random.Random(2)
    prompt = [rng.randrange(3, 300) for _ in range(100)]
    alone = make_sequence(prompt, max_tokens=30, prompt_logprobs=1)
    run_to_end(runner, [alone], CACHED)
    limits = replace(CACHED, num_pages=16)  # one needs up to 9
    crowd = [make_sequence(prompt, max_tokens=30, prompt_logprobs=1) for _ in range(4)]
    scheduler = Scheduler(limits)
    for sequence in crowd:
        scheduler.add(sequence)

    while batch := scheduler.schedule(lambda _: Admission.ADMITTED):
        for work, tokens in zip(batch.works, runner.execute(batch), strict=True):
            if any(delta.is_last for delta in work.advance(tokens)):
                scheduler.remove(work.sequence)

    assert scheduler.num_preemptions
    for sequence in crowd:
        assert sequence.num_cached == 0
        assert sequence.prompt_logprobs == alone.prompt_logprobs
        assert len(sequence.prompt_logprobs) == len(prompt) - 1


def test_the_stop_token_is_told_only_with_the_prompts_log_probabilities(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    free = make_sequence([5, 6, 7], max_tokens=4)
    run_to_end(runner, [free])
    stop = {"stop_token_ids": frozenset(free.output_ids[:1]), "logprobs": 0}
    told, silent = [], []

    run_to_end(
        runner,
        [
            make_sequence([5, 6, 7], deltas=told, prompt_logprobs=0, **stop),
            make_sequence([5, 6, 7], deltas=silent, **stop),
        ],
    )

    assert [delta.end_id for delta in told] == free.output_ids[:1]
    assert told[0].logprobs is not None
    assert [(delta.end_id, delta.logprobs) for delta in silent] == [(None, None)]


def scored(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    """The way an evaluation harness asks for the likelihood of a text."""
    return client.completions.create(
        model="tiny",
        prompt=prompt,
        **{"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, **options},
    )


def test_an_echoed_prompt_has_log_probabilities_but_for_its_first_token(
    client: openai.OpenAI, tiny_base: BaseDirectory
) -> None:
    ids = tiny_base.tokenizer.encode("order two quick pizza").ids
    choice = scored(client, "order two quick pizza").choices[0]
    found = choice.logprobs

    assert [found.token_logprobs[0], found.top_logprobs[0]] == [None, None]
    assert all(value < 0 for value in found.token_logprobs[1:])
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(ids) + 1
    assert "".join(found.tokens[:-1]) == "order two quick pizza"
    for token, offset in zip(found.tokens[:-1], found.text_offset, strict=False):
        assert choice.text[offset : offset + len(token)] == token


def test_prompts_in_one_request_are_told_of_as_they_are_alone(client: openai.OpenAI) -> None:
    prompts = [[5, 6, 7, 8], [9, 10], [5, 6, 7, 8, 9, 10, 11]]

    together = scored(client, prompts)
    alone = [scored(client, prompt).choices[0] for prompt in prompts]

    assert [c.logprobs.token_logprobs for c in together.choices] == [
        c.logprobs.token_logprobs for c in alone
    ]


def test_a_streams_echoed_log_probabilities_joined_are_the_whole_answers(
    client: openai.OpenAI,
) -> None:
    whole = scored(client, "one two three", max_tokens=5, n=2).choices
    found: dict[int, list[Any]] = {0: [], 1: []}

    for chunk in scored(client, "one two three", max_tokens=5, n=2, stream=True):
        (choice,) = chunk.choices
        found[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []

    assert [found[0], found[1]] == [choice.logprobs.token_logprobs for choice in whole]
