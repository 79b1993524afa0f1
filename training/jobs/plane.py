"""Builds the parts of the jobs in order and returns them as a plane of the serving process."""

from __future__ import annotations

from registry.app import Plane
from registry.planes import Surroundings
from registry.settings import read_section
from training.jobs.files import Files
from training.jobs.files_api import files_router
from training.settings import TrainingSettings

_MB = 1_000_000
_FORM_BYTES = 64 << 10  # what a multipart form adds to its file


def jobs_plane(around: Surroundings, settings: TrainingSettings | None = None) -> Plane | None:
    """None when the operator has switched jobs off."""
    settings = settings or read_section("training", TrainingSettings)
    if not settings.jobs:
        return None
    files = Files(around.home.jobs / "files")
    max_bytes = settings.max_file_mb * _MB + _FORM_BYTES
    return Plane("jobs", files_router(files), max_body_bytes={"/v1/files": max_bytes})
