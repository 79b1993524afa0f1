from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.serving.base_model import BaseDirectory
from tests.peft_adapters import make_adapter


@pytest.fixture(scope="session")
def adapter(base: BaseDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "adapter", seed=1)
