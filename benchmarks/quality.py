"""What each quantization of the base costs in quality: against its own weights in float32.

    python -m benchmarks.quality [--tokens 8192] [--banking77 DIRECTORY] [--only int8 int4]
        [--json FILE]

Running text: the prose of Python's own reference (`pydoc_data.topics`, on every machine), in
windows of 512 tokens. For each next token the mean KL from the float32 base's distribution (nats),
the perplexity, and how often the likeliest token is the float32 base's.

Task: 20 classes of banking77 (see benchmarks.banking77), one adapter trained once in bfloat16,
asked over HTTP for all 40 test rows of each class under every quantization: exact match, and how
many of the answers are right with only one of the two.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.banking77 import marks, sample, train_and_push, write_rows
from benchmarks.machine import describe_machine
from benchmarks.server import server
from hotswap.registry.settings import read_home
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.models import Model, Segment, StepInput
from hotswap.serving.models.choice import Placement, make_model
from hotswap.serving.settings import Kernels, Quantization, ServingHome, ServingSettings

BASE = "smollm2-135m"
WINDOW = 512
NUM_TEST = 40
REFERENCE = "float32"


Variants = dict[str, dict[str, str]]


def _variants() -> Variants:
    """Options of serving by the name of what they choose; the reference comes first."""
    found = {REFERENCE: {"quantization": "none", "dtype": "float32", "kernels": "torch"}}
    for quantization in sorted(Quantization, key=lambda q: q is not Quantization.NONE):
        name = "bfloat16" if quantization is Quantization.NONE else quantization.value
        found[name] = {"quantization": quantization.value, "kernels": Kernels.AUTO.value}
    found["int8 in PyTorch"] = {"quantization": "int8", "kernels": "torch"}
    return found


@dataclass
class TextQuality:
    """Sums over the next tokens of running text."""

    num_tokens: int = 0
    kl: float = 0.0
    surprise: float = 0.0
    agreed: int = 0

    def add(self, expected: Tensor, found: Tensor, next_ids: Tensor) -> None:
        """`expected` and `found` are log probabilities (num_tokens, vocab)."""
        self.num_tokens += len(next_ids)
        self.kl += float(functional.kl_div(found, expected, reduction="sum", log_target=True))
        self.surprise -= float(found.gather(1, next_ids[:, None]).sum())
        self.agreed += int((expected.argmax(1) == found.argmax(1)).sum())

    def figures(self) -> dict[str, float]:
        n = self.num_tokens
        perplexity = float(torch.tensor(self.surprise / n).exp())
        return {"kl": self.kl / n, "perplexity": perplexity, "agreement": self.agreed / n}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=8192, help="length of the running text")
    parser.add_argument("--banking77", type=Path, help="the data set's directory")
    parser.add_argument("--only", nargs="+", choices=_variants(), help="and float32 beside them")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    base = provide_base(BASE, read_home(ServingHome).bases)
    wanted = (REFERENCE, *(arguments.only or _variants()))
    variants = {name: options for name, options in _variants().items() if name in wanted}
    figures: dict[str, dict[str, float]] = text_quality(base, variants, arguments.tokens)
    if arguments.banking77:
        for name, found in task_quality(arguments.banking77, variants).items():
            figures[name] |= found
    machine = describe_machine()
    print(f"{machine}\n\n{table(figures)}")
    if arguments.json:
        found = {"machine": machine, "tokens": arguments.tokens, "figures": figures}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def text_quality(
    base: BaseDirectory, variants: Variants, num_tokens: int
) -> dict[str, dict[str, float]]:
    models = {name: load(base, options) for name, options in variants.items()}
    sums = {name: TextQuality() for name in models}
    for window in running_text(base).split(WINDOW)[: num_tokens // WINDOW]:
        expected = log_probabilities(models[REFERENCE], window)
        for name, model in models.items():
            found = expected if name == REFERENCE else log_probabilities(model, window)
            sums[name].add(expected[:-1], found[:-1], window[1:])
    return {name: found.figures() for name, found in sums.items()}


def load(base: BaseDirectory, options: dict[str, str]) -> Model:
    values: dict[str, Any] = {**options, "max_loras": 1, "kv_cache_tokens": WINDOW}
    values |= {"max_num_seqs": 1, "prefill_chunk": 256, "max_num_batched_tokens": WINDOW}
    settings = ServingSettings.model_validate(values)
    return make_model(settings, Placement.of(settings), base)


def running_text(base: BaseDirectory) -> Tensor:
    """The ids of the prose: paragraphs of five lines and more that are not indented."""
    topics = pydoc_data.topics.topics
    paragraphs = [p for name in sorted(topics) for p in topics[name].split("\n\n")]
    prose = [p.replace("\n", " ") for p in paragraphs if p.count("\n") > 3 and p[:1].isalpha()]
    return torch.tensor(base.tokenizer.encode("\n\n".join(prose)).ids)


@torch.inference_mode()
def log_probabilities(model: Model, window: Tensor) -> Tensor:
    """Of every token that may follow each of the window's (num_tokens, vocab)."""
    num_tokens = len(window)
    segment = Segment(0, num_tokens, 0, array("i", model.spare_pages))
    step = StepInput(window.tolist(), [segment], [], range(num_tokens))
    return model.forward(step).logits.float().log_softmax(-1)


def task_quality(data: Path, variants: Variants) -> dict[str, dict[str, float]]:
    """Exact match of one adapter under each quantization of the base."""
    found: dict[str, list[bool]] = {}
    train, test = sample(data, num_test=NUM_TEST)
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "bases").symlink_to(read_home(ServingHome).bases)
        rows = write_rows(train, home / "train.jsonl")
        with server(home) as url:
            train_and_push(rows, home, url)
        for name, options in variants.items():
            chosen = [part for key, value in options.items() for part in (f"--{key}", value)]
            with server(home, chosen) as url:
                found[name] = marks(url, "bench/banking", test)
    expected = found[REFERENCE]
    return {
        name: {
            "exact_match": sum(right) / len(test),
            "lost": sum(e and not r for e, r in zip(expected, right, strict=True)),
            "gained": sum(r and not e for e, r in zip(expected, right, strict=True)),
        }
        for name, right in found.items()
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    has_task = "exact_match" in figures[REFERENCE]
    head = ["base weights", "mean KL, nats", "perplexity", "same likeliest token"]
    head += ["exact match", "answers lost, gained"] if has_task else []
    lines = [head, ["---"] * len(head)]
    for name, found in figures.items():
        row = [
            name,
            f"{found['kl']:.4f}",
            f"{found['perplexity']:.2f}",
            f"{found['agreement']:.3f}",
        ]
        if has_task:
            changed = f"{found['lost']:.0f}, {found['gained']:.0f}"
            row += [f"{100 * found['exact_match']:.1f} %", changed]
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
