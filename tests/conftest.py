from __future__ import annotations

import os
import sys

import pytest


@pytest.fixture(autouse=True)
def _threads_fit_the_model(request: pytest.FixtureRequest) -> None:
    """Tiny matrices gain nothing from a second thread and lose much when the machine is busy."""
    if "torch" in sys.modules:
        import torch

        is_real = request.node.get_closest_marker("real") is not None
        torch.set_num_threads(os.cpu_count() or 1 if is_real else 1)
