"""What an adapter costs that the server does not have yet: the first token, and what others notice.

    python -m benchmarks.cold [--adapters 12] [--json FILE]

Adapters of rank 16 on all linear layers (10 MB), pushed to a registry that keeps them in a
directory, and in SeaweedFS where the `weed` command is. Each is asked twice: cold, when only the
object store has it, and warm. The prompt changes in between, so that no prefix cache helps. Then
the same beside a stream of the base alone: how far apart its tokens come at most while an adapter
is fetched, while nothing is, and while a prompt of 4,000 tokens is read. Milliseconds, over HTTP.

The adapters carry three probes, as trained ones do, which are replayed before the first answer and
are part of what cold costs. What is recorded in them is made up; the server is told to tolerate it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.machine import cores_in_use, describe_machine
from benchmarks.s3 import s3_store
from benchmarks.server import server
from benchmarks.workload import BASE, PROMPT_TOKENS, Prompts, model_name, random_adapter
from hotswap.registry.bundles.bundle import METADATA_FILE, Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.manifest import BundleMetadata, Probe, TopTokens
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.settings import read_home
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.rendering import render
from hotswap.serving.settings import ServingHome
from tests.servers import weed_binary

NUM_PROBES, PROBE_TOKENS, PROBE_ANSWER_TOKENS = 3, 24, 8
LONG_PROMPT_TOKENS, NUM_LONG = 4000, 3
STREAM_TOKENS, FEW_TOKENS, PAUSE_S = 400, 4, 0.5
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write every single time to this file")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": describe_machine(), "cores_in_use": cores_in_use()}
    with tempfile.TemporaryDirectory() as directory:
        for kind, home, variables in stores(Path(directory)):
            found[kind] = measure(home, variables, arguments.adapters)
            show(kind, found[kind])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def stores(root: Path) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Each kind of store with a home of its own and the settings that choose it."""
    yield "directory", root / "directory", {}
    if (binary := weed_binary()) is None:
        print("weed is not installed; SeaweedFS is left out")
        return
    with s3_store(binary, root / "weed") as (_, variables):
        yield "SeaweedFS", root / "s3", variables


def measure(home: Path, variables: dict[str, str], num_adapters: int) -> Times:
    base = provide_base(BASE, read_home(ServingHome).bases)
    home.mkdir()
    (home / "bases").symlink_to(read_home(ServingHome).bases)
    options = ["--num-speculative-tokens", "0", "--probe-tolerance", "1000"]
    prompts = Prompts(base)
    with server(home, options, variables=variables) as url:
        with RegistryClient(url) as registry:
            for number in range(2 * num_adapters):
                directory = random_adapter(base, home / f"adapter-{number}", number)
                (directory / METADATA_FILE).write_text(_metadata(base, prompts).model_dump_json())
                bundle = Bundle.read(directory)
                name = f"bench/a{number}"
                push(registry, name, bundle, bundle.manifest(), by="benchmark", alias="prod")
        return asyncio.run(_ask(url, prompts, num_adapters))


def _metadata(base: BaseDirectory, prompts: Prompts) -> BundleMetadata:
    prompt = base.prompt_format()
    probes = []
    for text in prompts.draw(NUM_PROBES, PROBE_TOKENS):
        messages = ({"role": "user", "content": text},)
        rendered = base.tokenizer.encode(render(prompt, messages), add_special_tokens=False).ids
        top = [TopTokens(token_ids=(0,), logprobs=(0.0,))] * (PROBE_ANSWER_TOKENS + 1)
        ids = (*rendered, *rendered[:PROBE_ANSWER_TOKENS])
        probes.append(
            Probe(messages=messages, token_ids=ids, num_prompt_tokens=len(rendered), top=tuple(top))
        )
    return BundleMetadata(base=base.fingerprint(), prompt=prompt, probes=tuple(probes))


