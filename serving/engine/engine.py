"""The loop: take in requests, let the scheduler choose, let the runner compute, hand out tokens.

One thread owns the scheduler, the slots and the runner; other threads only `submit` and `abort`.
Knows no tensors.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import HotswapError, InvalidRequest, ServerBusy
from hotswap.serving.adapters.slots import SlotTable
from hotswap.serving.engine.scheduler import Admission, Limits, Scheduler
from hotswap.serving.engine.sequence import Batch, Delta, FinishReason, NextToken, Sequence

_log = logging.getLogger(__name__)

AdapterT = TypeVar("AdapterT")
_AdapterT_co = TypeVar("_AdapterT_co", covariant=True)
_AdapterT_contra = TypeVar("_AdapterT_contra", contravariant=True)


class Runner(Protocol[_AdapterT_contra]):
    """The tensors, as the engine sees them."""

    def attach(self) -> None:
        """Called once, on the engine's thread, before anything else."""
        ...

    def load(self, slot: int, adapter: _AdapterT_contra) -> None:
        """Put an adapter's weights into a slot; raises HotswapError when they do not fit."""
        ...

    def try_out(self, slot: int, adapter: _AdapterT_contra) -> Iterator[None] | None:
        """What must be run before the adapter in a slot answers, one forward pass an item; None
        when nothing must. Raises HotswapError when the adapter must not answer."""
        ...

    def execute(self, batch: Batch) -> list[list[NextToken]]:
        """Run one forward pass; what each work gives: the next tokens when it samples."""
        ...

    def release(self, sequence: Sequence) -> None:
        """Free what is kept for a sequence."""
        ...


class AdapterSource(Protocol[_AdapterT_co]):
    """Where adapters come from, as the engine sees it."""

    def get(self, adapter: Digest) -> _AdapterT_co | None:
        """The adapter if it is in memory, else None while it is being fetched; never waits.

        Raises HotswapError when it cannot be had.
        """
        ...

    def expect(self, request: int, adapters: Iterable[Digest]) -> None:
        """Fetch adapters for a request, and keep them in memory until `release`."""
        ...

    def release(self, request: int) -> None:
        """The request has taken its adapters or has ended; nothing if it expects none."""
        ...


