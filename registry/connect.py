"""From a location to an open registry: an HTTP URL, a directory, or `s3://bucket/prefix`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.settings import Home, RegistrySettings, read_section, read_toml

if TYPE_CHECKING:
    from hotswap.registry.events.webhooks import WebhookSettings
    from hotswap.registry.registry import Registry


@contextmanager
def connect(
    location: str | None, settings: RegistrySettings, home: Home
) -> Iterator[AdapterRegistry]:
    """The registry at `location` (None: `settings.url`), closed at the end."""
    location = location or settings.url
    if location.startswith(("http://", "https://")):
        token = None if settings.token is None else settings.token.get_secret_value()
        with RegistryClient(location, token=token) as client:
            yield client
    else:
        with open_registry(settings, home, store=location) as registry:
            yield registry


@contextmanager
def open_registry(
    settings: RegistrySettings, home: Home, *, store: str | None = None
) -> Iterator[Registry]:
    """The registry in this process over `store` (None: the settings' one), closed at the end."""
    # The database layer takes half a second to import, which a client command need not wait for.
    from hotswap.registry.database.catalog import Catalog
    from hotswap.registry.domain.policy import ReleasePolicy
    from hotswap.registry.registry import Registry
    from hotswap.registry.storage import open_store

    configured = settings.store or str(home.store)
    location = store or configured
    policy = read_toml(settings.policy, ReleasePolicy) if settings.policy else None
    catalog = Catalog(_catalog_of(location, location == configured, settings, home))
    try:
        object_store = open_store(location, settings)
        try:
            yield Registry.open(object_store, catalog, policy=policy)
        finally:
            object_store.close()
    finally:
        catalog.close()


def signing(registry: AdapterRegistry, key: Path | None = None) -> AdapterRegistry:
    """The registry, whose pushes and moves are signed by the key in the
    file, or in that of the settings, if either is named."""
    path = key or read_section("registry", RegistrySettings).sign_key
    if path is None:
        return registry
    from hotswap.registry.bundles.signed import SignedRegistry
    from hotswap.registry.signing import SigningKey  # takes 40 ms

    return SignedRegistry(registry, SigningKey.load(path.expanduser()))


def configured_webhooks(settings: RegistrySettings) -> WebhookSettings | None:
    """What a server of the registry sends to; raises InvalidSettings for the file."""
    from hotswap.registry.events.webhooks import WebhookSettings

    return read_toml(settings.webhooks, WebhookSettings) if settings.webhooks else None


def configured_catalog(settings: RegistrySettings, home: Home) -> str | Path:
    """The URL or the SQLite file of the configured store's catalog."""
    return settings.catalog or _made(home.catalog)


def _catalog_of(
    location: str, is_configured: bool, settings: RegistrySettings, home: Home
) -> str | Path:
    """The configured catalog belongs to the configured store; other stores get their own."""
    if is_configured:
        return configured_catalog(settings, home)
    place = location if "://" in location else str(Path(location).expanduser().absolute())
    return _made(home.root / "catalogs" / f"{Digest.of(place.encode()).short}.sqlite")


def _made(file: Path) -> Path:
    """The file, in a directory that is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