async def _ask(url: str, prompts: Prompts, num_adapters: int) -> Times:
    found: Times = {}
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await _arrivals(client, BASE, prompts.draw(1, PROMPT_TOKENS)[0], FEW_TOKENS)
        for number in range(num_adapters):
            for state in ("cold", "warm"):
                [text] = prompts.draw(1, PROMPT_TOKENS)
                first, _ = await _first_token(client, number, text)
                found.setdefault(f"first token, {state}", []).append(first)
        pairs = zip(found["first token, cold"], found["first token, warm"], strict=True)
        found["first token, cold less warm"] = [cold - warm for cold, warm in pairs]
        for number in range(num_adapters, 2 * num_adapters):
            for what, wait in (await _beside_a_stream(client, number, prompts)).items():
                found.setdefault(what, []).append(wait)
        for _ in range(NUM_LONG):
            gap = await _beside_a_long_prompt(client, prompts)
            found.setdefault("longest gap, 4,000-token prompt", []).append(gap)
    return found


async def _beside_a_stream(
    client: httpx.AsyncClient, number: int, prompts: Prompts
) -> dict[str, float]:
    """The longest that a stream's token is behind the one before it, in seconds: while nothing
    else is asked, and while an adapter's first token is waited for."""
    [running, *texts] = prompts.draw(3, PROMPT_TOKENS)
    stream = asyncio.create_task(_arrivals(client, BASE, running, STREAM_TOKENS))
    await asyncio.sleep(PAUSE_S)
    begin = time.perf_counter()
    spans = {}
    for state, text in zip(("cold", "warm"), texts, strict=True):
        await asyncio.sleep(PAUSE_S)
        _, spans[state] = await _first_token(client, number, text)
    ticks = await stream
    assert ticks[-1] > spans["warm"][1], "the stream ended before what it was to be beside"
    alone = _longest_gap(ticks, begin, begin + PAUSE_S / 2)
    beside = {state: _longest_gap(ticks, *span) for state, span in spans.items()}
    return {
        "longest gap of a stream, alone": alone,
        **{f"longest gap of a stream, {state}": gap for state, gap in beside.items()},
    }


async def _beside_a_long_prompt(client: httpx.AsyncClient, prompts: Prompts) -> float:
    stream = asyncio.create_task(
        _arrivals(client, BASE, prompts.draw(1, PROMPT_TOKENS)[0], STREAM_TOKENS)
    )
    await asyncio.sleep(PAUSE_S)
    [text] = prompts.draw(1, LONG_PROMPT_TOKENS)
    _, span = await _first_token(client, 0, text)
    return _longest_gap(await stream, *span)


async def _first_token(
    client: httpx.AsyncClient, number: int, text: str
) -> tuple[float, tuple[float, float]]:
    """Seconds from the request to the first token, and when that was."""
    start = time.perf_counter()
    first = (await _arrivals(client, model_name(number), text, FEW_TOKENS))[0]
    return first - start, (start, first)


async def _arrivals(
    client: httpx.AsyncClient, model: str, prompt: str, new_tokens: int
) -> list[float]:
    """When each event with text of a streamed answer came."""
    body = {"model": model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
    arrivals = []
    async with client.stream(
        "POST", "/v1/completions", json={**body, "stream": True, "ignore_eos": True}
    ) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                arrivals.append(time.perf_counter())
    return arrivals


def _longest_gap(ticks: Sequence[float], begin: float, end: float) -> float:
    """Between neighbours of which one at least lies between `begin` and `end`."""
    pairs = itertools.pairwise(ticks)
    return max(after - before for before, after in pairs if after >= begin and before <= end)


def show(kind: str, found: Times) -> None:
    print(f"\n{kind:<34} {'median':>9} {'min':>9} {'max':>9} {'num':>6}")
    for what, each in found.items():
        low, middle, high = (1000 * f(each) for f in (min, statistics.median, max))
        print(f"  {what:<32} {middle:9.1f} {low:9.1f} {high:9.1f} {len(each):6}")


if __name__ == "__main__":
    main()
