"""Sampling options and log probabilities through the official openai client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.sequence import Delta
from hotswap.serving.http.app import Serving
from hotswap.serving.requests.token_text import TokenText
from tests.serving.conftest import MakeRunner
from tests.serving.sequences import make_sequence, run_to_end
from tests.serving.test_api import MESSAGES, chat, client, streamed, text_of, url

__all__ = ["client", "url"]


def content_of(choice: Any) -> list[Any]:
    return list(choice.logprobs.content)


def test_chat_logprobs_tell_every_token_with_its_bytes(client: openai.OpenAI) -> None:
    completion = chat(client, "tiny", logprobs=True, top_logprobs=3)
    content = content_of(completion.choices[0])
    assert len(content) == completion.usage.completion_tokens
    whole = b"".join(bytes(entry.bytes) for entry in content)
    assert whole.decode(errors="replace") == completion.choices[0].message.content
    for entry in content:
        assert entry.top_logprobs[0].token == entry.token
        assert len(entry.top_logprobs) == 3
        found = [top.logprob for top in entry.top_logprobs]
        assert found == sorted(found, reverse=True)
        assert found[0] == entry.logprob <= 0


def test_logprobs_without_a_number_tell_the_chosen_token_only(client: openai.OpenAI) -> None:
    content = content_of(chat(client, "tiny", logprobs=True).choices[0])
    assert [entry.top_logprobs for entry in content] == [[]] * len(content)
    assert chat(client, "tiny").choices[0].logprobs is None


def test_a_streams_logprobs_joined_are_the_whole_answers(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "n": 2, "temperature": 0.9}
    whole = chat(client, "tiny", seed=3, **options)
    joined: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in streamed(client, "tiny", seed=3, **options):
        (choice,) = chunk.choices
        joined[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert [joined[0], joined[1]] == [content_of(choice) for choice in whole.choices]


def test_logprobs_are_those_of_transformers(
    make_runner: MakeRunner, tiny_base: BaseDirectory
) -> None:
    deltas: list[Delta] = []
    prompt = list(tiny_base.tokenizer.encode("order two pizza").ids)
    sequence = make_sequence(prompt, max_tokens=10, logprobs=3, deltas=deltas)
    run_to_end(make_runner(), [sequence])  # in float32
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + sequence.output_ids])).logits[0, len(prompt) - 1 :]
    for delta, expected in zip(deltas, logits.log_softmax(-1), strict=False):
        assert delta.logprobs is not None
        found = dict(delta.logprobs.top)
        assert list(found) == expected.topk(3).indices.tolist()
        assert list(found.values()) == pytest.approx(expected.topk(3).values.tolist(), abs=1e-4)
        assert delta.logprobs.chosen == found[sequence.output_ids[deltas.index(delta)]]


def test_text_offsets_point_into_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="one two", max_tokens=30, temperature=0.8, seed=4, logprobs=1
    )
    choice = answer.choices[0]
    found = choice.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 30
    whole = 0
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice.text[offset : offset + len(token)] == token
            whole += 1
    assert whole > 10
    for token, logprob, top in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert top[token] == logprob
        assert 1 <= len(top) <= 2


def test_a_streams_text_logprobs_joined_are_the_whole_answers(client: openai.OpenAI) -> None:
    options: Any = {"model": "tiny", "prompt": ["one", "two"], "max_tokens": 8, "logprobs": 0}
    whole = client.completions.create(temperature=0, **options)
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for chunk in client.completions.create(temperature=0, stream=True, **options):
        (choice,) = chunk.choices
        offsets[choice.index] += choice.logprobs.text_offset if choice.logprobs else []
    assert [offsets[0], offsets[1]] == [choice.logprobs.text_offset for choice in whole.choices]


def test_echo_puts_the_prompt_before_the_answer(client: openai.OpenAI) -> None:
    options: Any = {"model": "tiny", "prompt": "order two", "max_tokens": 5, "temperature": 0}
    plain = client.completions.create(**options).choices[0].text
    echoed = client.completions.create(echo=True, **options).choices[0].text
    chunks = client.completions.create(echo=True, stream=True, **options)
    assert echoed == "order two" + plain
    assert "".join(chunk.choices[0].text for chunk in chunks) == echoed


def test_several_prompts_may_be_token_ids(client: openai.OpenAI) -> None:
    options: Any = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    both = client.completions.create(prompt=[[5, 6], [7, 8, 9]], **options)
    alone = [client.completions.create(prompt=p, **options) for p in ([5, 6], [7, 8, 9])]
    assert [c.text for c in both.choices] == [answer.choices[0].text for answer in alone]


def test_logit_bias_decides_between_tokens(client: openai.OpenAI, serving: Serving) -> None:
    wanted = int(serving.base.tokenizer.encode("fox").ids[-1])
    answer = chat(client, "tiny", logit_bias={str(wanted): 100}, max_tokens=3)
    word = serving.base.tokenizer.decode([wanted])
    assert answer.choices[0].message.content == word * 3


def test_penalties_make_an_answer_repeat_itself_less(client: openai.OpenAI) -> None:
    def num_distinct(**options: Any) -> int:
        completion = chat(client, "tiny", logprobs=True, max_tokens=60, **options)
        return len({entry.token for entry in content_of(completion.choices[0])})

    plain = num_distinct()
    assert num_distinct(frequency_penalty=2, presence_penalty=2) > plain
    assert num_distinct(extra_body={"repetition_penalty": 1.8}) > plain


def test_ignore_eos_ignores_the_models_end_and_not_the_requests_own(
    client: openai.OpenAI, serving: Serving
) -> None:
    (end,) = serving.base.stop_token_ids
    bias = {str(end): 100}
    ended = chat(client, "tiny", logit_bias=bias).choices[0]
    assert (ended.finish_reason, ended.message.content) == ("stop", "")
    ignoring = chat(client, "tiny", logit_bias=bias, extra_body={"ignore_eos": True})
    assert ignoring.choices[0].finish_reason == "length"
    own = {"ignore_eos": True, "stop_token_ids": [end]}
    assert chat(client, "tiny", logit_bias=bias, extra_body=own).choices[0].finish_reason == "stop"


def test_min_tokens_holds_the_end_back(client: openai.OpenAI, serving: Serving) -> None:
    (end,) = serving.base.stop_token_ids
    completion = chat(
        client, "tiny", logit_bias={str(end): 100}, extra_body={"min_tokens": 5}, max_tokens=9
    )
    assert completion.usage.completion_tokens == 5
    assert completion.choices[0].finish_reason == "stop"


def test_every_chunk_has_a_usage_field_when_usage_is_asked_for(client: openai.OpenAI) -> None:
    *chunks, last = streamed(client, "tiny", stream_options={"include_usage": True})
    assert {chunk.usage for chunk in chunks} == {None}
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert last.usage.prompt_tokens_details.cached_tokens == 0


def test_null_means_the_default(client: openai.OpenAI) -> None:
    nulls = {"presence_penalty": None, "logit_bias": None, "top_k": None, "min_p": None}
    body: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 6}
    raw = client.post("/chat/completions", cast_to=object, body={**body, "temperature": 0, **nulls})
    assert raw["choices"][0]["message"]["content"] == text_of(client, "tiny", max_tokens=6)  # type: ignore[index]


@pytest.mark.parametrize("text", ["naïve café 🦊 says", "tabs\tand\nlines", "中文 and more", ""])
def test_the_bytes_of_a_texts_tokens_joined_are_the_text(
    tiny_base: BaseDirectory, text: str
) -> None:
    words = TokenText(tiny_base.tokenizer)
    ids = tiny_base.tokenizer.encode(text).ids
    assert b"".join(words.bytes_of(token_id) for token_id in ids).decode() == text


def test_bytes_of_a_sentencepiece_tokenizer_with_byte_fallback(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    vocab = {"<unk>": 0, "▁hello": 1, "<0xF0>": 2, "<0x9F>": 3, "<0xA6>": 4, "<0x8A>": 5}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    words = TokenText(tokenizer)
    assert b"".join(words.bytes_of(i) for i in (1, 2, 3, 4, 5)).decode() == " hello🦊"
    assert not words.is_special(1)


def test_health_counts_guesses_and_those_that_were_right(client: openai.OpenAI, url: str) -> None:
    bias = {"5": 100}
    looping: Any = {"model": "tiny", "prompt": [5, 6] * 20, "max_tokens": 30}
    client.completions.create(**looping, temperature=0)
    found = httpx.get(f"{url}/health").json()["serving"]["speculation"]
    assert found["guessed"] >= found["accepted"] >= 0
    client.completions.create(**looping, temperature=0, logit_bias=bias)
    assert httpx.get(f"{url}/health").json()["serving"]["speculation"] == found
