"""The HTTP API through the official openai client, against a real server on the tiny base."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.engine.sequence import Batch, NextToken, Sequence
from hotswap.serving.http.app import Serving
from hotswap.serving.rendering import render
from hotswap.serving.requests import inference
from tests.servers import serving_app
from tests.serving.conftest import push_adapter

TIMEOUT_S = 60
MESSAGES: list[Any] = [{"role": "user", "content": "order two pizza"}]


@pytest.fixture
def version(registry: Registry, adapter_dirs: list[Path]) -> AdapterVersion:
    return push_adapter(registry, "team/a", adapter_dirs[0])


@pytest.fixture
def url(serving: Serving, registry: Registry) -> Iterator[str]:
    with serving_app(assemble([registry_plane(registry), serving.plane()])) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def chat(client: openai.OpenAI, model: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=MESSAGES, **{"temperature": 0, "max_tokens": 12, **options}
    )


def until(holds: Callable[[], bool]) -> None:
    """Asks again and again; fails after TIMEOUT_S."""
    ends_at = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < ends_at


def sent(url: str, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request was sent and nothing read."""
    place, data = urlsplit(url), json.dumps(body).encode()
    connection = socket.create_connection((place.hostname or "", place.port or 0))
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def text_of(client: openai.OpenAI, model: str, **options: Any) -> str:
    return chat(client, model, **options).choices[0].message.content


def streamed(client: openai.OpenAI, model: str, **options: Any) -> list[Any]:
    return list(chat(client, model, stream=True, **options))


def test_an_answer_names_the_version_and_digest_that_produced_it(
    client: openai.OpenAI, version: AdapterVersion
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="team/a", messages=MESSAGES, max_tokens=4, temperature=0
    )
    digest = str(version.manifest_digest)
    assert raw.headers["x-hotswap-version"] == "team/a:1"
    assert raw.headers["x-hotswap-digest"] == digest
    completion = raw.parse()
    assert completion.model_extra["hotswap"] == {
        "base": "tiny",
        "version": "team/a:1",
        "digest": digest,
        "adapters": [{"version": "team/a:1", "digest": digest, "scale": 1.0}],
    }
    assert completion.model == "team/a"


def test_the_base_answers_without_a_version(client: openai.OpenAI) -> None:
    assert chat(client, "tiny").model_extra["hotswap"]["version"] is None


def test_adapter_and_base_answer_differently(
    client: openai.OpenAI, version: AdapterVersion
) -> None:
    assert text_of(client, "team/a@prod") != text_of(client, "tiny")


def test_a_stream_joined_is_the_whole_answer(
    client: openai.OpenAI, version: AdapterVersion
) -> None:
    chunks = streamed(client, "team/a")
    joined = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert joined == text_of(client, "team/a")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks][-1] == "length"
    assert {c.model_extra["hotswap"]["version"] for c in chunks} == {"team/a:1"}


def test_a_stream_reports_usage_when_asked(client: openai.OpenAI) -> None:
    *_, last = streamed(client, "tiny", stream_options={"include_usage": True})
    assert last.choices == []
    usage = chat(client, "tiny").usage
    assert last.usage.prompt_tokens_details.cached_tokens == 0
    assert usage.prompt_tokens_details.cached_tokens == (usage.prompt_tokens - 1) // PAGE * PAGE > 0
    assert last.usage.total_tokens == usage.total_tokens
    assert last.usage.completion_tokens == usage.completion_tokens


def test_usage_counts_the_tokens(client: openai.OpenAI, serving: Serving) -> None:
    usage = chat(client, "tiny", max_tokens=7).usage
    prompt = render(serving.base.prompt_format(), MESSAGES)
    assert usage.prompt_tokens == len(serving.base.tokenizer.encode(prompt).ids)
    assert (usage.completion_tokens, usage.total_tokens) == (7, usage.prompt_tokens + 7)


def test_n_answers_come_back_in_order(client: openai.OpenAI) -> None:
    completion = chat(client, "tiny", n=3, temperature=1.0, seed=5)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in completion.choices]
    assert texts[1] == text_of(client, "tiny", temperature=1.0, seed=6)


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    whole = text_of(client, "tiny", max_tokens=20)
    stop = whole[5:8]
    completion = chat(client, "tiny", max_tokens=20, stop=[stop])
    assert completion.choices[0].message.content == whole[: whole.index(stop)]
    assert completion.choices[0].finish_reason == "stop"


