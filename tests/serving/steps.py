"""A server of counts: the scheduler's steps without tensors, adapters by slot numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from hotswap.serving.engine.pages import PAGE
from hotswap.serving.engine.scheduler import Admission, Limits, Scheduler
from hotswap.serving.engine.sequence import Batch, Delta, NextToken, Sequence


def advance(batch: Batch) -> dict[int, Delta]:
    """What the engine does after a step, with token 7 for every sequence that samples; what the
    sequences were given, by id."""
    given: dict[int, Delta] = {}
    for work in batch.works:
        for delta in work.advance([NextToken(7)] if work.samples else []):
            given[work.sequence.id] = delta
    return given


@dataclass
class Server:
    """Checks in every step what must hold in any."""

    limits: Limits
    num_steps: int = 0
    finished_at: dict[int, int] = field(default_factory=dict)  # step by sequence id

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits)

    def step(self) -> Batch:
        decoding = {s.id for s in self.scheduler.running if s.num_computed == s.num_tokens - 1}
        batch = self.scheduler.schedule(lambda _: Admission.ADMITTED)
        self._check(batch)
        gone = {s.id for s in batch.preempted}
        assert decoding - gone <= {w.sequence.id for w in batch.works}, "a stream had to wait"
        self.num_steps += 1
        given = advance(batch)
        for work in batch.works:
            delta = given.get(work.sequence.id)
            if delta is not None and delta.is_last:
                self.finished_at[work.sequence.id] = self.num_steps
                assert self.scheduler.remove(work.sequence)
        return batch

    def run(self, *sequences: Sequence) -> None:
        """Until these have finished."""
        for sequence in sequences:
            self.scheduler.add(sequence)
        while any(s.id not in self.finished_at for s in sequences):
            assert self.step(), "nothing runs, but not all have finished"

    def _check(self, batch: Batch) -> None:
        running, pages = self.scheduler.running, self.scheduler.pages
        assert len(running) <= self.limits.max_num_seqs
        assert batch.num_tokens <= self.limits.max_num_batched_tokens
        for work in batch.works:
            assert work.sequence in running
            assert work.length
            assert work.start == work.sequence.num_computed
            assert work.start + work.length <= len(work.sequence.pages) * PAGE
        used = {page for sequence in running for page in sequence.pages}
        assert len(used) + pages.num_free + pages.num_idle == self.limits.num_pages
        for work in batch.works:  # nobody else has the pages that are written
            first = work.start // PAGE
            written = set(work.sequence.pages[first:])
            others = (s.pages for s in running if s is not work.sequence)
            assert not written & {page for pages in others for page in pages}
