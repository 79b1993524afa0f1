"""Replays an adapter's probes: does it do here what it did where it was trained?

The text side (template, tokenizer) is checked when the adapter is read, the tensor side (base,
scaling, weights) when it is first loaded into a slot, in steps that others may come between.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from hotswap.registry.domain.manifest import Probe
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.engine.pages import PAGE, num_pages_of
from hotswap.serving.errors import ProbeMismatch
from hotswap.serving.models import AdapterRows, Model, Segment, StepInput
from hotswap.serving.rendering import render


def check_text(probes: Sequence[Probe], prompt: PromptFormat, tokenizer: Tokenizer) -> None:
    """Raises ProbeMismatch when a probe's messages render to other tokens than in training."""
    for probe in probes:
        text = render(prompt, probe.messages)
        rendered = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        expected = probe.token_ids[: probe.num_prompt_tokens]
        if rendered != expected:
            at = next(
                (
                    i
                    for i, pair in enumerate(zip(rendered, expected, strict=False))
                    if len({*pair}) > 1
                ),
                min(len(rendered), len(expected)),
            )
            raise ProbeMismatch(
                f"the adapter's probe is {len(expected)} tokens long where it was trained and "
                f"{len(rendered)} here; they part at token {at}: the template or tokenizer differs"
            )


def replay(
    model: Model, slot: int, probes: Sequence[Probe], tolerance: float, max_rows: int
) -> Iterator[None]:
    """Run all probes through the adapter in `slot`: one forward pass of at most `max_rows` rows
    each time the next item is asked for.

    Raises ProbeMismatch when their mean disagreement is above `tolerance` (nats).
    """
    divergence = yield from disagreement(model, slot, probes, max_rows)
    if not divergence <= tolerance:
        raise ProbeMismatch(
            "the adapter's probes disagree with what was recorded in training by "
            f"{divergence:.3f} nats,"
            f" {tolerance:.3f} are allowed: the base, its quantization, the adapter's scaling or "
            "its weights differ",
            disagreement=divergence,
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
    parts = []
    for step in _steps(model.spare_pages, slot, probes, max_rows):
        # A copy: the next step, which may be another's, writes over it.
        parts.append(model.forward(step).logits.clone())
        yield
    logits = torch.cat(parts).float()
    recorded = [top for probe in probes for top in probe.top]
    total = 0.0
    for row, norm, top in zip(logits, logits.logsumexp(-1), recorded, strict=True):
        p = _with_rest(torch.tensor(top.logprobs).double().exp())
        q = _with_rest((row[torch.tensor(top.token_ids)] - norm).double().exp())
        total += float((p * (p / q).log()).sum())
    return total / len(recorded)


def _with_rest(probabilities: Tensor) -> Tensor:
    """The probabilities and what they leave of 1, none of them zero."""
    rest = (1 - probabilities.sum()).clamp_min(0)[None]
    return torch.cat([probabilities, rest]).clamp_min(1e-6)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens `start` to `end` of a probe, whose keys and values lie in `pages`."""

    probe: Probe
    pages: array[int]
    start: int
    end: int


def _steps(
    spare_pages: Sequence[int], slot: int, probes: Sequence[Probe], max_rows: int
) -> Iterator[StepInput]:
    """All tokens of the probes, at most `max_rows` a step; probes share a step where they fit, and
    the full pages in which they begin like the first, as prompts of one template do.

    Other pages are each probe's own until the spare ones are used up; then they are used again.
    """
    pieces: list[_Piece] = []
    num_rows = num_used = 0
    first: _Piece | None = None
    for probe in probes:
        length = len(probe.token_ids)
        num_pages = num_pages_of(length)
        num_shared = 0 if first is None else _num_shared_pages(first.probe, probe)
        if num_pages > len(spare_pages):
            raise ProbeMismatch(
                f"the adapter has a probe of {length} tokens; this server replays up to "
                f"{len(spare_pages) * PAGE}"
            )
        if num_used + num_pages - num_shared > len(spare_pages):
            if pieces:
                yield _pack(slot, pieces)
            pieces, num_rows, num_used = [], 0, 0
            first, num_shared = None, 0
        pages = array("i", spare_pages[num_used : num_used + num_pages - num_shared])
        num_used += len(pages)
        if first is None:
            first = _Piece(probe, pages, 0, length)
        pages = first.pages[:num_shared] + pages
        start = num_shared * PAGE
        while start < length:
            end = min(length, start + max_rows - num_rows)
            pieces.append(_Piece(probe, pages, start, end))
            num_rows += end - start
            start = end
            if num_rows == max_rows:
                yield _pack(slot, pieces)
                pieces, num_rows = [], 0
    if pieces:
        yield _pack(slot, pieces)


def _num_shared_pages(first: Probe, probe: Probe) -> int:
    """Full pages in which a probe begins like the first; none with a token that is answered."""
    most = min(first.num_prompt_tokens, probe.num_prompt_tokens) - 1
    pairs = zip(first.token_ids[:most], probe.token_ids[:most], strict=True)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), most) // PAGE


def _pack(slot: int, pieces: Sequence[_Piece]) -> StepInput:
    """One step. Logits are wanted at each token that was answered, and at each probe's last."""
    token_ids: list[int] = []
    segments: list[Segment] = []
    wanted: list[int] = []
    for piece in pieces:
        at = len(token_ids)
        token_ids += piece.probe.token_ids[piece.start : piece.end]
        segments.append(Segment(at, len(token_ids), piece.start, piece.pages))
        first = max(piece.probe.num_prompt_tokens - 1, piece.start)
        wanted += range(at + first - piece.start, len(token_ids))
    return StepInput(token_ids, segments, [AdapterRows(slot, 0, len(token_ids))], wanted)
