from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from hotswap.training.loop.state import Point
from hotswap.training.loss import Tally
from hotswap.training.runs.curves import write_csv, write_png

CURVE = (
    Point(1, 0.5, 2.0, Tally(6.0, 1, 4)),
    Point(2, 0.25, 1.0, Tally(3.0, 3, 4), Tally(5.0, 2, 4)),
)


def test_the_csv_has_a_line_for_every_step(tmp_path: Path) -> None:
    write_csv(tmp_path / "curve.csv", CURVE)

    with (tmp_path / "curve.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["step"], first["train_loss"], first["validation_loss"]) == ("1", "1.5", "")
    assert (second["validation_loss"], second["validation_token_accuracy"]) == ("1.25", "0.5")


def test_the_picture_shows_the_curve(tmp_path: Path) -> None:
    write_png(tmp_path / "curve.png", CURVE, Tally(7.0, 0, 4), best_step=2)
    write_png(tmp_path / "other.png", CURVE[:1], None, best_step=0)

    with Image.open(tmp_path / "curve.png") as image, Image.open(tmp_path / "other.png") as other:
        assert image.format == "PNG"
        assert image.size == (960, 720)
        assert image.tobytes() != other.tobytes()
