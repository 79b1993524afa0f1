"""Turns a Batch into tensors, runs the model once, and samples. Decides nothing."""

from __future__ import annotations

import torch

from serving.kv_cache import KvCache
from serving.lora import LoraPlan, LoraWeights
from serving.models import Llama, Segment, StepInput
from serving.probes import replay
from serving.sampling import make_generator, sample
from serving.sequence import Batch, Sequence, Work


class ModelRunner:
    """The model, the adapters in its slots, and the running sequences' keys and values."""

    def __init__(self, model: Llama, *, probe_tolerance: float, num_threads: int = 1) -> None:
        self._model = model
        self._probe_tolerance = probe_tolerance
        self._num_threads = num_threads
        self._cache = KvCache(model.kv_shape)
        self._generators: dict[int, torch.Generator | None] = {}

    def attach(self) -> None:
        """Take the cores for the calling thread.

        It must be the only thread that computes on several: OpenMP keeps a pool for every such
        thread, and with more pools than cores each parallel loop waits in the kernel instead of
        spinning, which doubles the time of a step.
        """
        torch.set_num_threads(self._num_threads)

    @torch.inference_mode()
    def load(self, slot: int, adapter: LoraWeights) -> None:
        """Raises NotServable when a matrix does not fit the base's layer, ProbeMismatch when the
        adapter's probes, replayed in the slot, do not agree with what was recorded."""
        for slots in self._model.lora_slots:
            slots.load(slot, adapter)
        if adapter.probes:
            replay(self._model, slot, adapter.probes, self._probe_tolerance)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> list[int | None]:
        """The next token of each work that samples, in the batch's order; else None."""
        # Decoding rows with an adapter come first (see LoraPlan), by slot, so that tiles are whole.
        works = sorted(
            batch.works, key=lambda w: (not w.is_decode, not w.sequence.slot, w.sequence.slot)
        )
        logits = self._model.forward(self._pack(works))
        sampling = [work for work in works if work.samples]
        chosen = {
            work.sequence.id: sample(
                logits[row], work.sequence.sampling, self._generator(work.sequence)
            )
            for row, work in enumerate(sampling)
        }
        return [chosen.get(work.sequence.id) for work in batch.works]

    def release(self, sequence: Sequence) -> None:
        self._cache.release(sequence.id)
        self._generators.pop(sequence.id, None)

    def _pack(self, works: list[Work]) -> StepInput:
        token_ids: list[int] = []
        positions: list[int] = []
        segments: list[Segment] = []
        last_rows: list[int] = []
        for work in works:
            start = len(token_ids)
            token_ids += work.sequence.tokens(work.start, work.length)
            positions += range(work.start, work.start + work.length)
            block = self._cache.block(work.sequence.id, work.sequence.max_num_tokens)
            segments.append(Segment(start, len(token_ids), work.start, block))
            if work.samples:
                last_rows.append(len(token_ids) - 1)
        return StepInput(
            token_ids=torch.tensor(token_ids),
            positions=torch.tensor(positions),
            segments=segments,
            last_rows=torch.tensor(last_rows, dtype=torch.int64),
            lora=_plan(works, segments),
        )

    def _generator(self, sequence: Sequence) -> torch.Generator | None:
        if sequence.id not in self._generators:
            self._generators[sequence.id] = make_generator(sequence.sampling)
        return self._generators[sequence.id]


def _plan(works: list[Work], segments: list[Segment]) -> LoraPlan:
    return LoraPlan.of(
        [w.sequence.slot for w in works if w.is_decode and w.sequence.slot],
        [
            (segment.start, segment.end, work.sequence.slot)
            for work, segment in zip(works, segments, strict=True)
            if not work.is_decode and work.sequence.slot
        ],
    )
