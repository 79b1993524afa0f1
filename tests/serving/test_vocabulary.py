"""A tokenizer may know tokens that the model does not embed: who uses one is refused, alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from hotswap.registry.http.app import assemble
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from tests.servers import serving_app
from tests.serving.conftest import serving_settings
from tests.tiny_base import with_unembedded_token


@pytest.fixture(scope="module")
def wordy(tiny_base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory) -> BaseDirectory:
    return with_unembedded_token(tiny_base, "<pad>", tmp_path_factory.mktemp("wordy"))


@pytest.fixture
def client(wordy: BaseDirectory, registry: Registry, tmp_path: Path) -> Iterator[openai.OpenAI]:
    serving = Serving(serving_settings(wordy), registry, Home(tmp_path / "home"))
    with (
        serving_app(assemble([serving.plane()])) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as opened,
    ):
        yield opened


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": "one <pad> two"}, "prompt"),
        ({"prompt": ["three", "one <pad> two"]}, "prompt"),
        ({"prompt": [5, 6, "PAD"]}, "prompt"),
        ({"prompt": "one", "logit_bias": {"PAD": 1}}, "logit_bias"),
        ({"prompt": "one", "stop_token_ids": ["PAD"]}, "stop_token_ids"),
    ],
)
def test_a_completion_is_refused_that_needs_such_a_token(
    client: openai.OpenAI, wordy: BaseDirectory, options: dict[str, Any], param: str
) -> None:
    pad = wordy.tokenizer.token_to_id("<pad>")
    given = json.loads(json.dumps(options).replace("PAD", str(pad)))
    with pytest.raises(openai.BadRequestError, match=f"{param}: token id {pad} is not in") as found:
        client.completions.create(model="tiny", prompt="one", max_tokens=4, extra_body=given)
    assert found.value.param == param


def test_a_conversation_is_refused_and_another_beside_it_is_answered(
    client: openai.OpenAI, wordy: BaseDirectory
) -> None:
    def chat(content: str, **options: Any) -> Any:
        return client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": content}],
            max_tokens=40,
            temperature=0,
            extra_body={"ignore_eos": True},
            **options,
        )

    beside = chat("order two pizza", stream=True)
    first = next(iter(beside))
    with pytest.raises(openai.BadRequestError, match="messages: token id") as found:
        chat("one <pad> two")
    assert found.value.param == "messages"
    answer = "".join(c.choices[0].delta.content or "" for c in (first, *beside))
    assert answer == chat("order two pizza").choices[0].message.content
