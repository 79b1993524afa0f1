"""The client that notebooks, scripts and CI use: a registry's verbs with texts for references.

It opens a server or a store alike, and knows nothing of how either works. What is heavy is
imported by the verb that needs it, so that a client opens quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, AliasMove
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import (
    Home,
    RegistrySettings,
    read_home,
    read_section,
    read_user,
)

if TYPE_CHECKING:
    from types import TracebackType

    from hotswap.registry.bundles.comparison import VersionComparison
    from hotswap.registry.domain.manifest import BaseFingerprint
    from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest


def connect(where: str | None = None, *, token: str | None = None) -> Client:
    """A client of the registry at `where`: a server's URL, a directory, or s3://bucket/prefix.

    Without `where` and `token` the settings hold: HOTSWAP_REGISTRY_URL, HOTSWAP_REGISTRY_TOKEN.
    Raises InvalidSettings for settings that do not fit, RegistryUnavailable when a server does
    not answer the first verb.

    >>> import hotswap
    >>> with hotswap.connect(url) as client:
    ...     [str(version.ref) for version in client.versions("team/sql")]
    ['team/sql:1', 'team/sql:2']
    """
    from hotswap.registry.connect import connect as open_registry

    settings = read_section("registry", RegistrySettings, {"token": token})
    where = where or settings.url
    with ExitStack() as opening:
        registry = opening.enter_context(open_registry(where, settings, read_home(Home)))
        secret = settings.token
        return Client(
            registry,
            where,
            None if secret is None else secret.get_secret_value(),
            opening.pop_all(),
        )


class Client:
    """An open registry. Close it, or use it in a `with` statement.

    References are texts: `team/sql:7`, `team/sql@prod`, `team/sql@sha256:…`; a bare name is read
    as `@prod`, and never moved.
    """

    def __init__(
        self, registry: AdapterRegistry, where: str, token: str | None, opened: ExitStack
    ) -> None:
        self.registry = registry
        """All that a registry does, of which the methods here are the daily part."""
        self._where = where
        self._token = token
        self._opened = opened

    def push(
        self,
        source: str | PathLike[str],
        name: str,
        *,
        alias: str | None = None,
        why: str = "",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        base: BaseFingerprint | None = None,
    ) -> AdapterVersion:
        """Make the PEFT adapter `source` a version of `name`, and point `alias` to it if given.

        `source` is a directory, a tar file, a snapshot in the hub's cache, or a hub id. The same
        adapter with the same facts gives the same version.

        >>> client.push("adapter-3", "team/sql", alias="candidate", metrics={"em": 0.83}).number
        3
        """
        from hotswap.registry.bundles.bundle import Bundle
        from hotswap.registry.bundles.sources import open_source
        from hotswap.registry.bundles.transfer import push

        with open_source(str(source)) as directory:
            bundle = Bundle.read(directory)
            manifest = bundle.manifest(
                base=base,
                metrics=dict(metrics or {}),
                tags=dict(tags or {}),
                description=description,
            )
            return push(self.registry, name, bundle, manifest, by=read_user(), alias=alias, why=why)

    def pull(self, ref: str, directory: str | PathLike[str]) -> AdapterVersion:
        """Write the adapter into the new `directory`, every file verified.

        >>> client.pull("team/sql@prod", "pulled").number
        2
        """
        from hotswap.registry.bundles.transfer import pull

        return pull(self.registry, AdapterRef.parse(ref), Path(directory))

    def resolve(self, ref: str) -> AdapterVersion:
        """The version that the reference means now.

        >>> str(client.resolve("team/sql@prod").ref)
        'team/sql:2'
        """
        return self.registry.versions.resolve(AdapterRef.parse(ref))

    def versions(self, name: str) -> list[AdapterVersion]:
        """All versions of `name` that are not deleted, in order of number.

        >>> [version.number for version in client.versions("team/sql")]
        [1, 2]
        """
        return self.registry.adapters.versions(name)

    def alias(
        self, ref: str, number: int, *, why: str = "", expect: int | None = None
    ) -> AliasMove:
        """Point the alias to version `number`; with `expect`, only if it points there now.

        Raises InvalidReference for a bare name, AliasConflict when the alias has moved meanwhile.

        >>> move = client.alias("team/sql@prod", 1, why="slower but right", expect=2)
        >>> (move.from_number, move.to_number)
        (2, 1)
        """
        name, alias = AdapterRef.parse_alias(ref)
        request = MoveRequest(name, alias, number, by=read_user(), why=why, expect=expect)
        return self.registry.aliases.move(request)

    def rollback(
        self, ref: str, *, to: int | None = None, why: str = "", expect: int | None = None
    ) -> AliasMove:
        """Move the alias back to its last different target, or to its earlier target `to`.

        >>> client.rollback("team/sql@prod", why="wrong dates").to_number
        1
        """
        name, alias = AdapterRef.parse_alias(ref)
        request = MoveRequest(name, alias, to, by=read_user(), why=why, expect=expect)
        return self.registry.aliases.rollback(request)

    def history(self, ref: str) -> list[AliasMove]:
        """Every move of the alias, oldest first.

        >>> [(move.to_number, move.why) for move in client.history("team/sql@prod")]
        [(1, 'first'), (2, 'better')]
        """
        wanted = AdapterRef.parse(ref)
        if (alias := wanted.effective_alias) is None:
            raise InvalidRequest(f"{ref!r} names a version, which has no history; name an alias")
        return self.registry.aliases.history(wanted.name, alias)

    def search(self, expression: str, *, limit: int | None = None) -> list[AdapterVersion]:
        """The versions for which the filter holds, in order of name and number.

        >>> [str(version.ref) for version in client.search("metrics.em > 0.1")]
        ['team/sql:2']
        """
        from hotswap.registry.search.paging import read_pages

        return read_pages(
            lambda last, size: self.registry.adapters.search(
                expression, after=last.ref if last else None, limit=size
            ),
            limit,
        )

    def diff(self, a: str, b: str) -> VersionComparison:
        """What differs from the version `a` to the version `b`: config, metrics, data, weights.

        >>> found = client.diff("team/sql:1", "team/sql:2")
        >>> [(each.metric, each.a, each.b) for each in found.metrics]
        [('em', 0.1, 0.2)]
        """
        from hotswap.registry.bundles.comparison import compare

        return compare(self.registry, AdapterRef.parse(a), AdapterRef.parse(b))

    def chat(
        self,
        model: str,
        messages: str | Sequence[Mapping[str, str]],
        *,
        system_prompt: str | None = None,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        **fields: Any,
    ) -> str:
        """The answer of an adapter or the base, from a server that serves (`hotswap up`).

        `messages` is one question, or a conversation; other fields of a chat request may follow.

        >>> answer = client.chat("team/sql@prod", "How many users signed up?", max_tokens=4)
        >>> isinstance(answer, str)
        True
        """
        if not self._where.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"{self._where} is a store, which answers nothing; connect to a server's URL"
            )
        from hotswap.serving.http.chat import stream_answer

        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        request = {
            "model": model,
            "messages": [*system, *asked],
            "temperature": temperature,
            **({} if max_tokens is None else {"max_tokens": max_tokens}),
            **fields,
        }
        with stream_answer(self._where, request, self._token) as pieces:
            return "".join(pieces)

    def close(self) -> None:
        """End the connection. A client that is closed twice stays closed."""
        self._opened.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
