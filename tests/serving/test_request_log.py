"""The request log's files, and what a real server writes there for the official openai client."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.serving.requests.request_log import (
    CURRENT,
    MAX_QUEUED_BYTES,
    PREVIOUS,
    RequestLog,
    directory_name,
)
from hotswap.serving.settings import Kernels, ServingSettings
from tests.refusals import refused
from tests.servers import serving_app
from tests.serving.conftest import push_adapter, serving_settings

TIMEOUT_S = 60

MESSAGES: list[Any] = [
    {"role": "developer", "content": "Take orders."},
    {"role": "user", "content": [{"type": "text", "text": "order two pizza"}]},
]

OpenLog = Callable[..., RequestLog]


@pytest.fixture
def open_log(tmp_path: Path) -> OpenLog:
    def open_(directory: Path = tmp_path / "requests", **options: Any) -> RequestLog:
        given = {"patterns": ["*"], "sample_rate": 1.0, "max_bytes": 10**6, **options}
        return RequestLog(directory, **given)

    return open_


def write(log: RequestLog, name: str, rows: list[dict[str, Any]]) -> None:
    """Offers the rows one by one, and stops the log."""
    log.start()
    for row in rows:
        log.offer(name, lambda row=row: [row], num_rows=1, num_chars=0)
    log.stop()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_newest_rows_are_kept_within_the_bound(open_log: OpenLog, tmp_path: Path) -> None:
    write(open_log(max_bytes=4000), "team/a", [{"row": i, "text": "x" * 90} for i in range(100)])

    directory = tmp_path / "requests/team+a"
    kept = [row["row"] for name in (PREVIOUS, CURRENT) for row in rows_of(directory / name)]
    assert kept == list(range(kept[0], 100))
    sizes = [(directory / name).stat().st_size for name in (PREVIOUS, CURRENT)]
    assert max(sizes) <= 2000
    assert sum(sizes) > 2000
    assert sorted(path.name for path in directory.iterdir()) == [CURRENT, PREVIOUS]


def test_files_and_directories_are_for_their_owner_alone(open_log: OpenLog, tmp_path: Path) -> None:
    current = tmp_path / "requests/team+a/current.jsonl"
    write(open_log(), "team/a", [{}])
    current.chmod(0o644)
    write(open_log(), "team/a", [{}])
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (current, *current.parents[:2])}
    assert list(modes.values()) == [0o600, 0o700, 0o700]


def test_a_row_that_a_crash_cut_off_is_removed(open_log: OpenLog, tmp_path: Path) -> None:
    write(open_log(), "team/a", [{"row": 1}])
    current = tmp_path / "requests/team+a/current.jsonl"
    with current.open("a") as file:
        file.write('{"row": 2, "answ')
    write(open_log(), "team/a", [{"row": 3}])
    assert [row["row"] for row in rows_of(current)] == [1, 3]


def test_a_row_larger_than_a_file_and_what_does_not_fit_the_queue_are_counted(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(max_bytes=400)
    log.offer("team/a", list, num_rows=3, num_chars=MAX_QUEUED_BYTES)
    write(log, "team/a", [{"text": "x" * 300}, {"row": 2}])
    assert log.health() == {"written": 1, "dropped": 4, "failed": 0}
    assert rows_of(tmp_path / "requests/team+a/current.jsonl") == [{"row": 2}]


def test_an_offer_never_waits_for_the_disk(open_log: OpenLog, tmp_path: Path) -> None:
    """A pipe without a reader holds the log's thread up for good."""
    directory = tmp_path / "requests/team+a"
    directory.mkdir(parents=True)
    log = open_log()
    log.start()
    os.mkfifo(tmp_path / "pipe")
    log.offer("team/a", lambda: [{"at": (tmp_path / "pipe").read_text()}], num_rows=1, num_chars=0)
    for _ in range(100):
        log.offer("team/a", lambda: [{}], num_rows=1, num_chars=MAX_QUEUED_BYTES // 10)
    assert log.health() == {"written": 0, "dropped": 91, "failed": 0}
    (tmp_path / "pipe").write_text("go on")
    log.stop()
    assert log.health() == {"written": 10, "dropped": 91, "failed": 0}


def test_a_failure_is_counted_and_told_and_the_next_row_is_written(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log()
    (tmp_path / "requests/team+a").write_text("a file in the directory's place")
    (tmp_path / "requests/team+b").mkdir()
    (tmp_path / "requests/team+b/current.jsonl").symlink_to(tmp_path / "elsewhere")
    log.start()
    for name in ("team/a", "team/b", "team/c"):
        log.offer(name, lambda: [{}], num_rows=1, num_chars=0)
    log.stop()
    health = log.health()
    assert (health["written"], health["failed"]) == (1, 2)
    assert health["problem"] == "Too many levels of symbolic links"
    assert not (tmp_path / "elsewhere").exists()


def test_two_servers_do_not_share_a_directory(open_log: OpenLog) -> None:
    with closing_log(open_log()):
        with refused(InvalidSettings, "--request-log-directory"):
            open_log()
    open_log().stop()


def test_a_directory_that_cannot_be_made_is_named(open_log: OpenLog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(InvalidSettings, "file/log"):
        open_log(tmp_path / "file" / "log")


class closing_log(closing[RequestLog]):  # noqa: N801
    def __exit__(self, *_: object) -> None:
        self.thing.stop()


def test_the_sample_depends_on_the_request_id_alone(open_log: OpenLog) -> None:
    with closing_log(open_log(sample_rate=0.25)) as log:
        ids = [f"request-{i}" for i in range(4000)]
        taken = [name for name in ids if log.takes(["team/a"], name)]
        assert taken == [name for name in ids if log.takes(["team/b"], name)]
    assert 900 < len(taken) < 1100


def test_only_names_that_are_covered_are_taken(open_log: OpenLog) -> None:
    with closing_log(open_log(patterns=["team/*", "demo/x"])) as log:
        assert log.takes(["team/a", "demo/x"], "1")
        assert not log.takes(["team/a", "other/b"], "1")


names = st.one_of(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}(/[a-z0-9][a-z0-9._-]{0,10}){0,3}", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200),
)


@given(names, names)
def test_every_name_has_a_directory_of_its_own_below_the_logs(one: str, other: str) -> None:
    for name in (one, other):
        text = directory_name(name)
        assert "/" not in text
        assert not text.startswith(".")
        assert len(text.encode()) <= 255
    assert (directory_name(one) == directory_name(other)) == (one == other)


@pytest.mark.parametrize("pattern", ["team/*@prod", "", "team/*,", "te am"])
def test_what_is_no_pattern_of_names_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="is not a pattern of names"):
        ServingSettings(log_requests=pattern)


@pytest.fixture
def logged(
    tiny_base: BaseDirectory, registry: Registry, adapter_dirs: list[Path], tmp_path: Path
) -> Iterator[tuple[str, Path]]:
    """The URL of a server that logs `team/*`, and its log's directory."""
    push_adapter(registry, "team/a", adapter_dirs[0])
    push_adapter(registry, "team/b", adapter_dirs[1])
    push_adapter(registry, "other/a", adapter_dirs[1])
    # In PyTorch an answer of 400 tokens takes long enough to be given up before it is whole.
    settings = serving_settings(tiny_base).model_copy(
        update={"log_requests": "team/*", "kernels": Kernels.TORCH}
    )
    serving = Serving(settings, registry, Home(tmp_path / "home"))
    with serving_app(assemble([registry_plane(registry), serving.plane()])) as url:
        yield url, tmp_path / "home/requests"


@pytest.fixture
def client(logged: tuple[str, Path]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{logged[0]}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def wait_for(url: str, **counts: int) -> dict[str, Any]:
    """The log's health once it has these counts."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        health: dict[str, Any] = httpx.get(f"{url}/health").json()["serving"]
        if counts.items() <= health["request_log"].items() and health["running"] == 0:
            return health["request_log"]
        assert time.monotonic() < deadline, health
        time.sleep(0.01)


def test_chats_whole_and_streamed_are_logged_as_they_were_sent_and_answered(
    client: openai.OpenAI, logged: tuple[str, Path], registry: Registry
) -> None:
    options: dict[str, Any] = {"model": "team/a", "messages": MESSAGES, "temperature": 0}
    whole = client.chat.completions.create(
        **options, max_tokens=12, extra_headers={"x-request-id": "r-1"}
    )
    chunks = list(client.chat.completions.create(**options, max_tokens=5, stream=True))
    wait_for(logged[0], written=2, dropped=0, failed=0)

    first, second = rows_of(logged[1] / "team+a/current.jsonl")
    assert first == {
        "time": first["time"],
        "request_id": "r-1",
        "adapter": "team/a",
        "version": "team/a:1",
        "digest": whole.model_extra["hotswap"]["digest"],
        "messages": MESSAGES,
        "answer": whole.choices[0].message.content,
        "choice": 0,
        "finish_reason": whole.choices[0].finish_reason,
        "prompt_tokens": whole.usage.prompt_tokens,
        "completion_tokens": whole.usage.completion_tokens,
    }
    assert first["time"].endswith("+00:00")
    assert second["answer"] == "".join(c.choices[0].delta.content or "" for c in chunks)
    assert (second["finish_reason"], second["completion_tokens"]) == ("length", 5)


def test_every_choice_of_every_prompt_is_a_row(
    client: openai.OpenAI, logged: tuple[str, Path]
) -> None:
    done = client.completions.create(
        model="team/b", prompt=["one two", "pizza"], n=2, max_tokens=4, seed=3, echo=True
    )
    ids = client.completions.create(model="team/b", prompt=[5, 6], max_tokens=4, stop="e")
    wait_for(logged[0], written=5)

    rows = rows_of(logged[1] / "team+b/current.jsonl")
    assert [(r["prompt"], r["choice"]) for r in rows[:4]] == [
        ("one two", 0),
        ("one two", 1),
        ("pizza", 0),
        ("pizza", 1),
    ]
    assert [r["prompt"] + r["answer"] for r in rows[:4]] == [c.text for c in done.choices]
    assert sum(r["completion_tokens"] for r in rows[:4]) == done.usage.completion_tokens
    assert isinstance(rows[4]["prompt"], str)
    assert rows[4]["answer"] == ids.choices[0].text


def test_a_stack_is_logged_when_each_of_its_adapters_may_be(
    client: openai.OpenAI, logged: tuple[str, Path]
) -> None:
    for model in ("team/a + other/a", "team/a*0.5 + team/b"):
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=2)
    wait_for(logged[0], written=1)
    (row,) = rows_of(logged[1] / "team+a/current.jsonl")
    assert row["version"] == "team/a:1*0.5 + team/b:1"
    assert len(row["digest"].split(", ")) == 2


def test_what_is_not_answered_or_not_to_be_kept_is_not_logged(
    client: openai.OpenAI, logged: tuple[str, Path]
) -> None:
    create = client.chat.completions.create
    stream = create(model="team/a", messages=MESSAGES, max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    impatient = client.with_options(timeout=0.001)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(model="team/a", messages=MESSAGES, max_tokens=400)
    with pytest.raises(openai.NotFoundError):
        create(model="team/a:9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        create(model="team/a", messages=MESSAGES, max_tokens=10**6)
    create(model="tiny", messages=MESSAGES, max_tokens=2)
    create(model="other/a", messages=MESSAGES, max_tokens=2)
    create(model="team/a", messages=MESSAGES, max_tokens=2, store=False)
    create(model="team/a", messages=MESSAGES, max_tokens=3)
    wait_for(logged[0], written=1)
    (row,) = rows_of(logged[1] / "team+a/current.jsonl")
    assert row["completion_tokens"] == 3
    assert sorted(path.name for path in logged[1].iterdir()) == ["lock", "team+a"]


def test_nothing_is_kept_unless_it_is_asked_for(
    serving: Serving, registry: Registry, tmp_path: Path
) -> None:
    with serving_app(assemble([registry_plane(registry), serving.plane()])) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)
        assert "request_log" not in httpx.get(f"{url}/health").json()["serving"]
    assert not (tmp_path / "home/requests").exists()
