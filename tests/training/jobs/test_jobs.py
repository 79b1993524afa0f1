"""Fine-tuning jobs over HTTP, with the official client and real processes on the tiny base."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.fine_tuning_job import Error

from tests.tiny_base import make_tiny_base
from tests.training.jobs.conftest import Site, client_of
from tests.training.rows import counting

TIMEOUT_S = 120
COLUMNS = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: openai.OpenAI, content: bytes) -> str:
    return client.files.create(file=("rows.jsonl", content), purpose="fine-tune").id


def ask(client: openai.OpenAI, site: Site, *, num_epochs: int = 2, **more: object) -> FineTuningJob:
    supervised = {"hyperparameters": {"n_epochs": num_epochs, "batch_size": 8}}
    return client.fine_tuning.jobs.create(
        model=site.base.model_id,
        training_file=upload(client, lines(counting(24))),
        method={"type": "supervised", "supervised": supervised},  # type: ignore[typeddict-item]
        extra_body={"hotswap": {"r": 4, "checkpoint_every_steps": 1}},
        **more,  # type: ignore[arg-type]
    )


def until(
    client: openai.OpenAI, job_id: str, is_reached: Callable[[FineTuningJob], bool]
) -> FineTuningJob:
    """The job once it has come so far."""
    pause, deadline = threading.Event(), time.monotonic() + TIMEOUT_S
    while not is_reached(job := client.fine_tuning.jobs.retrieve(job_id)):
        assert time.monotonic() < deadline, job
        assert job.status != "failed", job.error
        pause.wait(0.1)
    return job


def failure(client: openai.OpenAI, job_id: str) -> Error:
    """Why the job failed, once it has."""
    pause, deadline = threading.Event(), time.monotonic() + TIMEOUT_S
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status != "failed":
        assert time.monotonic() < deadline, job
        assert job.status != "succeeded", job
        pause.wait(0.1)
    assert job.error is not None
    return job.error


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    """Oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id)][::-1]


@contextmanager
def opened(site: Site, *, with_serving: bool = False) -> Iterator[openai.OpenAI]:
    with site.open(with_serving=with_serving) as url, client_of(url) as client:
        yield client


def test_a_job_becomes_a_model_that_answers_at_once(site: Site) -> None:
    with opened(site, with_serving=True) as client:
        held_back = upload(client, lines(counting(6)))
        job = ask(client, site, suffix="count", validation_file=held_back, metadata={"a": "b"})
        assert (job.object, job.status) == ("fine_tuning.job", "validating_files")

        job = until(client, job.id, lambda job: job.status == "succeeded")

        assert job.fine_tuned_model is not None
        assert job.fine_tuned_model.startswith("ft/count")
        assert job.trained_tokens
        assert job.finished_at
        (file_id,) = job.result_files
        rows = list(csv.reader(io.StringIO(client.files.content(file_id).text)))
        assert rows[0] == COLUMNS
        assert [row[0] for row in rows[1:]] == ["1", "2", "3", "4", "5", "6"]
        answer = client.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": "two 1"}]
        )
        assert answer.choices[0].message.content is not None
        (named, *_) = client.fine_tuning.jobs.checkpoints.list(job.id)
        assert named.fine_tuning_job_id == job.id
        assert named.metrics.valid_loss is not None
        told = messages(client, job.id)
        assert told[0] == f"Created fine-tuning job: {job.id}"
        assert told[-1] == "The job has successfully completed"
        assert [found.id for found in client.fine_tuning.jobs.list(metadata={"a": "b"})] == [job.id]


def test_a_paused_job_goes_on_when_it_is_resumed_and_a_cancelled_one_does_not(site: Site) -> None:
    with opened(site) as client:
        first = ask(client, site, num_epochs=300)
        second = ask(client, site, num_epochs=1)
        until(client, first.id, lambda job: job.status == "running")
        assert client.fine_tuning.jobs.pause(first.id).status == "paused"
        until(client, second.id, lambda job: job.status == "succeeded")

        assert client.fine_tuning.jobs.resume(first.id).status in ("queued", "running")
        until(client, first.id, lambda job: job.status == "running")
        assert client.fine_tuning.jobs.cancel(first.id).status == "cancelled"

        with pytest.raises(openai.APIStatusError) as caught:
            client.fine_tuning.jobs.resume(first.id)
        assert caught.value.status_code in (400, 409)
        assert client.fine_tuning.jobs.retrieve(first.id).status == "cancelled"
        page = client.fine_tuning.jobs.list(limit=1)
        assert page.has_more
        assert [job.id for job in page] == [second.id, first.id]


def test_a_job_goes_on_after_the_server_was_restarted(site: Site) -> None:
    with opened(site) as client:
        job = ask(client, site, num_epochs=20)
        until(client, job.id, lambda job: job.status == "running")
    with opened(site) as client:
        until(client, job.id, lambda job: job.status == "succeeded")
        assert "The server was restarted; the job goes on" in messages(client, job.id)


