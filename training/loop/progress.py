"""What a person sees of a running training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TextIO

from tqdm import tqdm

from hotswap.training.loss import Tally


@dataclass(frozen=True, slots=True)
class Timing:
    """Tokens trained on are real ones, prompt and answer, without padding; validation time is
    counted apart."""

    num_tokens: int = 0
    train_s: float = 0.0
    validation_s: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        return Timing(
            self.num_tokens + other.num_tokens,
            self.train_s + other.train_s,
            self.validation_s + other.validation_s,
        )

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.train_s if self.train_s else 0.0


class Ending(StrEnum):
    """How a run ended. An interrupted one can go on."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Progress(Protocol):
    """Receives a run's events in order, its end in any case; changes nothing of the run."""

    def started(self, num_steps: int) -> None: ...

    def stepped(self, step: int, train: Tally, timing: Timing) -> None: ...

    def validated(self, step: int, validation: Tally) -> None: ...

    def ended(self, how: Ending) -> None: ...


class Silence:
    def started(self, num_steps: int) -> None: ...

    def stepped(self, step: int, train: Tally, timing: Timing) -> None: ...

    def validated(self, step: int, validation: Tally) -> None: ...

    def ended(self, how: Ending) -> None: ...


class Bar:
    """A bar with loss, token accuracy, tokens/s and the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[None] | None = None

    def started(self, num_steps: int) -> None:
        self._bar = tqdm(total=num_steps, unit="step", file=self._stream, dynamic_ncols=True)

    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        if self._bar is not None:
            if self._bar.n == 0:
                self._bar.initial = self._bar.n = (
                    step - 1
                )  # steps of an earlier process took no time
            self._bar.set_postfix_str(_figures(train, timing), refresh=False)
            self._bar.update(step - self._bar.n)

    def validated(self, step: int, validation: Tally) -> None:
        if self._bar is not None:
            self._bar.write(_validation_line(step, validation), file=self._stream)

    def ended(self, how: Ending) -> None:
        del how
        if self._bar is not None:
            self._bar.close()


class Lines:
    """One line for every tenth of the steps and for every validation."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._num_steps = 0
        self._interval = 1

    def started(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._interval = max(1, num_steps // 10)

    def stepped(self, step: int, train: Tally, timing: Timing) -> None:
        if step % self._interval and step != self._num_steps:
            return
        left_s = timing.train_s / step * (self._num_steps - step)
        figures = _figures(train, timing)
        self._write(f"step {step}/{self._num_steps}  {figures}  {left_s:.0f} s left")

    def validated(self, step: int, validation: Tally) -> None:
        self._write(_validation_line(step, validation))

    def ended(self, how: Ending) -> None: ...

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def progress_for(stream: TextIO) -> Progress:
    return Bar(stream) if stream.isatty() else Lines(stream)


def _figures(train: Tally, timing: Timing) -> str:
    return (
        f"loss {train.loss:.3f}  token accuracy {train.token_accuracy:.3f}"
        f"  {timing.tokens_per_s:.0f} tokens/s"
    )


def _validation_line(step: int, validation: Tally) -> str:
    return (
        f"step {step}: validation loss {validation.loss:.4f},"
        f" token accuracy {validation.token_accuracy:.3f}"
    )
