"""From requests to a real server to rows to be labelled, and to a verdict on drift."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import openai
from click.testing import CliRunner

from hotswap.registry.cli import cli
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home, read_section
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.serving.settings import ServingSettings
from tests.servers import serving_app
from tests.serving.conftest import push_adapter, serving_settings

ITEMS = ("pizza", "burger", "salad", "soup", "pasta")
NUM_REQUESTS = 40


def order(generator: random.Random) -> str:
    number, item = generator.randrange(7), generator.choice(ITEMS)
    return f"please order {number} {item} for table {generator.randrange(9)}"


def ask(client: openai.OpenAI, model: str, question: str, *, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(
        model=model, messages=messages, max_tokens=4, stream=stream
    )
    if stream:
        assert list(answer)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, ["data", *(str(argument) for argument in arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_users_ask_becomes_rows_and_is_compared_with_the_training_set(
    registry: Registry, tiny_base: BaseDirectory, adapter_dirs: list[Path], tmp_path: Path
) -> None:
    for name, directory in (("team/orders", adapter_dirs[0]), ("team/clock", adapter_dirs[1])):
        push_adapter(registry, name, directory)
    log = tmp_path / "log"
    options = {
        **serving_settings(tiny_base).model_dump(exclude_defaults=True),
        "log_requests": "team/*",
        "request_log_directory": log,
        "request_log_mb": 0.05,
    }
    generator = random.Random(3)
    asked = [order(generator) for _ in range(NUM_REQUESTS)]
    train = tmp_path / "train.jsonl"
    rows = [{"question": order(generator), "answer": "ok"} for _ in range(300)]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))

    settings = read_section("serving", ServingSettings, options, environment={})
    serving = Serving(settings, registry, Home(tmp_path / "home"))
    with serving_app(assemble([registry_plane(registry), serving.plane()])) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            for number, question in enumerate(asked):
                ask(client, "team/orders", question, stream=bool(number % 2))
            for city in range(10):
                question = f"Wie spät ist es gerade in Stadt {city}? ann@example.org"
                ask(client, "team/clock", question, stream=False)
                ask(client, "tiny", "not to be kept", stream=False)
    assert serving.health()["request_log"] == {
        "written": NUM_REQUESTS + 10,
        "dropped": 0,
        "failed": 0,
    }

    out = tmp_path / "rows.jsonl"
    said = run("from-traffic", log, "--adapter", "team/orders", "--out", out)
    assert "left out: 10 of another adapter" in said
    written = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    assert [messages[0]["content"] for messages in written] == list(dict.fromkeys(asked))
    assert {messages[1]["content"] for messages in written} == {""}

    assert "verdict: ok" in run("drift", "--traffic", log / "team+orders", train)
    assert "verdict: ok" in run("drift", "--traffic", out, train)
    assert "verdict: foreign" in run("drift", "--traffic", log / "team+clock", train)
    said = run("from-traffic", log / "team+clock", "--out", tmp_path / "clock.jsonl", "--redact")
    assert "10 rows have what looks like personal data: e-mail (redacted)" in said
