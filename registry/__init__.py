"""The bottom layer: what an adapter is, where its bytes and versions live, who points to which.

Imports neither torch nor the layers above it (`serving`, `training`). The public names are loaded
when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotswap.registry.bundles.bundle import Bundle as Bundle
    from hotswap.registry.bundles.transfer import pull as pull
    from hotswap.registry.bundles.transfer import push as push
    from hotswap.registry.connect import open_registry as open_registry
    from hotswap.registry.domain.access import AccessControl as AccessControl
    from hotswap.registry.domain.adapters import AdapterRef as AdapterRef
    from hotswap.registry.domain.adapters import AdapterVersion as AdapterVersion
    from hotswap.registry.domain.adapters import AliasMove as AliasMove
    from hotswap.registry.domain.digests import Digest as Digest
    from hotswap.registry.domain.errors import HotswapError as HotswapError
    from hotswap.registry.domain.manifest import BaseFingerprint as BaseFingerprint
    from hotswap.registry.domain.manifest import Manifest as Manifest
    from hotswap.registry.domain.prompts import PromptFormat as PromptFormat
    from hotswap.registry.domain.protocol import AdapterRegistry as AdapterRegistry
    from hotswap.registry.domain.protocol import Adapters as Adapters
    from hotswap.registry.domain.protocol import Aliases as Aliases
    from hotswap.registry.domain.protocol import Blobs as Blobs
    from hotswap.registry.domain.protocol import Events as Events
    from hotswap.registry.domain.protocol import Versions as Versions
    from hotswap.registry.domain.requests import MoveRequest as MoveRequest
    from hotswap.registry.domain.requests import PushRequest as PushRequest
    from hotswap.registry.domain.requests import StateRequest as StateRequest
    from hotswap.registry.http.client import RegistryClient as RegistryClient
    from hotswap.registry.registry import Registry as Registry
    from hotswap.registry.settings import Home as Home
    from hotswap.registry.settings import RegistrySettings as RegistrySettings
    from hotswap.registry.signing import SigningKey as SigningKey

__all__ = [
    "AccessControl",
    "AdapterRef",
    "AdapterRegistry",
    "AdapterVersion",
    "Adapters",
    "AliasMove",
    "Aliases",
    "BaseFingerprint",
    "Blobs",
    "Bundle",
    "Digest",
    "Events",
    "Home",
    "HotswapError",
    "Manifest",
    "MoveRequest",
    "PromptFormat",
    "PushRequest",
    "Registry",
    "RegistryClient",
    "RegistrySettings",
    "SigningKey",
    "StateRequest",
    "Versions",
    "open_registry",
    "pull",
    "push",
]

_HOMES = {
    "AccessControl": "hotswap.registry.domain.access",
    "AdapterRef": "hotswap.registry.domain.adapters",
    "AdapterRegistry": "hotswap.registry.domain.protocol",
    "AdapterVersion": "hotswap.registry.domain.adapters",
    "Adapters": "hotswap.registry.domain.protocol",
    "AliasMove": "hotswap.registry.domain.adapters",
    "Aliases": "hotswap.registry.domain.protocol",
    "BaseFingerprint": "hotswap.registry.domain.manifest",
    "Blobs": "hotswap.registry.domain.protocol",
    "Bundle": "hotswap.registry.bundles.bundle",
    "Digest": "hotswap.registry.domain.digests",
    "Events": "hotswap.registry.domain.protocol",
    "Home": "hotswap.registry.settings",
    "HotswapError": "hotswap.registry.domain.errors",
    "Manifest": "hotswap.registry.domain.manifest",
    "MoveRequest": "hotswap.registry.domain.requests",
    "PromptFormat": "hotswap.registry.domain.prompts",
    "PushRequest": "hotswap.registry.domain.requests",
    "Registry": "hotswap.registry.registry",
    "RegistryClient": "hotswap.registry.http.client",
    "RegistrySettings": "hotswap.registry.settings",
    "SigningKey": "hotswap.registry.signing",
    "StateRequest": "hotswap.registry.domain.requests",
    "Versions": "hotswap.registry.domain.protocol",
    "open_registry": "hotswap.registry.connect",
    "pull": "hotswap.registry.bundles.transfer",
    "push": "hotswap.registry.bundles.transfer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
