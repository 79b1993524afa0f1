"""Decides which tokens run in the next step, from counts only: no tensors, no clocks.

Every running sequence decodes one token a step. What is left of the token budget goes to prompts,
each time to the adapter that was served least (`fairness`). Pages are given as tokens need them;
when none is left, the youngest running sequence gives its pages back and waits again, its output
kept. A prompt, and an output that must be computed again, begins behind the pages that are found in
the cache.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import chain

from hotswap.serving.engine.budget import StepBudget
from hotswap.serving.engine.fairness import OUTPUT_WEIGHT, VirtualCounters
from hotswap.serving.engine.pages import PAGE, PagePool, num_pages_of
from hotswap.serving.engine.sequence import Batch, Sequence, Work
from hotswap.serving.engine.speculation import GuessCounts, Lookup

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
    is_cut_invariant: bool = False
    """Whether an answer's bits do not depend on how its tokens are cut into steps. If they do,
    prompts are cut at multiples of the chunk only, and outputs computed again one by one."""
    enable_prefix_caching: bool = False
    num_speculative_tokens: int = 0
    """How many tokens may be guessed in one step, of all sequences together."""
    keys_per_row: float = math.inf
    """See Model.keys_per_row."""

    def __post_init__(self) -> None:
        assert self.max_num_batched_tokens >= self.max_num_seqs + self.prefill_chunk
        assert self.is_cut_invariant or not self.enable_prefix_caching
        assert self.is_cut_invariant or not self.num_speculative_tokens


@dataclass(slots=True)
class _Plan:
    """One step as it is being planned."""

    budget: StepBudget
    works: dict[int, Work] = field(default_factory=dict)  # by sequence id
    preempted: list[Sequence] = field(default_factory=list)
    passed_over: list[Sequence] = field(default_factory=list)  # for want of a slot
    is_closed: bool = False  # nothing more may start


class Scheduler:
    """Waiting and running sequences. Invariant: the oldest running one is never preempted, and has
    the whole cache if it needs it, so every sequence that fits the cache finishes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running: list[Sequence] = []
        self.num_waiting = 0
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.guesses = GuessCounts()
        self.pages = PagePool(limits.num_pages)
        self._lines: dict[Hashable, deque[Sequence]] = {}  # by account, in order of arrival
        self._counters = VirtualCounters()

    @property
    def waiting(self) -> list[Sequence]:
        """In order of arrival."""
        return sorted(chain.from_iterable(self._lines.values()), key=_age)

    def add(self, sequence: Sequence) -> None:
        assert num_pages_of(sequence.max_num_tokens) <= self.limits.num_pages
        self._lines.setdefault(sequence.account, deque()).append(sequence)
        self.num_waiting += 1
        self._counters.enter(sequence.account)

    def schedule(self, admit: Callable[[Sequence], Admission]) -> Batch:
        """The next step's batch.

        `admit(sequence)` leases a slot for the sequence's adapter if it can. A sequence that may
        not start is passed over and keeps its place in the line.
        """
        for sequence in self.running:
            self._keep_pages(sequence)
        plan = _Plan(StepBudget(self.limits.max_num_batched_tokens, self.limits.keys_per_row))
        self._decode(plan)
        plan.budget.streams_wait = bool(plan.works)
        self._prefill(plan, admit)
        self._speculate(plan)
        return Batch(tuple(plan.works.values()), tuple(plan.preempted))

    def remove(self, sequence: Sequence) -> bool:
        """Take a sequence out, wherever it is; True when it had been running."""
        if sequence in self.running:
            self._stop(sequence)
            self._counters.leave(sequence.account)
            return True
        if sequence in self._lines.get(sequence.account, ()):
            self._unqueue(sequence)
            self._counters.leave(sequence.account)
        return False

    def health(self) -> dict[str, object]:
        """Pages that running sequences use are neither free nor idle; tokens are counted once a
        sequence, when it first starts."""
        return {
            "pages": {
                "total": self.pages.num_pages,
                "free": self.pages.num_free,
                "cached": self.pages.num_idle,
            },
            "preemptions": self.num_preemptions,
            "prefix_cache": {
                "prompt_tokens": self.num_prompt_tokens,
                "hit_tokens": self.num_cached_tokens,
            },
            "speculation": {
                "guessed": self.guesses.num_guessed,
                "accepted": self.guesses.num_accepted,
            },
        }

    def _decode(self, plan: _Plan) -> None:
        for sequence in sorted(self.running, key=_age):
            if self._is_decoding(sequence) and self._grow(plan, sequence):
                self._plan_work(plan, Work(sequence, sequence.num_computed, 1))

    def _is_decoding(self, sequence: Sequence) -> bool:
        if sequence.num_computed < len(sequence.prompt_ids):
            return False
        is_last = sequence.num_computed == sequence.num_tokens - 1
        return is_last or not self.limits.is_cut_invariant

    def _grow(self, plan: _Plan, sequence: Sequence) -> bool:
        """Give the sequence a page for its next token, whoever younger must give way for it."""
        if sequence in plan.preempted:
            return False
        while sequence.num_computed >= len(sequence.pages) * PAGE:
            if (more := self.pages.take(1)) is not None:
                sequence.pages += more
                continue
            plan.is_closed = True
            youngest = max(self.running, key=_age)
            self._preempt(plan, youngest)
            if youngest is sequence:
                return False
        return True

    def _prefill(self, plan: _Plan, admit: Callable[[Sequence], Admission]) -> None:
        """Chunks of prompts, one at a time for the account that was served least."""
        unfinished: dict[Hashable, deque[Sequence]] = {}
        for sequence in sorted(self.running, key=_age):
            if not self._is_decoding(sequence):
                unfinished.setdefault(sequence.account, deque()).append(sequence)

        def turn(account: Hashable) -> tuple[float, int, Hashable]:
            first = (unfinished.get(account) or self._lines[account])[0]
            return self._counters.served(account), first.id, account

        turns = [turn(account) for account in {*unfinished, *self._lines}]
        heapq.heapify(turns)
        while turns and plan.budget.left >= 1:
            _, _, account = heapq.heappop(turns)
            if line := unfinished.get(account):
                sequence = line.popleft()
                work = None if sequence in plan.preempted else self._chunk(plan, sequence)
            else:
                work = self._start(plan, account, admit)
                if work is None:
                    continue
            if work is not None:
                self._plan_work(plan, work)
            if unfinished.get(account) or account in self._lines:
                heapq.heappush(turns, turn(account))

    def _speculate(self, plan: _Plan) -> None:
        """Let each of few sequences guess ahead, with what is left of the budget."""
        num_guesses = self.limits.num_speculative_tokens
        if not num_guesses or len(self.running) > MAX_GUESSING:
            return
        guessing = [w for w in plan.works.values() if w.sequence.sampling.takes_likeliest]
        for work in [w for w in guessing if w.is_decode]:
            sequence = work.sequence
            if sequence.lookup is None:
                sequence.lookup = Lookup(num_guesses, self.guesses)
            left = sequence.sampling.max_tokens - len(sequence.output_ids) - 1
            most = min(num_guesses // len(self.running), left, int(plan.budget.left))
            draft = sequence.lookup.guess(sequence.prompt_ids, sequence.output_ids, most)
            draft = draft[: self._room(sequence, len(draft))]
            plan.works[sequence.id] = replace(work, draft=draft)
            plan.budget.left -= len(draft)

    def _room(self, sequence: Sequence, num_more: int) -> int:
        """How many tokens more than it has the sequence has pages for, taking those nobody uses."""
        missing = num_pages_of(sequence.num_tokens + num_more) - len(sequence.pages)
        if missing > 0 and (more := self.pages.take(missing)) is not None:
            sequence.pages += more
        return min(num_more, len(sequence.pages) * PAGE - sequence.num_tokens)

    def _chunk(self, plan: _Plan, sequence: Sequence, start: int | None = None) -> Work | None:
        """The sequence's next tokens; None when they do not fit what is left of the budget."""
        start = sequence.num_computed if start is None else start
        if self.limits.is_cut_invariant:
            wanted = min(sequence.num_tokens - start, self.limits.prefill_chunk)
            return Work(sequence, start, plan.budget.fitting(start, wanted))
        length = min(len(sequence.prompt_ids) - start, self.limits.prefill_chunk)
        return Work(sequence, start, length) if length <= plan.budget.left else None

    def _start(
        self, plan: _Plan, account: Hashable, admit: Callable[[Sequence], Admission]
    ) -> Work | None:
        """The first work of the account's next sequence; None when none may start now."""
        while not plan.is_closed and (line := self._lines.get(account)):
            sequence = line[0]
            cached = self._cached_pages(sequence)
            work = self._chunk(plan, sequence, len(cached) * PAGE)
            victims = self._make_way(sequence, cached)
            overtaken = any(s.num_overtaken >= MAX_OVERTAKEN for s in plan.passed_over)
            if work is None or victims is None or overtaken:
                plan.is_closed = True
                return None
            admission = admit(sequence)
            if admission is Admission.FAILED:
                continue
            if admission is Admission.NO_SLOT:
                plan.passed_over.append(sequence)
            if admission is not Admission.ADMITTED:
                return None
            for passed_over in plan.passed_over:
                passed_over.num_overtaken += 1
            for victim in victims:
                self._preempt(plan, victim)
                plan.is_closed = True
            self._admit(sequence, cached)
            return work
        return None

    def _cached_pages(self, sequence: Sequence) -> list[int]:
        """Kept pages that the sequence begins with. Its last token is computed in any case, and
        each whose log probability is asked for."""
        if not self.limits.enable_prefix_caching or sequence.sampling.prompt_logprobs is not None:
            return []
        return self.pages.find(map(sequence.page_key, range((sequence.num_tokens - 1) // PAGE)))

    def _make_way(self, sequence: Sequence, cached: list[int]) -> list[Sequence] | None:
        """Whom to preempt so that the sequence can start; None when it must wait.

        It needs a seat, its pages, and one page more for each that runs, so that the next step
        does not preempt again. Running sequences give way only when their account has more than
        its share of the seats or the pages, and the waiting one would not have more than its own.
        """
        victims: list[Sequence] = []
        num_needed = num_pages_of(sequence.num_tokens) - len(cached)
        num_available = self.pages.num_available(cached)
        while (
            len(self.running) - len(victims) >= self.limits.max_num_seqs
            or num_needed + len(self.running) - len(victims) > num_available
        ):
            victim = self._youngest_above_share(sequence, victims)
            if victim is None:
                return None
            victims.append(victim)
            num_available += self.pages.num_held_alone(victim.pages, cached)
        return victims

    def _youngest_above_share(self, sequence: Sequence, gone: list[Sequence]) -> Sequence | None:
        """The youngest sequence of the account that is most above its share of the server."""
        share = 1 / min(self._counters.num_active, self.limits.max_num_seqs)
        of: dict[Hashable, list[Sequence]] = {sequence.account: []}
        for running in self.running:
            if running not in gone:
                of.setdefault(running.account, []).append(running)
        used = {account: self._used(sequences) for account, sequences in of.items()}
        if self._used([*of[sequence.account], sequence]) > share:
            return None
        above = [account for account in of if used[account] > share and len(of[account]) > 1]
        if not above:
            return None
        return max(of[max(above, key=used.__getitem__)], key=_age)

    def _used(self, sequences: list[Sequence]) -> float:
        """The share of the server that these take: of its seats or of its pages, whichever is
        larger (Ghodsi et al. 2011, "Dominant Resource Fairness")."""
        num_pages = sum(num_pages_of(sequence.num_tokens) for sequence in sequences)
        seats = len(sequences) / self.limits.max_num_seqs
        return max(seats, num_pages / self.limits.num_pages)

    def _admit(self, sequence: Sequence, cached: list[int]) -> None:
        self._unqueue(sequence)
        self.running.append(sequence)
        sequence.pages = self.pages.share(cached)
        more = self.pages.take(num_pages_of(sequence.num_tokens) - len(cached))
        assert more is not None
        sequence.pages += more
        sequence.num_kept = len(cached)
        sequence.num_computed = len(cached) * PAGE
        if not sequence.num_preempted:
            sequence.num_cached = sequence.num_computed
            self.num_cached_tokens += sequence.num_cached
            self.num_prompt_tokens += len(sequence.prompt_ids)

    def _preempt(self, plan: _Plan, sequence: Sequence) -> None:
        """Back to the head of its line, its output kept."""
        if (work := plan.works.pop(sequence.id, None)) is not None:
            plan.budget.give_back(work.start, work.length)
        self._stop(sequence)
        sequence.pages = sequence.pages[:0]
        sequence.num_computed = 0
        sequence.num_preempted += 1
        self._lines.setdefault(sequence.account, deque()).appendleft(sequence)
        self.num_waiting += 1
        self.num_preemptions += 1
        plan.preempted.append(sequence)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._keep_pages(sequence)
        self.pages.give_back(sequence.pages)

    def _unqueue(self, sequence: Sequence) -> None:
        line = self._lines[sequence.account]
        line.remove(sequence)
        self.num_waiting -= 1
        if not line:
            del self._lines[sequence.account]

    def _keep_pages(self, sequence: Sequence) -> None:
        """Let others find the pages that the last step has filled."""
        if not self.limits.enable_prefix_caching:
            return
        for index in range(sequence.num_kept, sequence.num_computed // PAGE):
            self.pages.keep(sequence.pages[index], sequence.page_key(index))
            sequence.num_kept = index + 1

    def _plan_work(self, plan: _Plan, work: Work) -> None:
        sequence, end = work.sequence, work.start + work.length
        plan.works[sequence.id] = work
        plan.budget.take(work.start, work.length)
        num_new = max(end - max(work.start, sequence.num_charged), 0)
        sequence.num_charged = max(sequence.num_charged, end)
        weight = OUTPUT_WEIGHT if work.is_decode else 1
        self._counters.charge(sequence.account, weight * num_new)


def _age(sequence: Sequence) -> int:
    return sequence.id
