"""Files over HTTP, with the official client."""

from __future__ import annotations

import openai
import pytest

from hotswap.registry.http.planes import further_planes
from hotswap.training.jobs.plane import jobs_plane
from hotswap.training.settings import TrainingSettings
from tests.training.jobs.conftest import SETTINGS, Site, client_of

ROW = b'{"question": "one", "answer": "two"}\n'


def upload(client: openai.OpenAI, content: bytes = ROW, name: str = "rows.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


@pytest.mark.usefixtures("names_are_synced")
def test_uploaded_bytes_come_back_and_outlive_the_server(site: Site) -> None:
    content = bytes(range(256)) * 3000
    with site.open() as url, client_of(url) as client:
        file = client.files.create(file=("any.jsonl", content), purpose="fine-tune")
        assert (file.bytes, file.filename, file.purpose) == (768_000, "any.jsonl", "fine-tune")
        assert (file.object, file.status) == ("file", "processed")
    with site.open() as url, client_of(url) as client:
        assert client.files.retrieve(file.id) == file
        assert client.files.content(file.id).read() == content


def test_pages_of_a_list_hold_every_file_once_in_order(client: openai.OpenAI) -> None:
    sent = [upload(client, name=f"{i}.jsonl") for i in range(5)]

    first = client.files.list(limit=2)

    assert first.has_more
    assert [file.id for file in first.data] == sent[:2:-1]
    assert [file.id for file in client.files.list(limit=2)] == sent[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == sent
    assert list(client.files.list(purpose="batch")) == []
    with pytest.raises(openai.BadRequestError, match="'file-absent'"):
        client.files.list(after="file-absent")


def test_deleted_file_is_gone_for_good(site: Site) -> None:
    with site.open() as url, client_of(url) as client:
        file_id = upload(client)
        assert client.files.delete(file_id).deleted
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            client.files.content(file_id)
    with site.open() as url, client_of(url) as client:
        assert list(client.files.list()) == []
    assert list((site.home.jobs / "files").iterdir()) == []


def test_file_name_keeps_no_path(client: openai.OpenAI) -> None:
    for given in ("../../etc/rows.jsonl", "c:\\data\\rows.jsonl", ".rows.jsonl"):
        assert client.files.retrieve(upload(client, name=given)).filename == "rows.jsonl"


def test_file_that_is_too_large_is_refused_and_nothing_is_kept(
    client: openai.OpenAI, site: Site
) -> None:
    with pytest.raises(openai.APIStatusError, match="at most 1065536 bytes") as caught:
        upload(client, b"x" * 1_100_000)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert list((site.home.jobs / "files").iterdir()) == []


def test_upload_names_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match="expected 'fine-tune', found 'batch'"
    ) as found:
        client.files.create(file=("rows.jsonl", ROW), purpose="batch")
    assert found.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="expected a file"):
        client.post("/files", cast_to=object, body={"purpose": "fine-tune"})


def test_file_is_seen_by_the_token_that_sent_it_and_by_admins(site: Site, url: str) -> None:
    with (
        site.login(url, "ann", "push:ann/*") as ann,
        site.login(url, "ben", "push:*") as ben,
        site.login(url, "root", "admin") as root,
        site.login(url, "app", "infer:*") as app,
    ):
        file_id = upload(ann)
        assert ann.files.retrieve(file_id) == root.files.retrieve(file_id)
        assert list(ben.files.list()) == []
        for call in (ben.files.retrieve, ben.files.content, ben.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file_id)
        with pytest.raises(openai.PermissionDeniedError, match="push"):
            upload(app)


def test_server_takes_up_the_jobs_unless_they_are_switched_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = site.surroundings
    assert [plane.name for plane in further_planes(around)] == ["jobs"]
    monkeypatch.setenv("HOTSWAP_TRAINING_JOBS", "false")
    assert further_planes(around) == []
    off = TrainingSettings.model_validate({**SETTINGS.model_dump(), "jobs": False})
    assert jobs_plane(around, off) is None
