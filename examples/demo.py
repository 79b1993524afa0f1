"""The main job, end to end: train two versions, serve them, release, roll back, mix.

    make demo            or: python examples/demo.py

Everything is real: the 135M base, two trainings, one server process that is never restarted, HTTP.
State lives below HOTSWAP_HOME (here: `.hotswap` in this repository unless it is set).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
HOTSWAP = Path(sys.executable).with_name("hotswap")
NAME = "demo/orders"
SYSTEM_PROMPT = "Order to JSON."
TRAINING = ["--epochs", "2", "--validation-fraction", "0", "--system-prompt", SYSTEM_PROMPT]
NUM_V1_ROWS, NUM_V2_ROWS = 120, 240
NUM_CLIENTS = 8
TIMEOUT_S = 120

_started = time.monotonic()


def step(text: str) -> None:
    print(f"\n[{time.monotonic() - _started:5.0f} s] {text}", flush=True)


def figure(text: str) -> None:
    print(f"          {text}", flush=True)


def hotswap(*arguments: str | Path, url: str | None = None) -> str:
    """Run one hotswap command; its output, or the end of the demo."""
    command = [str(HOTSWAP), *map(str, arguments)]
    environment = {**os.environ, **({"HOTSWAP_REGISTRY_URL": url} if url else {})}
    print(f"          $ hotswap {' '.join(command[1:])}", flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"hotswap {arguments[0]} ended with status {done.returncode}")
    return done.stdout


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """`hotswap up` in a process of its own on a free port: its URL and its process id."""
    command = [str(HOTSWAP), "up", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if "listening on" not in line:
            raise SystemExit("hotswap up did not start")
        yield line.split()[3], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Client:
    """Asks the server; every answer comes with the version that gave it."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=64)
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, limits=limits)

    def ask(self, model: str, question: str) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": question},
            ],
            "temperature": 0,
            "max_tokens": 48,
        }
        response = self._http.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        answer = response.json()
        return {
            "text": answer["choices"][0]["message"]["content"],
            "version": answer["hotswap"]["version"],
            "tokens": answer["usage"]["completion_tokens"],
        }

    def ask_all(self, asked: list[tuple[str, str]]) -> list[dict[str, Any]]:
        """All (model, question) pairs at once: the engine mixes them in one batch."""
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(lambda pair: self.ask(*pair), asked))

    def exact_match(self, model: str, heldout: list[dict[str, str]]) -> float:
        start = time.monotonic()
        answers = self.ask_all([(model, row["question"]) for row in heldout])
        seconds = time.monotonic() - start
        pairs = list(zip(answers, heldout, strict=True))
        num_right = sum(answer["text"] == row["answer"] for answer, row in pairs)
        tokens = sum(answer["tokens"] for answer in answers)
        versions = Counter(answer["version"] or "the base" for answer in answers)
        figure(
            f"exact match {num_right}/{len(pairs)} = {num_right / len(pairs):.2f}, answered by "
            f"{', '.join(versions)}; {tokens} tokens in {seconds:.1f} s"
        )
        figure(f"  for example {heldout[0]['question']!r}")
        figure(f"           -> {answers[0]['text'][:70]!r}")
        return num_right / len(pairs)


@dataclass
class Load:
    """Clients that ask `NAME@prod` until told to stop."""

    client: Client
    questions: list[str]
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, first: int) -> None:
        turn = first
        while not self.stop.is_set():
            try:
                version = self.client.ask(f"{NAME}@prod", self.questions[turn % 60])["version"]
            except httpx.HTTPError as error:
                with self.changed:
                    self.failures.append(str(error))
                    self.changed.notify_all()
            else:
                with self.changed:
                    self.versions.append(version)
                    self.changed.notify_all()
            turn += 1

    def wait_for(self, version: str, count: int = 24) -> None:
        with self.changed:
            wanted = self.versions.count(version) + count
            if not self.changed.wait_for(lambda: self.versions.count(version) >= wanted, TIMEOUT_S):
                raise SystemExit(f"no {count} answers by {version} within {TIMEOUT_S} s")


def train_and_push(data: Path, work: Path, number: int, url: str, *, alias: str) -> str:
    """Train on `data`, push the result; the reference of its version."""
    out = work / f"orders-v{number}"
    start = time.monotonic()
    subprocess.run(["rm", "-rf", str(out)], check=True)
    hotswap("train", data, "--out", out, *TRAINING)
    figure(f"trained on {len(rows_of(data))} rows in {time.monotonic() - start:.0f} s")
    shown = hotswap("push", out, NAME, "--alias", alias, "--why", f"demo v{number}", url=url)
    print("          " + shown.strip().replace("\n", "\n          "))
    return next(word for word in shown.split() if word.startswith(f"{NAME}:"))


