"""What a curve of losses says: when to stop, and since when a run only learns its rows by heart.

Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MIN_LATER = 2  # one higher measurement may be chance
_MIN_RISE = 0.01  # of the lowest loss: less is noise


@dataclass(frozen=True, slots=True)
class Measured:
    """The validation loss at `step`, and the mean training loss per supervised token over the
    steps since the measurement before (None at step 0)."""

    step: int
    validation_loss: float
    train_loss: float | None


def is_exhausted(losses: Sequence[float], patience: int, min_delta: float) -> bool:
    """Whether the last `patience` validation losses all failed to improve, where improving means
    to be more than `min_delta` below the loss of the last improvement (the first loss is one)."""
    lowest, since = float("inf"), 0
    for loss in losses:
        if loss < lowest - min_delta:
            lowest, since = loss, 0
        else:
            since += 1
    return since >= patience


def overfit_from(curve: Sequence[Measured]) -> int | None:
    """The step from which a run overfits, None when it does not.

    That is the step of the lowest validation loss (the first of equals), if
    - at least 2 measurements follow it,
    - the last validation loss is more than 1 % above the lowest, and
    - the last training loss is below the training loss at the lowest (below that of the first
      steps when the lowest is the base's own, at step 0).
    So a loss that rises because training diverges is not called overfitting.
    """
    if not curve:
        return None
    best = min(range(len(curve)), key=lambda index: curve[index].validation_loss)
    last = curve[-1]
    if len(curve) - 1 - best < _MIN_LATER:
        return None
    rises = last.validation_loss > curve[best].validation_loss * (1 + _MIN_RISE)
    before = curve[max(best, 1)].train_loss
    falls = before is not None and last.train_loss is not None and last.train_loss < before
    return curve[best].step if rises and falls else None
