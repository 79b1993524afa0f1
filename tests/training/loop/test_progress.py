from __future__ import annotations

import io

from hotswap.training.loop.progress import Bar, Ending, Lines, Timing, progress_for
from hotswap.training.loss import Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


TRAIN = Tally(loss_sum=6.0, correct=3, num_supervised=4)


def test_a_terminal_gets_a_bar_and_anything_else_lines() -> None:
    assert isinstance(progress_for(Terminal()), Bar)
    assert isinstance(progress_for(io.StringIO()), Lines)


def test_the_bar_shows_loss_token_accuracy_and_speed() -> None:
    terminal = Terminal()
    bar = Bar(terminal)

    bar.started(2)
    bar.stepped(2, TRAIN, Timing(num_tokens=100, train_s=2.0))
    bar.validated(2, TRAIN)
    bar.ended(Ending.FINISHED)

    assert "loss 1.500  token accuracy 0.750  50 tokens/s" in terminal.getvalue()
    assert "step 2: validation loss 1.5000, token accuracy 0.750" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_lines_come_at_intervals_with_the_time_left() -> None:
    stream = io.StringIO()
    lines = Lines(stream)

    lines.started(40)
    for step in range(1, 41):
        lines.stepped(step, TRAIN, Timing(num_tokens=10 * step, train_s=0.5 * step))

    shown = stream.getvalue().splitlines()
    assert len(shown) == 10
    assert shown[0] == "step 4/40  loss 1.500  token accuracy 0.750  20 tokens/s  18 s left"