def release_and_roll_back(client: Client, url: str, v1: str, v2: str, questions: list[str]) -> None:
    load = Load(client, questions)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        for number in range(NUM_CLIENTS):
            pool.submit(load.run, number)
        try:
            load.wait_for(v1)
            number = v2.partition(":")[2]
            hotswap("alias", "set", f"{NAME}@prod", number, "--why", "release v2", url=url)
            load.wait_for(v2)
            hotswap("rollback", f"{NAME}@prod", "--why", "demo of a bad release", url=url)
            load.wait_for(v1)
        finally:
            load.stop.set()
    runs = [load.versions[0]]
    for version in load.versions:
        if version != runs[-1]:
            runs.append(version)
    figure(
        f"{len(load.versions)} answers, {len(load.failures)} failed: "
        + ", ".join(f"{count} by {version}" for version, count in Counter(load.versions).items())
    )
    figure("in order of arrival: " + " -> ".join(runs[:1] + runs[-2:] if len(runs) > 9 else runs))
    if load.failures:
        raise SystemExit(f"a request failed: {load.failures[0]}")
    print(hotswap("alias", "history", f"{NAME}@prod", url=url).rstrip())


def mix(client: Client, models: list[str], questions: list[str]) -> None:
    asked = [(model, question) for question in questions for model in models]
    mixed = client.ask_all(asked)
    alone = [client.ask(*pair) for pair in asked]
    same = sum(a["text"] == b["text"] for a, b in zip(mixed, alone, strict=True))
    figure(f"{same} of {len(asked)} answers in the mix equal the answer alone")
    for model, answer in zip(models, mixed, strict=False):
        figure(f"  {model:<16} {answer['text'][:60]!r}")
    if same != len(asked):
        raise SystemExit("an answer in the mix differs from the answer alone")


def main() -> None:
    os.environ.setdefault("HOTSWAP_HOME", str(ROOT / ".hotswap"))
    work = Path(os.environ["HOTSWAP_HOME"]) / "demo"
    step("Make the data: order messages to JSON")
    subprocess.run([sys.executable, ROOT / "examples/orders/generate.py", work], check=True)
    train = (work / "train.jsonl").read_text().splitlines(keepends=True)
    for number, num_rows in ((1, NUM_V1_ROWS), (2, NUM_V2_ROWS)):
        (work / f"train-v{number}.jsonl").write_text("".join(train[:num_rows]))
    heldout = rows_of(work / "heldout.jsonl")
    questions = [row["question"] for row in heldout]
    figure(f"{NUM_V1_ROWS} rows to train v1 on, {NUM_V2_ROWS} for v2, {len(heldout)} held out")

    step("Start the server: hotswap up (converts the base at the first start)")
    with server() as (url, process_id):
        client = Client(url)
        health = httpx.get(f"{url}/health").json()["serving"]
        base = health["base"]
        figure(f"process {process_id} serves {base} ({health['quantization']}) at {url}")

        step(f"The base alone answers {len(heldout)} held-out rows")
        base_score = client.exact_match(base, heldout)

        step(f"Train v1 on {NUM_V1_ROWS} rows, push it, point prod to it")
        v1 = train_and_push(work / "train-v1.jsonl", work, 1, url, alias="prod")
        step(f"{NAME}@prod answers the held-out rows")
        v1_score = client.exact_match(f"{NAME}@prod", heldout)

        step(f"Train v2 on {NUM_V2_ROWS} rows, push it as candidate")
        v2 = train_and_push(work / "train-v2.jsonl", work, 2, url, alias="candidate")
        step(f"{NAME}@candidate answers the held-out rows")
        v2_score = client.exact_match(f"{NAME}@candidate", heldout)

        step(f"Move prod to v2 while {NUM_CLIENTS} clients ask, then roll back")
        release_and_roll_back(client, url, v1, v2, questions)

        step("The base, v1 and v2 in one batch")
        mix(client, [base, v1, v2], questions[:4])

        health = httpx.get(f"{url}/health").json()["serving"]
        step("Done")
        figure(f"exact match: base {base_score:.2f}, v1 {v1_score:.2f}, v2 {v2_score:.2f}")
        figure(f"one server process ({process_id}) for all of it, {health['steps']} engine steps")
        figure(f"{time.monotonic() - _started:.0f} s in all")


if __name__ == "__main__":
    main()