def test_text_completions_take_text_and_token_ids(
    client: openai.OpenAI, serving: Serving, version: AdapterVersion
) -> None:
    ids = list(serving.base.tokenizer.encode("order two").ids)
    answers = [
        client.completions.create(model="team/a", prompt=prompt, max_tokens=8, temperature=0)
        for prompt in ("order two", ids)
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text
    assert answers[0].usage.prompt_tokens == len(ids)


def test_text_completions_stream_several_prompts(client: openai.OpenAI) -> None:
    chunks = client.completions.create(
        model="tiny", prompt=["one", "two"], max_tokens=4, temperature=0, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    alone = [
        client.completions.create(model="tiny", prompt=p, max_tokens=4, temperature=0)
        for p in ("one", "two")
    ]
    assert [texts[0], texts[1]] == [completion.choices[0].text for completion in alone]


def test_models_lists_the_base_and_every_alias(
    client: openai.OpenAI, version: AdapterVersion
) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "team/a", "team/a@prod"]


def test_one_model_can_be_looked_up_by_reference(
    client: openai.OpenAI, version: AdapterVersion
) -> None:
    model = client.models.retrieve("team/a@prod")
    assert model.model_extra["digest"] == str(version.manifest_digest)


@pytest.mark.parametrize(
    ("model", "error", "code", "words"),
    [
        ("team/unknown", openai.NotFoundError, "adapter_not_found", "'team/unknown'"),
        ("team/a@nowhere", openai.NotFoundError, "alias_not_found", "'nowhere'; it has prod"),
        ("team/a:7", openai.NotFoundError, "version_not_found", "no version 7"),
        ("No Such", openai.BadRequestError, "invalid_reference", "'No Such'"),
    ],
)
def test_a_wrong_model_is_the_clients_own_error_class(
    client: openai.OpenAI,
    version: AdapterVersion,
    model: str,
    error: type[openai.APIStatusError],
    code: str,
    words: str,
) -> None:
    for is_stream in (False, True):
        with pytest.raises(error) as caught:
            chat(client, model, stream=is_stream)
        assert caught.value.code == code
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 100000}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"presence_penalty": 2.5}, "presence_penalty: .* less than or equal to 2, found 2.5"),
        ({"top_logprobs": 3}, "top_logprobs is 3, which needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: .* less than or equal to 20"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5: .* less than or equal to 100"),
        ({"logit_bias": {"99999": 1}}, "logit_bias: token id 99999 is not in the vocabulary"),
        ({"extra_body": {"stop_token_ids": [-1]}}, "stop_token_ids: token id -1 is not in"),
        ({"extra_body": {"min_tokens": 13}}, "min_tokens is 13, but the answer may have 12"),
        ({"extra_body": {"min_p": 1.5}}, "min_p: .* less than or equal to 1"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty: .* greater than 0"),
        ({"stop": list("abcde")}, "5 stop strings were given; at most 4"),
        ({"extra_body": {"beam_width": 4}}, "beam_width"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        chat(client, "tiny", **options)


def test_a_client_that_leaves_a_stream_frees_the_engine(
    client: openai.OpenAI, serving: Serving, url: str
) -> None:
    stream = chat(client, "tiny", stream=True, max_tokens=400)
    next(iter(stream))
    stream.close()
    assert text_of(client, "tiny", max_tokens=2) is not None
    for _ in range(1000):
        if httpx.get(f"{url}/health").json()["serving"]["running"] == 0:
            break
    health = httpx.get(f"{url}/health").json()["serving"]
    assert health["running"] == 0
    assert health["steps"] < 400


@pytest.mark.parametrize("stream", [True, False])
def test_requests_whose_clients_left_before_a_token_are_never_computed(
    url: str,
    serving: Serving,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    num_left, computed = 20, set[int]()
    aborted, may_run = threading.Semaphore(0), threading.Event()
    execute, abort = serving.runner.execute, serving.engine.abort

    def recorded(batch: Batch) -> list[list[NextToken]]:
        assert may_run.wait(TIMEOUT_S)
        computed.update(len(work.sequence.prompt_ids) for work in batch.works)
        return execute(batch)

    def counted(sequence: Sequence) -> None:
        abort(sequence)
        aborted.release()

    monkeypatch.setattr(serving.runner, "execute", recorded)
    monkeypatch.setattr(serving.engine, "abort", counted)
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    staying = {"model": "tiny", "prompt": [5] * 3, "max_tokens": 2}
    leaving = {"model": "tiny", "prompt": [5] * 7, "max_tokens": 2, "stream": stream}
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, timeout=TIMEOUT_S) as http:
        stays = pool.submit(http.post, "/v1/completions", json=staying)
        until(lambda: http.get("/health").json()["serving"]["running"] == 1)
        sockets = [sent(url, "/v1/completions", leaving) for _ in range(num_left)]
        until(lambda: http.get("/health").json()["serving"]["waiting"] == num_left)
        for connection in sockets:
            connection.close()
        for _ in sockets:
            assert aborted.acquire(timeout=TIMEOUT_S)
        may_run.set()
        assert stays.result().json()["usage"]["completion_tokens"] == 2
        until(lambda: not serving.engine.is_busy())
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert computed == {3}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_usage_counts_no_token_behind_the_stop_string(
    client: openai.OpenAI, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(client, "tiny", max_tokens=40)
    stop = text[3:6]
    wanted = next(n for n in range(1, 41) if stop in text_of(client, "tiny", max_tokens=n))
    deaf = threading.Event()
    monkeypatch.setattr(serving.engine, "abort", lambda _: deaf.set())  # as late as it can be heard
    stopped = chat(client, "tiny", max_tokens=40, stop=[stop])
    assert deaf.is_set()
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.usage.completion_tokens == wanted


def test_a_prompt_beyond_the_context_is_refused_by_its_bytes(
    client: openai.OpenAI, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither template nor tokenizer looks at it."""
    monkeypatch.setattr(inference, "render", lambda *_: pytest.fail("it was rendered"))
    text = "é" * (serving.inference.max_prompt_bytes // 2 + 1)
    for ask in (
        lambda: client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": text}]
        ),
        lambda: client.completions.create(model="tiny", prompt=["order", text]),
    ):
        with pytest.raises(openai.BadRequestError) as refusal:
            ask()
        assert refusal.value.code == "context_length_exceeded"
        assert refusal.value.param in ("messages", "prompt")


def test_templates_and_the_tokenizer_run_off_the_event_loop(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_loop: list[bool] = []

    def watched(prompt: PromptFormat, messages: list[Any]) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            on_loop.append(False)
        else:
            on_loop.append(True)
        return render(prompt, messages)

    monkeypatch.setattr(inference, "render", watched)
    chat(client, "tiny", max_tokens=1)
    assert on_loop == [False]


@pytest.mark.parametrize(
    "template", ["{{ 1/0 }}", "{{ messages.x.y }}", "{{ [] + {} }}", "{{ range(10**9) | list }}"]
)
def test_a_template_that_fails_is_a_bad_request_of_its_adapter(
    client: openai.OpenAI, registry: Registry, adapter_dirs: list[Path], template: str
) -> None:
    bundle = Bundle.read(adapter_dirs[0])
    prompt = PromptFormat(chat_template=template, end_of_turn="<|im_end|>")
    manifest = bundle.manifest().model_copy(update={"prompt": prompt})
    push(registry, "team/bad", bundle, manifest, by="tests", alias="prod")
    with pytest.raises(openai.BadRequestError) as refusal:
        chat(client, "team/bad")
    assert refusal.value.code == "invalid_prompt"
    assert "team/bad:1" in refusal.value.message
    assert text_of(client, "tiny", max_tokens=2)


def test_more_prompts_than_may_ever_wait_are_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt=["order"] * 5000, max_tokens=1)
    assert client.completions.create(model="tiny", prompt=["order"] * 3, max_tokens=1).usage


def test_health_names_base_quantization_and_loaded_adapters(
    client: openai.OpenAI, url: str, version: AdapterVersion
) -> None:
    chat(client, "team/a")
    health = httpx.get(f"{url}/health").json()
    assert health["planes"] == ["registry", "serving"]
    assert health["serving"]["base"] == "tiny"
    assert health["serving"]["quantization"] == "int8"
    assert health["serving"]["loaded_adapters"] == [str(version.manifest_digest)]
