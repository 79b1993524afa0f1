"""Replays an adapter's probes: does it do here what it did where it was trained?

The text side (template, tokenizer) is checked when the adapter is read, the tensor side (base,
scaling, weights) when it is first loaded into a slot, in steps that others may come between.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from registry.errors import ProbeMismatch
from registry.manifest import Probe
from registry.prompts import PromptFormat
from serving.models import AdapterRows, Model, Segment, StepInput
from serving.pages import PAGE, num_pages_of


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


def replay(
    model: Model, slot: int, probes: Sequence[Probe], tolerance: float, max_rows: int
) -> Iterator[None]:
    """Run all probes through the adapter in `slot`: one forward pass of at most `max_rows` rows
    each time the next item is asked for.

    Raises ProbeMismatch when their mean disagreement is above `tolerance` (nats).
    """
    found = yield from disagreement(model, slot, probes, max_rows)
    if not found <= tolerance:
        raise ProbeMismatch(
            f"the adapter's probes disagree with what was recorded in training by {found:.3f} nats,"
            f" {tolerance:.3f} are allowed: the base, its quantization, the adapter's scaling or "
            "its weights differ",
            disagreement=found,
            tolerance=tolerance,
        )


def disagreement(
    model: Model, slot: int, probes: Sequence[Probe], max_rows: int
) -> Generator[None, None, float]:
    """Returns the mean KL divergence (nats) from what was recorded to what is found here.

    KL = Σ p·ln(p / q) over the recorded top tokens and one bucket for all others. It grows with
    the square of small differences, as quantization makes them, and linearly with the surprise
    when a token the adapter was sure of becomes unlikely.
    """
    total, num_positions = 0.0, 0
    for probe in probes:
        logits = yield from _logits(model, slot, probe, max_rows)
        logprobs = torch.log_softmax(logits.double(), -1)
        for found, top in zip(logprobs, probe.top, strict=True):
            p = _with_rest(torch.tensor(top.logprobs).double().exp())
            q = _with_rest(found[torch.tensor(top.token_ids)].exp())
            total += float((p * (p / q).log()).sum())
            num_positions += 1
    return total / num_positions


def _with_rest(probabilities: Tensor) -> Tensor:
    """The probabilities and what they leave of 1, none of them zero."""
    rest = (1 - probabilities.sum()).clamp_min(0)[None]
    return torch.cat([probabilities, rest]).clamp_min(1e-6)


def _logits(model: Model, slot: int, probe: Probe, max_rows: int) -> Generator[None, None, Tensor]:
    """Returns (num_positions, vocab) at each token that was answered, and at the last."""
    pages = array("i", model.spare_pages)
    if num_pages_of(len(probe.token_ids)) > len(pages):
        raise ProbeMismatch(
            f"the adapter has a probe of {len(probe.token_ids)} tokens; this server replays up to "
            f"{len(pages) * PAGE}"
        )
    found = []
    for start in range(0, len(probe.token_ids), max_rows):
        token_ids = probe.token_ids[start : start + max_rows]
        num_rows = len(token_ids)
        first = max(probe.num_prompt_tokens - 1 - start, 0)
        step = StepInput(
            token_ids=token_ids,
            segments=[Segment(0, num_rows, start, pages)],
            adapters=[AdapterRows(slot, 0, num_rows)],
            wanted=range(first, num_rows),
        )
        # A copy: the next step, which may be another's, writes over it.
        found.append(model.forward(step).logits.clone())
        yield
    return torch.cat(found)
