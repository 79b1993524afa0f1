"""Turns a Batch into one packed step, runs the model once, and chooses tokens. Decides nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hotswap.registry.domain.manifest import Probe
from hotswap.serving.adapters.lora import LoraWeights
from hotswap.serving.engine.sequence import Batch, NextToken, Sequence, Work
from hotswap.serving.execution.probes import replay
from hotswap.serving.execution.sampling import Chooser, logprobs_of, next_token
from hotswap.serving.models import AdapterRows, Model, Segment, StepInput, StepOutput

# Streams wait for one step of a replay at a time.
MAX_PROBE_ROWS = 64


@dataclass(frozen=True, slots=True)
class PreparedAdapter:
    """An adapter in host memory in the model's own form, and what must hold when it is loaded."""

    form: Any
    probes: tuple[Probe, ...]

    @property
    def num_bytes(self) -> int:
        """Host memory that its weights take."""
        num_bytes: int = self.form.num_bytes
        return num_bytes


class ModelRunner:
    """The model with the adapters in its slots, and the choosers of sequences that need one."""

    def __init__(
        self, model: Model, *, probe_tolerance: float, max_probe_rows: int = MAX_PROBE_ROWS
    ) -> None:
        """Probes are replayed in steps of at most `max_probe_rows` tokens."""
        self.model = model
        self.max_probe_rows = min(max_probe_rows, model.max_rows)
        self._probe_tolerance = probe_tolerance
        self._choosers: dict[int, Chooser] = {}

    def attach(self) -> None:
        self.model.attach()

    def prepare(self, adapter: LoraWeights) -> PreparedAdapter:
        """Callable from any thread; raises NotServable when a matrix does not fit the base's."""
        return PreparedAdapter(self.model.prepare(adapter), adapter.probes)

    @torch.inference_mode()
    def load(self, slot: int, adapter: PreparedAdapter) -> None:
        """Raises NotServable when a matrix does not fit the base's layer."""
        self.model.load(slot, adapter.form)

    def try_out(self, slot: int, adapter: PreparedAdapter) -> Iterator[None] | None:
        """Replays the adapter's probes, one forward pass an item; None when it has none. Raises
        ProbeMismatch when they do not agree with what was recorded."""
        if not adapter.probes:
            return None
        return replay(self.model, slot, adapter.probes, self._probe_tolerance, self.max_probe_rows)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> list[list[NextToken]]:
        """What each work gives, in the batch's order: the next tokens when it samples."""
        works = sorted(batch.works, key=lambda w: (not w.is_decode, w.sequence.slots))
        output = self.model.forward(self.pack(works))
        chosen: dict[int, list[NextToken]] = {}
        row = 0
        for work in works:
            _score_prompt(work, output.logits[row : row + work.num_scored_rows])
            row += work.num_scored_rows
            if work.samples:
                chosen[work.sequence.id] = self._choose(work, output, row)
                row += 1 + len(work.draft)
        return [chosen.get(work.sequence.id, []) for work in batch.works]

    def _choose(self, work: Work, output: StepOutput, row: int) -> list[NextToken]:
        """The next token, and one more for each guess that was right; `row` is the first of the
        work's logits."""
        sequence, tokens = work.sequence, []
        if not sequence.sampling.takes_likeliest:
            assert not work.draft
            chosen = self._chooser(sequence, output.logits).choose(output.logits[row])
            return [next_token(output.logits[row], chosen, sequence.sampling)]
        for at, guess in enumerate((*work.draft, None), row):
            tokens.append(next_token(output.logits[at], output.best[at], sequence.sampling))
            if output.best[at] != guess:
                break
        return tokens

    def release(self, sequence: Sequence) -> None:
        self._choosers.pop(sequence.id, None)

    def pack(self, works: list[Work]) -> StepInput:
        token_ids: list[int] = []
        segments: list[Segment] = []
        wanted: list[int] = []
        for work in works:
            start = len(token_ids)
            token_ids += work.sequence.tokens(work.start, work.length)
            last = len(token_ids) - 1
            token_ids += work.draft
            segments.append(Segment(start, len(token_ids), work.start, work.sequence.pages))
            wanted += range(start, start + work.num_scored_rows)
            if work.samples:
                wanted += range(last, len(token_ids))
        return StepInput(token_ids, segments, _adapters(works, segments), wanted)

    def _chooser(self, sequence: Sequence, logits: Tensor) -> Chooser:
        if sequence.id not in self._choosers:
            self._choosers[sequence.id] = Chooser(sequence, logits.shape[-1])
        return self._choosers[sequence.id]


def _score_prompt(work: Work, logits: Tensor) -> None:
    """Keep the log probabilities of the prompt's next tokens, once for each.

    `logits` is (num_scored_rows, vocab).
    """
    sequence, num_top = work.sequence, work.sequence.sampling.prompt_logprobs
    for at, row in enumerate(logits, start=work.start):
        if num_top is not None and at >= len(
            sequence.prompt_logprobs
        ):  # preempted: returned before
            logprobs = logprobs_of(row, sequence.prompt_ids[at + 1], num_top)
            sequence.prompt_logprobs.append(logprobs)


def _adapters(works: Rows[Work], segments: Rows[Segment]) -> list[AdapterRows]:
    """The rows of each adapter, stacked ones in their order; neighbours with the same slots and
    scales are taken together."""
    adapter_rows: list[AdapterRows] = []
    pairs = zip(works, segments, strict=True)
    for slots, same in itertools.groupby(pairs, key=lambda pair: pair[0].sequence.slots):
        rows = [segment for _, segment in same]
        adapter_rows += [
            AdapterRows(slot, rows[0].start, rows[-1].end, scale) for slot, scale in slots
        ]
    return adapter_rows
