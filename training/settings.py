"""What an operator chooses for training on a server."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from hotswap.registry.settings import Settings
from hotswap.serving.settings import ServingHome


class TrainingSettings(Settings):
    """`HOTSWAP_TRAINING_<FIELD>` in the environment."""

    jobs: bool = True
    """Whether a server takes files and fine-tuning jobs."""
    max_running_jobs: int = Field(1, ge=1)
    """Jobs that train at the same time; the others are queued."""
    job_threads: int = Field(max(1, (os.cpu_count() or 1) // 2), ge=1)
    """Threads that one job computes on; half of the cores by default."""
    job_niceness: int = Field(19, ge=0, le=19)
    """How far jobs stand back behind serving for the processor: 19 leaves them what is idle."""
    job_share: float = Field(0.1, ge=0, le=1)
    """The part of the time that a job runs while requests are answered; without them it runs on. 1
    never stops it; 0 leaves it only the time between requests."""
    max_file_mb: int = Field(512, ge=1)
    """The largest file that can be uploaded."""


class TrainingHome(ServingHome):
    """Where training keeps its runs, jobs and the rows of large files."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.row_cache = root / "cache" / "rows"
        self.runs = root / "runs"
        self.jobs = root / "jobs"