def test_bad_rows_fail_the_job_with_the_place(site: Site) -> None:
    with opened(site) as client:
        job = client.fine_tuning.jobs.create(
            model=site.base.model_id,
            training_file=upload(client, lines(counting(3)) + b'{"question": "x"}\n'),
        )
        error = failure(client, job.id)
        assert error.code == "invalid_data"
        assert ":4: answer" in error.message
        assert messages(client, job.id)[-1] == error.message


def test_what_a_job_cannot_have_is_refused_by_its_field(site: Site) -> None:
    with opened(site) as client:
        with pytest.raises(openai.NotFoundError, match="file-absent"):
            client.fine_tuning.jobs.create(model=site.base.model_id, training_file="file-absent")
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(model="gpt-9", training_file="file-absent")
        assert caught.value.param == "model"


def test_a_run_that_ended_before_it_was_published_is_published_by_the_next_server(
    site: Site,
) -> None:
    with opened(site) as client:
        job = ask(client, site, num_epochs=1)
        done = until(client, job.id, lambda job: job.status == "succeeded")
    record = site.home.jobs / "jobs" / job.id / "job.json"
    known = json.loads(record.read_bytes())
    record.write_text(  # as a server leaves it that is killed before it has published
        json.dumps({**known, "status": "running", "fine_tuned_model": None, "result_files": []})
    )
    with opened(site) as client:
        again = until(client, job.id, lambda job: job.status == "succeeded")
        assert again.fine_tuned_model == done.fine_tuned_model
        assert again.result_files == done.result_files


def test_every_validated_step_is_a_checkpoint_and_the_best_one_has_the_model(site: Site) -> None:
    with opened(site) as client:
        held_back = upload(client, lines(counting(6)))
        job = ask(client, site, num_epochs=3, validation_file=held_back)
        seen = []

        def is_over(job: FineTuningJob) -> bool:
            seen.append(list(client.fine_tuning.jobs.checkpoints.list(job.id)))
            return job.status == "succeeded"

        done = until(client, job.id, is_over)

        while_it_ran, listed = seen[:-1], list(client.fine_tuning.jobs.checkpoints.list(job.id))
        assert [found.step_number for found in listed] == [9, 6, 3]
        best = min(listed, key=lambda found: found.metrics.valid_loss or math.inf)
        models = {found.step_number: found.fine_tuned_model_checkpoint for found in listed}
        assert models == {**dict.fromkeys((3, 6, 9)), best.step_number: done.fine_tuned_model}
        early = {found.id: found for found in itertools.chain(*while_it_ran)}
        assert early
        for found in listed:
            if (known := early.get(found.id)) is not None:
                assert (known.created_at, known.metrics) == (found.created_at, found.metrics)


def test_a_job_of_another_base_fails_and_those_of_this_one_go_on(
    site: Site, tmp_path: Path
) -> None:
    with opened(site) as client:
        job = ask(client, site, num_epochs=200)
        until(client, job.id, lambda job: job.status == "running")
    other = make_tiny_base(tmp_path, name="other")
    moved = Site(other, site.registry, site.home)
    with opened(moved) as client:
        error = failure(client, job.id)
        assert error.code == "base_mismatch"
        assert "'tiny'" in error.message
        assert "'other'" in error.message
        until(client, ask(client, moved, num_epochs=1).id, lambda job: job.status == "succeeded")


def test_a_run_begun_on_other_weights_of_the_base_fails_its_job(site: Site, tmp_path: Path) -> None:
    with opened(site) as client:
        job = ask(client, site, num_epochs=200)
        until(client, job.id, lambda job: job.status == "running")
    changed = Site(make_tiny_base(tmp_path, seed=1), site.registry, site.home)
    with opened(changed) as client:
        error = failure(client, job.id)
        assert (error.code, "base.weights_digest" in error.message) == ("base_mismatch", True)


def test_a_report_that_cannot_be_read_fails_the_job_and_frees_its_place(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python runs this when it starts, before the job takes standard output for itself.
    (tmp_path / "sitecustomize.py").write_text("print('a library says hello', flush=True)\n")
    with opened(site) as client:
        with monkeypatch.context() as changed:
            changed.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
            job = ask(client, site, num_epochs=1)
            error = failure(client, job.id)
        assert error.code == "job_report_unreadable"
        assert "a library says hello" in error.message
        until(client, ask(client, site, num_epochs=1).id, lambda job: job.status == "succeeded")


def test_runs_and_rows_that_cannot_be_read_fail_their_jobs_and_free_the_place(site: Site) -> None:
    with opened(site) as client:
        done = ask(client, site, num_epochs=1)
        until(client, done.id, lambda job: job.status == "succeeded")
        begun = ask(client, site, num_epochs=200)
        until(client, begun.id, lambda job: job.status == "running")
    record = site.home.jobs / "jobs" / done.id / "job.json"
    known = json.loads(record.read_bytes())
    record.write_text(json.dumps({**known, "status": "running", "fine_tuned_model": None}))
    (site.home.runs / done.id / "curve.csv").unlink()
    shutil.rmtree(site.home.jobs / "jobs" / begun.id / "train")
    with opened(site) as client:
        assert "curve.csv" in failure(client, done.id).message
        assert failure(client, begun.id).code == "invalid_data"
        until(client, ask(client, site, num_epochs=1).id, lambda job: job.status == "succeeded")
