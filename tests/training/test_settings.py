"""Where training, as the highest layer, finds everything below one home."""

from __future__ import annotations

from pathlib import Path

from hotswap.registry.settings import read_home
from hotswap.training.settings import TrainingHome


def test_all_state_is_below_the_home(tmp_path: Path) -> None:
    home = read_home(TrainingHome, {"HOTSWAP_HOME": str(tmp_path)})
    places = {name: path.relative_to(tmp_path).as_posix() for name, path in vars(home).items()}
    assert places == {
        "root": ".",
        "store": "store",
        "catalog": "catalog.sqlite",
        "bases": "bases",
        "adapter_cache": "cache/adapters",
        "seen_moves": "seen-moves",
        "requests": "requests",
        "row_cache": "cache/rows",
        "runs": "runs",
        "jobs": "jobs",
    }
