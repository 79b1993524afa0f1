"""Decides which tokens run in the next step, from counts only: no tensors, no clocks.

Every running sequence decodes one token a step. What is left of the token budget goes to prompts,
in order of arrival. A prompt is cut at fixed multiples of `prefill_chunk` from its own start, so
that how it is computed, and with it every bit of the answer, does not depend on what else runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from serving.pages import PagePool, num_pages_of
from serving.sequence import Batch, Sequence, Work
from serving.speculation import Lookup, Tally

# How many later requests may start before one that waits for a slot; then they wait behind it,
# the slots drain, and it gets one. Without a bound, steady traffic for loaded adapters starves it.
MAX_OVERTAKEN = 64

# How many sequences may run while the next tokens are guessed (`speculation`). A row more costs
# little beside one or two, but its full part in a step that many rows have made busy.
MAX_GUESSING = 4


class Admission(Enum):
    """Whether a waiting sequence may start now."""

    ADMITTED = auto()
    NOT_HERE = auto()  # its adapter is being fetched
    NO_SLOT = auto()  # every slot is leased
    FAILED = auto()  # it has ended with an error


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step and the key-value cache may hold.

    Invariant: a step has room for every running sequence and one whole chunk beside them.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    prefill_chunk: int
    num_pages: int
    num_speculative_tokens: int = 0
    """How many tokens may be guessed in one step, of all sequences together; only for a model that
    is cut-invariant."""

    def __post_init__(self) -> None:
        assert self.max_num_batched_tokens >= self.max_num_seqs + self.prefill_chunk


class Scheduler:
    """Waiting and running sequences. Room in the cache is reserved whole at admission, so a
    sequence that was admitted always finishes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.guesses = Tally()
        self._pages = PagePool(limits.num_pages)

    def add(self, sequence: Sequence) -> None:
        assert num_pages_of(sequence.max_num_tokens) <= self.limits.num_pages
        self.waiting.append(sequence)

    def schedule(self, admit: Callable[[Sequence], Admission]) -> Batch:
        """The next step's batch.

        `admit(sequence)` leases a slot for the sequence's adapter if it can. A sequence that may
        not start is passed over and keeps its place in the line.
        """
        decodes = [
            Work(s, s.num_computed, s.num_tokens - s.num_computed)
            for s in self.running
            if s.is_decoding
        ]
        budget = self.limits.max_num_batched_tokens - len(decodes)
        prefills: list[Work] = []
        for sequence in [s for s in self.running if not s.is_decoding]:
            work = self._chunk(sequence)
            if work.length <= budget:
                prefills.append(work)
                budget -= work.length
        passed_over: list[Sequence] = []
        for sequence in list(self.waiting):
            work = self._chunk(sequence)
            if any(s.num_overtaken >= MAX_OVERTAKEN for s in passed_over):
                break
            if len(self.running) >= self.limits.max_num_seqs or work.length > budget:
                break
            if num_pages_of(sequence.max_num_tokens) > self._pages.num_free:
                break
            admission = admit(sequence)
            if admission is Admission.NO_SLOT:
                passed_over.append(sequence)
            if admission is not Admission.ADMITTED:
                continue
            for overtaken in passed_over:
                overtaken.num_overtaken += 1
            self.waiting.remove(sequence)
            self.running.append(sequence)
            pages = self._pages.take(num_pages_of(sequence.max_num_tokens))
            assert pages is not None
            sequence.pages = pages
            prefills.append(work)
            budget -= work.length
        return Batch((*self._speculate(decodes, budget), *prefills))

    def remove(self, sequence: Sequence) -> bool:
        """Take a sequence out, wherever it is; True when it had been running."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._pages.give_back(sequence.pages)
            return True
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        return False

    def health(self) -> dict[str, object]:
        return {
            "speculation": {
                "guessed": self.guesses.num_guessed,
                "accepted": self.guesses.num_accepted,
            }
        }

    def _speculate(self, decodes: list[Work], budget: int) -> list[Work]:
        """Let each of few sequences guess ahead, with what is left of the budget."""
        num_guesses = self.limits.num_speculative_tokens
        if not num_guesses or len(self.running) > MAX_GUESSING:
            return decodes
        works: list[Work] = []
        for work in decodes:
            sequence, draft = work.sequence, tuple[int, ...]()
            if sequence.sampling.takes_likeliest:
                if sequence.lookup is None:
                    sequence.lookup = Lookup(num_guesses, self.guesses)
                left = sequence.sampling.max_tokens - len(sequence.output_ids) - 1
                most = min(num_guesses // len(self.running), left, budget)
                draft = sequence.lookup.guess(sequence.prompt_ids, sequence.output_ids, most)
            works.append(replace(work, draft=draft))
            budget -= len(draft)
        return works

    def _chunk(self, sequence: Sequence) -> Work:
        left = len(sequence.prompt_ids) - sequence.num_computed
        return Work(sequence, sequence.num_computed, min(left, self.limits.prefill_chunk))