class Engine(Generic[AdapterT]):
    """A sequence that was submitted gets exactly one last Delta, whatever happens; while it waits,
    and only then, its adapters are expected."""

    def __init__(
        self,
        runner: Runner[AdapterT],
        adapters: AdapterSource[AdapterT],
        limits: Limits,
        *,
        max_loras: int,
        max_num_waiting: int = 4096,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """`after_step` is called on the engine's thread when a step's Deltas have been delivered,
        and when others have that no step gave."""
        self._runner = runner
        self._adapters = adapters
        self.limits = limits
        self._scheduler = Scheduler(limits)
        self._slots = SlotTable(max_loras)
        self._max_num_waiting = max_num_waiting
        self._after_step = after_step
        self._wakeup = threading.Condition()
        self._inbox: deque[Sequence] = deque()
        self._aborted: deque[Sequence] = deque()
        self._is_awake = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.num_steps = 0
        self._tried: set[Digest] = set()
        self._trials: dict[Digest, Iterator[None]] = {}  # each has a lease of its slot
        self._refused: dict[Digest, Exception] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current step; what still runs is aborted."""
        with self._wakeup:
            self._is_stopping = True
            self._wakeup.notify()
        self._thread.join()

    def submit(self, *sequences: Sequence) -> None:
        """Queue all of the sequences, or none. Callable from any thread.

        Raises InvalidRequest for more than may ever wait, ServerBusy when too many wait now.
        """
        if len(sequences) > self._max_num_waiting:
            raise InvalidRequest(
                f"the request asks for {len(sequences)} answers and this server queues "
                f"{self._max_num_waiting}; send fewer prompts, or a smaller n, in one request"
            )
        with self._wakeup:
            num_waiting = len(self._inbox) + self._scheduler.num_waiting
            if self._is_stopping or num_waiting + len(sequences) > self._max_num_waiting:
                raise ServerBusy(
                    "the server is stopping; try another one"
                    if self._is_stopping
                    else f"{num_waiting} requests are waiting already, and at most "
                    f"{self._max_num_waiting} may; try again later"
                )
            for sequence in sequences:
                self._expect(sequence)
                self._inbox.append(sequence)
            self._notify()

    def abort(self, sequence: Sequence) -> None:
        """End a sequence early; it frees its room before the next step."""
        with self._wakeup:
            self._aborted.append(sequence)
            self._notify()

    def wake(self) -> None:
        """Look again: an adapter has arrived."""
        with self._wakeup:
            self._notify()

    def is_busy(self) -> bool:
        """Whether a request runs or waits. Callable from any thread."""
        scheduler = self._scheduler
        return bool(scheduler.running or scheduler.num_waiting or self._inbox)

    def health(self) -> dict[str, object]:
        return {
            "running": len(self._scheduler.running),
            "waiting": self._scheduler.num_waiting + len(self._inbox),
            "steps": self.num_steps,
            "loaded_adapters": [str(digest) for digest in self._slots.loaded],
            **self._scheduler.health(),
        }

    def _notify(self) -> None:
        self._is_awake = True
        self._wakeup.notify()

    def _run(self) -> None:
        self._runner.attach()
        while self._take_in():
            has_run = self._step()
            self._after_step()
            if not has_run:
                with self._wakeup:
                    self._wakeup.wait_for(lambda: self._is_awake or self._is_stopping)
        for sequence in (*self._scheduler.running, *self._scheduler.waiting, *self._inbox):
            self._finish(sequence, Delta(finish_reason=FinishReason.ABORT))
        self._after_step()

    def _take_in(self) -> bool:
        """Move what other threads left into the scheduler; False when it is time to end."""
        with self._wakeup:
            self._is_awake = False
            arrived, aborted = list(self._inbox), list(self._aborted)
            self._inbox.clear()
            self._aborted.clear()
        for sequence in arrived:
            self._scheduler.add(sequence)
        for sequence in aborted:
            self._finish(sequence, Delta(finish_reason=FinishReason.ABORT))
        return not self._is_stopping

    def _step(self) -> bool:
        """One forward pass; False when there was nothing to run."""
        batch = self._scheduler.schedule(self._admit)
        is_trying = self._advance_trial()
        for sequence in batch.preempted:
            self._expect(sequence)
            self._release_leases(sequence)
        if not batch:
            return is_trying
        try:
            tokens = self._runner.execute(batch)
        except Exception as error:
            _log.exception("a step failed; its requests are given up")
            for work in batch.works:
                self._fail(work.sequence, error)
            return True
        self.num_steps += 1
        for work, given in zip(batch.works, tokens, strict=True):
            for delta in work.advance(given):
                self._hand_out(work.sequence, delta)
        return True

    def _admit(self, sequence: Sequence) -> Admission:
        """Lease slots for all of the sequence's adapters or for none, loading those in memory."""
        try:
            adapters = [(digest, self._adapters.get(digest)) for digest, _ in sequence.adapters]
            for digest, _ in adapters:
                if (refusal := self._refused.pop(digest, None)) is not None:
                    raise refusal
        except Exception as error:
            self._fail(sequence, error)
            return Admission.FAILED
        leased: list[tuple[Digest, int]] = []
        for digest, adapter in adapters:
            if adapter is None:
                admission = Admission.NOT_HERE
                break
            try:
                slot = self._lease(digest, adapter)
            except Exception as error:
                self._fail(sequence, error)
                admission = Admission.FAILED
                break
            if slot is None:
                admission = Admission.NO_SLOT
                break
            leased.append((digest, slot))
            if not self._was_tried(digest, slot, adapter):
                admission = Admission.NOT_HERE
                break
        else:
            scales = (scale for _, scale in sequence.adapters)
            sequence.slots = tuple(zip((slot for _, slot in leased), scales, strict=True))
            self._adapters.release(sequence.id)
            return Admission.ADMITTED
        for digest, _ in leased:
            self._slots.release(digest)
        return admission

    def _was_tried(self, digest: Digest, slot: int, adapter: AdapterT) -> bool:
        """Whether the adapter may answer; if not yet, its trial is under way."""
        if digest in self._tried:
            return True
        if digest not in self._trials:
            trial = self._runner.try_out(slot, adapter)
            if trial is None:
                self._tried.add(digest)
                return True
            self._slots.acquire(digest)
            self._trials[digest] = trial
        return False

    def _advance_trial(self) -> bool:
        """One forward pass of the oldest trial: the most that running sequences wait for it in a
        step. False when there is none."""
        if not self._trials:
            return False
        digest, trial = next(iter(self._trials.items()))
        try:
            next(trial)
            return True
        except StopIteration:
            self._tried.add(digest)
        except Exception as error:
            self._refused[digest] = error
        del self._trials[digest]
        self._slots.release(digest)
        return True

    def _lease(self, digest: Digest, adapter: AdapterT) -> int | None:
        """A slot that holds the adapter; None when all are leased. Raises what `load` does."""
        lease = self._slots.acquire(digest)
        if lease is None:
            return None
        if lease.is_new:
            try:
                self._runner.load(lease.slot, adapter)
            except Exception:
                self._slots.forget(digest)
                raise
        return lease.slot

    def _hand_out(self, sequence: Sequence, delta: Delta) -> None:
        if delta.is_last:
            self._finish(sequence, delta)
        else:
            self._deliver(sequence, delta)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        if not isinstance(error, HotswapError):
            error = HotswapError(f"the engine failed on this request: {error}")
        self._finish(sequence, Delta(error=error))

    def _finish(self, sequence: Sequence, delta: Delta) -> None:
        if sequence.is_finished:
            return
        sequence.is_finished = True
        was_running = self._scheduler.remove(sequence)
        self._adapters.release(sequence.id)
        self._runner.release(sequence)
        if was_running:
            self._release_leases(sequence)
        self._deliver(sequence, delta)

    def _expect(self, sequence: Sequence) -> None:
        self._adapters.expect(sequence.id, (digest for digest, _ in sequence.adapters))

    def _release_leases(self, sequence: Sequence) -> None:
        for digest, _ in sequence.adapters:
            self._slots.release(digest)

    def _deliver(self, sequence: Sequence, delta: Delta) -> None:
        """A receiver that has gone away must not stop the others."""
        try:
            sequence.deliver(delta)
        except Exception:
            _log.exception("request %d cannot be delivered to", sequence.id)
