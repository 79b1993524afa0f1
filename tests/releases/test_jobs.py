"""Job folders that earlier releases made: jobs are listed, and those that wait or ran go on.

`jobs-<release>.tar.xz` holds a job that succeeded, a paused one and one that ran when its server
ended, with their files and runs; their base is in `store-<release>.tar.xz`.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from hotswap.registry.domain.errors import StoreTooNew
from hotswap.registry.registry import Registry
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.jobs.store import FORMAT, admit
from hotswap.training.settings import TrainingHome
from tests.serving.conftest import registry
from tests.training.jobs.conftest import Site
from tests.training.jobs.test_jobs import messages, opened, until

__all__ = ["registry"]

HERE = Path(__file__).parent
ARCHIVES = sorted(HERE.glob("jobs-*.tar.xz"))


@dataclass(frozen=True)
class Left:
    """What a release left: a home with jobs, and their ids by how they stood."""

    site: Site
    ids: dict[str, str]

    @property
    def root(self) -> Path:
        return self.site.home.jobs

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def left(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> Left:
    for name in (request.param.name, request.param.name.replace("jobs-", "store-")):
        with tarfile.open(HERE / name) as archive:
            archive.extractall(tmp_path / name, filter="data")
    (home,) = (tmp_path / request.param.name).iterdir()
    (store,) = (tmp_path / request.param.name.replace("jobs-", "store-")).iterdir()
    facts = json.loads((home / "facts.json").read_text())
    base = BaseDirectory(store / "base", facts.pop("base"))
    return Left(Site(base, registry, TrainingHome(home)), facts)


def test_jobs_stand_as_they_did_and_go_on_from_their_steps(left: Left) -> None:
    with opened(left.site) as client:
        jobs = client.fine_tuning.jobs
        done, paused = (jobs.retrieve(left.ids[status]) for status in ("succeeded", "paused"))
        assert (done.status, paused.status) == ("succeeded", "paused")
        assert client.files.content(done.result_files[0]).text.startswith("step,train_loss")

        jobs.resume(paused.id)

        for job_id in (left.ids["running"], paused.id):
            ended = until(client, job_id, lambda job: job.status == "succeeded")
            assert ended.fine_tuned_model is not None
            steps = [text for text in messages(client, job_id) if "training loss" in text]
            assert len(steps) < 2 * 90  # from the beginning it were 90 more
            assert steps[-1].startswith("Step 90:")


def test_the_folder_states_its_format(left: Left) -> None:
    admit(left.root)
    assert json.loads((left.root / "format.json").read_text())["format"] == FORMAT


def test_a_folder_of_a_newer_format_is_refused_in_one_line_and_not_touched(left: Left) -> None:
    document = {"format": FORMAT + 1, "release": "9.0.0"}
    (left.root / "format.json").write_text(json.dumps(document))
    before = left.files()

    with pytest.raises(StoreTooNew) as refused, left.site.open():
        pass

    assert left.files() == before
    assert "9.0.0" in refused.value.message
    assert "\n" not in refused.value.message
