"""The time of one forward pass of the native kernels, without scheduler, HTTP and client.

    python -m benchmarks.step [--levels bf16 amx] [--bits 8] [--rounds 15] [--threads 2]

SmolLM2-135M; sixteen random adapters of rank 16 on all linear layers. Decoding rows stand at
position 105 of sequences of their own, so that their pages are as full as in benchmarks.serving;
prompts begin at 0. Every round runs every case on every instruction set once; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.machine import cores_in_use, describe_machine
from benchmarks.workload import BASE, LONG_PROMPT_TOKENS, NUM_ADAPTERS, random_adapter
from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.settings import read_home
from hotswap.serving.adapters.lora import LoraRoom, read_lora_weights
from hotswap.serving.base_model import provide_base
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.models import AdapterRows, Segment, StepInput
from hotswap.serving.models.native_llama import NativeLlama
from hotswap.serving.native import library
from hotswap.serving.settings import ServingHome

LEVELS = {
    "portable": library.PORTABLE,
    "avx2": library.AVX2,
    "avx-vnni": library.AVX_VNNI,
    "vnni": library.AVX512_VNNI,
    "bf16": library.AVX512_BF16,
    "amx": library.AMX,
}
POSITION, NUM_PAGES = 105, 4096
LONG_POSITION = 3584


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = [name for name, level in LEVELS.items() if level in library.levels()]
    parser.add_argument("--levels", nargs="+", choices=here, default=here[-2:])
    parser.add_argument("--bits", type=int, choices=(8, 4), default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    in_use = cores_in_use()
    model = make_model(arguments.threads, arguments.bits)
    steps = make_steps()
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(arguments.rounds + 1):  # the first one fills caches and is not counted
        for case, step in steps.items():
            for name in arguments.levels:
                model.engine.level = LEVELS[name]
                start = time.perf_counter()
                model.forward(step)
                if turn:
                    times.setdefault((case, name), []).append(time.perf_counter() - start)
    print(f"{describe_machine()}; {in_use:.1f} in use before; {arguments.threads} threads")
    print(f"{'ms a step, median (least)':<44}" + "".join(f"{n:>20}" for n in arguments.levels))
    for case in steps:
        found = (times[case, name] for name in arguments.levels)
        each = (f"{1e3 * statistics.median(t):.1f} ({1e3 * min(t):.1f})" for t in found)
        print(f"{case:<44}" + "".join(f"{text:>20}" for text in each))


def make_model(num_threads: int, bits: int) -> NativeLlama:
    """With adapters in the slots 1 to NUM_ADAPTERS."""
    torch.set_num_threads(num_threads)
    base = provide_base(BASE, read_home(ServingHome).bases)
    room = LoraRoom(NUM_ADAPTERS, 16, torch.bfloat16)
    model = NativeLlama(
        base, room, num_pages=NUM_PAGES, max_rows=LONG_PROMPT_TOKENS, num_threads=num_threads,
        bits=bits,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        for slot in range(1, NUM_ADAPTERS + 1):
            made = random_adapter(base, Path(directory) / str(slot), slot)
            weights = read_lora_weights(made, Bundle.read(made).lora)
            model.load(slot, model.prepare(weights))
    model.attach()
    return model


def make_steps() -> dict[str, StepInput]:
    base_only: list[int | None] = [None] * 32
    mixed = sorted(row % NUM_ADAPTERS + 1 for row in range(32))
    return {
        "32 rows decode, base only": decode(base_only),
        "32 rows decode, one adapter": decode([1] * 32),
        "32 rows decode, 16 adapters": decode(mixed),
        "1 row decodes, base only": decode([None]),
        "1 row decodes, one adapter": decode([1]),
        f"a prompt of {LONG_PROMPT_TOKENS}, base only": prefill(LONG_PROMPT_TOKENS, None),
        f"a prompt of {LONG_PROMPT_TOKENS}, one adapter": prefill(LONG_PROMPT_TOKENS, 1),
        f"{LONG_PROMPT_TOKENS} rows behind {LONG_POSITION}, one adapter": prefill(
            LONG_PROMPT_TOKENS, 1, LONG_POSITION
        ),
    }


def decode(slots: Sequence[int | None]) -> StepInput:
    """One token for each of `slots`, neighbours with one slot taken together."""
    segments, adapters = [], []
    for row, slot in enumerate(slots):
        pages = array("i", range(row * 8, row * 8 + 8))
        segments.append(Segment(row, row + 1, POSITION, pages))
        if slot is not None and adapters and adapters[-1].slot == slot:
            adapters[-1] = AdapterRows(slot, adapters[-1].start, row + 1)
        elif slot is not None:
            adapters.append(AdapterRows(slot, row, row + 1))
    return StepInput(
        [100 + row for row in range(len(slots))], segments, adapters, range(len(slots))
    )


def prefill(num_tokens: int, slot: int | None, position: int = 0) -> StepInput:
    pages = array("i", range(256, 256 + -(-(position + num_tokens) // PAGE)))
    adapters = [] if slot is None else [AdapterRows(slot, 0, num_tokens)]
    token_ids = [100 + at % 1000 for at in range(num_tokens)]
    return StepInput(
        token_ids, [Segment(0, num_tokens, position, pages)], adapters, [num_tokens - 1]
    )


if __name__ == "__main__":
    main()
