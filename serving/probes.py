"""Replays an adapter's probes: does it do here what it did where it was trained?

The text side (template, tokenizer) is checked when the adapter is read, the tensor side (base,
scaling, weights) by one forward pass when it is first loaded into a slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from registry.errors import ProbeMismatch
from registry.manifest import Probe
from registry.prompts import PromptFormat
from serving.kv_cache import KvCache
from serving.lora import LoraPlan
from serving.models import Llama, Segment, StepInput


def check_text(probes: Sequence[Probe], prompt: PromptFormat, tokenizer: Tokenizer) -> None:
    """Raises ProbeMismatch when a probe's messages render to other tokens than in training."""
    for probe in probes:
        text = prompt.render(probe.messages)
        found = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        expected = probe.token_ids[: probe.num_prompt_tokens]
        if found != expected:
            at = next(
                (
                    i
                    for i, pair in enumerate(zip(found, expected, strict=False))
                    if len({*pair}) > 1
                ),
                min(len(found), len(expected)),
            )
            raise ProbeMismatch(
                f"the adapter's probe is {len(expected)} tokens long where it was trained and "
                f"{len(found)} here; they part at token {at}: the template or tokenizer differs"
            )


def replay(model: Llama, slot: int, probes: Sequence[Probe], tolerance: float) -> None:
    """Run all probes through the adapter in `slot`, in one forward pass.

    Raises ProbeMismatch when their mean disagreement is above `tolerance` (nats).
    """
    found = disagreement(model, slot, probes)
    if not found <= tolerance:
        raise ProbeMismatch(
            f"the adapter's probes disagree with what was recorded in training by {found:.3f} nats,"
            f" {tolerance:.3f} are allowed: the base, its quantization, the adapter's scaling or "
            "its weights differ",
            disagreement=found,
            tolerance=tolerance,
        )


def disagreement(model: Llama, slot: int, probes: Sequence[Probe]) -> float:
    """Mean KL divergence (nats) from what was recorded to what is found here, over positions.

    KL = Σ p·ln(p / q) over the recorded top tokens and one bucket for all others. It grows with
    the square of small differences, as quantization makes them, and linearly with the surprise
    when a token the adapter was sure of becomes unlikely.
    """
    step, wanted = _pack(model, slot, probes)
    logprobs = torch.log_softmax(model.forward(step).double(), -1)  # (num_positions, vocab)
    total = 0.0
    for row, (token_ids, recorded) in enumerate(wanted):
        p, q = (_with_rest(x.double().exp()) for x in (recorded, logprobs[row, token_ids]))
        total += float((p * (p / q).log()).sum())
    return total / len(wanted)


def _with_rest(probabilities: Tensor) -> Tensor:
    """The probabilities and what they leave of 1, none of them zero."""
    rest = (1 - probabilities.sum()).clamp_min(0)[None]
    return torch.cat([probabilities, rest]).clamp_min(1e-6)


def _pack(
    model: Llama, slot: int, probes: Sequence[Probe]
) -> tuple[StepInput, list[tuple[Tensor, Tensor]]]:
    cache = KvCache(model.kv_shape)
    token_ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    rows: list[int] = []
    wanted: list[tuple[Tensor, Tensor]] = []
    for number, probe in enumerate(probes):
        start, length = len(token_ids), len(probe.token_ids)
        token_ids += probe.token_ids
        positions += range(length)
        segments.append(Segment(start, start + length, 0, cache.block(number, length)))
        rows += range(start + probe.num_prompt_tokens - 1, start + length)
        wanted += [(torch.tensor(t.token_ids), torch.tensor(t.logprobs)) for t in probe.top]
    step = StepInput(
        token_ids=torch.tensor(token_ids),
        positions=torch.tensor(positions),
        segments=segments,
        last_rows=torch.tensor(rows),
        lora=LoraPlan.of([], [(s.start, s.end, slot) for s in segments]),
    )
    return step, wanted
