"""What is different between S3 servers, and that the store knows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import StoreUnsuitable
from registry.settings import RegistrySettings
from registry.storage import open_store
from registry.storage.objects import ObjectStore, probe
from tests import s3rver
from tests.contracts.conftest import BUCKET


@pytest.fixture
def overwriting_store(
    tmp_path: Path, s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """A store in s3rver, which answers 200 to every conditional write."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3rver.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3rver.SECRET_KEY)
    with s3rver.s3rver(tmp_path, BUCKET) as url:
        store = open_store(f"s3://{BUCKET}/x", RegistrySettings(s3_endpoint=url))
        yield store
        store.close()


def test_server_that_overwrites_is_refused_with_the_reason(overwriting_store: ObjectStore) -> None:
    with pytest.raises(StoreUnsuitable, match="does not honour create-once writes"):
        probe(overwriting_store)
    assert list(overwriting_store.list("")) == []
