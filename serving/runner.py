"""Turns a Batch into one packed step, runs the model once, and samples. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch

from registry.manifest import Probe
from serving.lora import LoraWeights
from serving.models import AdapterRows, Model, Segment, StepInput
from serving.probes import replay
from serving.sampling import make_generator, sample
from serving.sequence import Batch, Sequence, Work


@dataclass(frozen=True, slots=True)
class PreparedAdapter:
    """An adapter in host memory in the model's own form, and what must hold when it is loaded."""

    form: Any
    probes: tuple[Probe, ...]


class ModelRunner:
    """The model with the adapters in its slots, and the random numbers of running sequences."""

    def __init__(self, model: Model, *, probe_tolerance: float) -> None:
        self._model = model
        self._probe_tolerance = probe_tolerance
        self._generators: dict[int, torch.Generator | None] = {}

    def attach(self) -> None:
        self._model.attach()

    def prepare(self, adapter: LoraWeights) -> PreparedAdapter:
        """Callable from any thread; raises NotServable when a matrix does not fit the base's."""
        return PreparedAdapter(self._model.prepare(adapter), adapter.probes)

    @torch.inference_mode()
    def load(self, slot: int, adapter: PreparedAdapter) -> None:
        """Raises NotServable when a matrix does not fit the base's layer, ProbeMismatch when the
        adapter's probes, replayed in the slot, do not agree with what was recorded."""
        self._model.load(slot, adapter.form)
        if adapter.probes:
            replay(self._model, slot, adapter.probes, self._probe_tolerance)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> list[int | None]:
        """The next token of each work that samples, in the batch's order; else None."""
        works = sorted(batch.works, key=lambda w: (not w.is_decode, w.sequence.slot))
        output = self._model.forward(self._pack(works))
        chosen: dict[int, int] = {}
        for row, work in enumerate(work for work in works if work.samples):
            sequence = work.sequence
            generator = self._generator(sequence)
            chosen[sequence.id] = (
                output.best[row]
                if generator is None
                else sample(output.logits[row], sequence.sampling, generator)
            )
        return [chosen.get(work.sequence.id) for work in batch.works]

    def release(self, sequence: Sequence) -> None:
        self._generators.pop(sequence.id, None)

    def _pack(self, works: list[Work]) -> StepInput:
        token_ids: list[int] = []
        segments: list[Segment] = []
        wanted: list[int] = []
        for work in works:
            start = len(token_ids)
            token_ids += work.sequence.tokens(work.start, work.length)
            segments.append(Segment(start, len(token_ids), work.start, work.sequence.pages))
            if work.samples:
                wanted.append(len(token_ids) - 1)
        return StepInput(token_ids, segments, _adapters(works, segments), wanted)

    def _generator(self, sequence: Sequence) -> torch.Generator | None:
        if sequence.id not in self._generators:
            self._generators[sequence.id] = make_generator(sequence.sampling)
        return self._generators[sequence.id]


def _adapters(works: Rows[Work], segments: Rows[Segment]) -> list[AdapterRows]:
    """The rows of each adapter; neighbours of one slot are taken together."""
    found: list[AdapterRows] = []
    for work, segment in zip(works, segments, strict=True):
        slot = work.sequence.slot
        if not slot:
            continue
        start = segment.start
        if found and found[-1].slot == slot and found[-1].end == start:
            start = found.pop().start
        found.append(AdapterRows(slot, start, segment.end))
    return found
