"""What a running fine-tuning job costs those who are answered meanwhile.

    python -m benchmarks.jobs [--rounds 3]

One server, 16 adapters. A job of OpenAI's fine-tuning API trains on made-up orders, through the
official client; every round measures without it (paused) and beside it (resumed): 64 requests
mixed over the adapters, 32 at a time, and eight requests one after the other. Output tokens a
second, over HTTP, and the steps that the job took meanwhile. Medians of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from benchmarks.machine import cores_in_use, describe_machine
from benchmarks.server import server
from benchmarks.workload import (
    BASE,
    NUM_ADAPTERS,
    Case,
    Prompts,
    push_adapters,
    random_adapter,
    run_case,
)
from hotswap.registry.settings import read_home
from hotswap.serving.base_model import provide_base
from hotswap.serving.settings import ServingHome
from tests.training.rows import orders

NUM_ROWS, WAIT_S, NUM_ALONE = 4000, 600, 8
CASES = (
    Case("16 adapters mixed", [index % NUM_ADAPTERS for index in range(64)]),
    Case("one request at a time", [0] * NUM_ALONE, concurrency=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {cores_in_use():.1f} in use before")
    base = provide_base(BASE, read_home(ServingHome).bases)
    prompts = Prompts(base)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "bases").symlink_to(read_home(ServingHome).bases)
        with server(home, ["--num-speculative-tokens", "0"]) as url:
            made = [random_adapter(base, home / f"a{i}", i) for i in range(NUM_ADAPTERS)]
            push_adapters(base, url, made)
            with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
                job = Job(client, home / "rows.jsonl")
                for case in CASES:  # adapters are fetched
                    measure(url, case, prompts)
                found = [compare(url, job, prompts) for _ in range(arguments.rounds)]
                job.cancel()
    show(found)


class Job:
    """A job that is training when it is made."""

    def __init__(self, client: OpenAI, file: Path) -> None:
        self._client = client
        rows, _ = orders(NUM_ROWS, 1, seed=1)
        file.write_text("".join(json.dumps(_chat(row)) + "\n" for row in rows))
        uploaded = client.files.create(file=file, purpose="fine-tune")
        self._id = client.fine_tuning.jobs.create(model=BASE, training_file=uploaded.id).id
        self._wait_for_a_step()

    def pause(self) -> None:
        self._client.fine_tuning.jobs.pause(self._id)
        self._wait(lambda: self._num_processes() == 0)  # it ends after its step

    def resume(self) -> None:
        self._client.fine_tuning.jobs.resume(self._id)
        self._wait_for_a_step()

    def cancel(self) -> None:
        self._client.fine_tuning.jobs.cancel(self._id)

    def _num_processes(self) -> int:
        health = httpx.get(str(self._client.base_url).replace("/v1/", "/health")).json()
        return int(health["jobs"]["running"])

    def num_steps(self) -> int:
        """Steps that it has told of."""
        events = self._client.fine_tuning.jobs.list_events(self._id, limit=100)
        data = [event.data for event in events.data if event.type == "metrics"]
        return max((each["step"] for each in data if isinstance(each, dict)), default=0)

    def _wait_for_a_step(self) -> None:
        before = self.num_steps()
        self._wait(lambda: self.num_steps() > before)

    def _wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not is_so():
            if time.monotonic() > end:
                job = self._client.fine_tuning.jobs.retrieve(self._id)
                raise TimeoutError(f"the job did not go on in {WAIT_S} s: {job}")
            time.sleep(0.5)


def _chat(row: dict[str, str]) -> dict[str, Any]:
    roles = (("user", row["question"]), ("assistant", row["answer"]))
    return {"messages": [{"role": role, "content": text} for role, text in roles]}


def measure(url: str, case: Case, prompts: Prompts) -> float:
    """Output tokens a second."""
    texts = prompts.draw(len(case.adapters), case.prompt_tokens)
    return case.counted_tokens / run_case(url, case, texts)


def compare(url: str, job: Job, prompts: Prompts) -> dict[str, tuple[float, float]]:
    """By case: the rate beside the job, and without it."""
    steps, start = job.num_steps(), time.monotonic()
    beside = {case.name: measure(url, case, prompts) for case in CASES}
    seconds = time.monotonic() - start
    print(f"the job took {job.num_steps() - steps} steps in {seconds:.0f} s", flush=True)
    job.pause()
    without = {case.name: measure(url, case, prompts) for case in CASES}
    job.resume()
    return {name: (beside[name], without[name]) for name in beside}


def show(found: list[dict[str, tuple[float, float]]]) -> None:
    print(f"\n{'tokens/s':<24} {'without':>9} {'beside':>9} {'ratio':>7}")
    for case in CASES:
        each = [round_[case.name] for round_ in found]
        beside, without = (statistics.median(rate) for rate in zip(*each, strict=True))
        ratio = statistics.median(a / b for a, b in each)
        print(f"{case.name:<24} {without:>9.1f} {beside:>9.1f} {ratio:>7.2f}")


if __name__ == "__main__":
    main()
