"""Reads the environment, once and nowhere else. Settings are frozen; unknown names are errors.

`HOTSWAP_HOME` moves all local state. Other variables are `HOTSWAP_<SECTION>_<FIELD>`, for example
`HOTSWAP_REGISTRY_STORE`. Each layer has a section and names it in the entry-point group
`hotswap.settings`; the classes of other layers are not imported here. A setting may name a TOML
file, which is read here too.
"""

from __future__ import annotations

import os
import pwd
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.domain.values import ValueObject, first_problem

MIN_PART_BYTES = 5 << 20  # S3's own limit
# A sweep's shortest grace period: what a URL can still write is never being swept.
MAX_PRESIGN_EXPIRY_S = 3600
PREFIX = "HOTSWAP_"
GROUP = "hotswap.settings"

SettingsT = TypeVar("SettingsT", bound="Settings")
HomeT = TypeVar("HomeT", bound="Home")
ModelT = TypeVar("ModelT", bound=BaseModel)


class Settings(ValueObject):
    """The form of every plane's settings: frozen, and nothing unknown. A field says what it means
    in the string below it."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RegistrySettings(Settings):
    """Where the registry keeps its data; None means a place below HOTSWAP_HOME."""

    store: str | None = None
    """A directory, or `s3://bucket/prefix`."""
    s3_endpoint: str | None = None
    """URL of an S3-compatible server; None is AWS."""
    s3_public_endpoint: str | None = None
    """URL of the same server for clients of the registry; None: `s3_endpoint`."""
    s3_region: str = "us-east-1"
    s3_checksums: Literal["when_required", "when_supported"] = "when_required"
    """Where boto3 adds checksums of its own. Writes carry their SHA-256 and reads are hashed in
    either mode; older servers do not understand what `when_supported` sends."""
    s3_multipart_bytes: int = Field(default=32 << 20, ge=MIN_PART_BYTES)
    """From this size on an object is sent in parts."""
    s3_part_bytes: int = Field(default=16 << 20, ge=MIN_PART_BYTES)
    """Size of a part; an upload holds at most this and s3_multipart_bytes in memory."""
    s3_presign_expiry_s: int = Field(default=900, ge=0, le=MAX_PRESIGN_EXPIRY_S)
    """How long a client may use a URL for its own transfer with the store, which must be reachable
    for it (else it falls back). 0: all bytes pass through the registry."""
    catalog: str | None = None
    """SQLAlchemy URL of the index; None is SQLite below HOTSWAP_HOME."""
    url: str = "http://127.0.0.1:8000"
    """Where the client commands find the registry's HTTP API."""
    token: SecretStr | None = None
    """What the client commands, and serving as a client, show the registry."""
    sign_key: Path | None = None
    """PEM file of the Ed25519 key with which push, alias and rollback sign."""
    policy: Path | None = None
    """TOML file with the rules of protected aliases; see `registry.domain.policy`."""
    webhooks: Path | None = None
    """TOML file with the webhooks a registry's server sends to; see `registry.events.webhooks`."""


class Home:
    """The directory below which all local state lives. A layer's own class adds its places."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        self.catalog = root / "catalog.sqlite"


def read_home(kind: type[HomeT], environment: Mapping[str, str] = os.environ) -> HomeT:
    """The home as the caller's layer sees it."""
    text = environment.get(f"{PREFIX}HOME")
    return kind(Path(text).expanduser().absolute() if text else Path.home() / ".hotswap")


def read_user(environment: Mapping[str, str] = os.environ) -> str:
    """Who acts, for version records and alias moves."""
    named = environment.get("USER") or environment.get("LOGNAME")
    if named:
        return named
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no entry
        return f"uid {os.getuid()}"


def read_section(
    section: str,
    kind: type[SettingsT],
    overrides: Mapping[str, object] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> SettingsT:
    """The settings of one plane from `HOTSWAP_<SECTION>_*`; `overrides` (not None) go first.

    Raises InvalidSettings for an unknown variable with our prefix or a value that does not fit.
    """
    start = f"{PREFIX}{section.upper()}_"
    others = [
        name
        for name in environment
        if name.startswith(PREFIX) and name != f"{PREFIX}HOME" and not name.startswith(start)
    ]
    if others:
        _require_known(others)
    values: dict[str, object] = {
        name.removeprefix(start).lower(): value
        for name, value in environment.items()
        if name.startswith(start)
    }
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        known = ", ".join(f"{start}{field.upper()}" for field in kind.model_fields)
        raise InvalidSettings(
            f"{section} settings: {first_problem(error)}; known variables: {known}"
        ) from None


def read_toml(path: Path, kind: type[ModelT]) -> ModelT:
    """The file as `kind`; raises InvalidSettings when it cannot be read or does not fit."""
    try:
        return kind.model_validate(tomllib.loads(path.expanduser().read_text("utf-8")))
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise InvalidSettings(f"{path}: {first_problem(error)}") from None


def _require_known(names: list[str]) -> None:
    """Raises InvalidSettings for a variable that belongs to no layer's section."""
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    starts = [f"{PREFIX}{entry.name.upper()}_" for entry in entry_points(group=GROUP)]
    for name in names:
        if not name.startswith(tuple(starts)):
            raise InvalidSettings(
                f"unknown environment variable {name}; expected {PREFIX}HOME or "
                + ", ".join(f"{start}…" for start in sorted(starts))
            )
