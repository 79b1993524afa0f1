"""Versions as the catalog knows them, caught up with the store before anything is decided."""

from __future__ import annotations

from collections.abc import Iterable

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.database.rows import AliasHead
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, AliasMove, check_name
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    AliasNotFound,
    NameTaken,
    VersionNotFound,
    there_is,
)
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.signatures import VersionSignature
from hotswap.registry.ledger.reading import FactReader
from hotswap.registry.ledger.records import Records
from hotswap.registry.search.facts import facts_of
from hotswap.registry.storage.recent import Recent


class VersionIndex:
    """Finds versions by number or digest; errors name what there is instead.

    What the catalog said within `freshness_s` is not asked again.
    """

    def __init__(
        self, records: Records, catalog: Catalog, facts: FactReader, freshness_s: float
    ) -> None:
        self._records = records
        self._catalog = catalog
        self._facts = facts
        self._recent: Recent[tuple[str, int], AdapterVersion] = Recent(freshness_s)

    def forget(self) -> None:
        """Ask the catalog for everything again."""
        self._recent.clear()

    def catch_up(
        self, name: str, moves: Iterable[AliasMove] = (), *, known: int | None = None
    ) -> None:
        """Add the versions of `name` the catalog lacks, those behind `known`, and the `moves`.

        The moves must have been read already: the versions they point to are found then.
        """
        if known is None:
            known = self._catalog.latest_number(name)
        versions = list(self._records.versions_from(name, known + 1))
        if versions or moves:
            self._catalog.add(versions, moves, facts=self._facts.read(versions))

    def claim(self, version: AdapterVersion, manifest: Manifest) -> bool:
        """Whether the version's number is now ours; its row and its facts are in the catalog."""
        claimed = self._records.claim_version(version)
        if claimed:
            self._catalog.add([version], [], facts=facts_of(version, manifest))
        return claimed

    def add_facts(self, version: AdapterVersion, manifest: Manifest) -> None:
        """Index what a version's manifest says, which was not readable before."""
        self._catalog.add([], [], facts=facts_of(version, manifest))

    def keep_signature(self, record: VersionSignature) -> bool:
        """Store the signature; False when it was there."""
        return self._records.keep_signature(record)

    def with_content(self, name: str, digest: Digest) -> AdapterVersion | None:
        """The version of `name` that has this manifest, as far as the catalog knows."""
        return self._catalog.version_by_digest(name, digest)

    def head(self, name: str, alias: str) -> AliasHead | None:
        """Where the catalog says that the alias points; its version is not asked for again."""
        mark = self._recent.mark()
        head = self._catalog.head(name, alias)
        if head is not None:
            self._recent.keep((name, head.version.number), head.version, mark)
        return head

    def require_adapter(self, name: str) -> None:
        """Raises AdapterNotFound when there is no version of `name`."""
        if not self._catalog.latest_number(name):
            raise self.no_adapter(name)

    def claim_name(self, name: str) -> None:
        """Reserve a new name and its look-alikes (`my-sql`, `my_sql`, `my.sql`) for `name`.

        Raises NameTaken when another spelling was there first.
        """
        if not self._catalog.latest_number(name):
            _refuse_other(name, self._records.claim_name(name))

    def require_free_name(self, name: str) -> None:
        """Raises NameTaken where `claim_name` would; claims nothing."""
        if not self._catalog.latest_number(name):
            _refuse_other(name, self._records.name_owner(name) or name)

    def next_number(self, name: str) -> int:
        """What the next version's number would be, as far as the catalog knows."""
        return self._catalog.latest_number(name) + 1

    def get(self, name: str, number: int) -> AdapterVersion:
        """From the catalog alone; raises AdapterNotFound or VersionNotFound."""
        version = self._numbered(name, number)
        if version is None:
            raise self.no_version(AdapterRef(name, number=number))
        return version

    def find(self, ref: AdapterRef) -> AdapterVersion:
        """The version of a number or digest; raises AdapterNotFound or VersionNotFound.

        A record never changes: what the catalog has needs no look into the store.
        """
        version = self._known(ref)
        if version is None:
            self.catch_up(check_name(ref.name))
            version = self._known(ref)
        if version is None:
            raise self.no_version(ref)
        return version

    def _known(self, ref: AdapterRef) -> AdapterVersion | None:
        if ref.digest is not None:
            return self.with_content(ref.name, ref.digest)
        assert ref.number is not None
        return self._numbered(ref.name, ref.number)

    def _numbered(self, name: str, number: int) -> AdapterVersion | None:
        version = self._recent.get((name, number))
        if version is None:
            mark = self._recent.mark()
            version = self._catalog.version(name, number)
            if version is not None:
                self._recent.keep((name, number), version, mark)
        return version

    def no_adapter(self, name: str) -> AdapterNotFound:
        names = self._catalog.names_like(name)
        hint = there_is(names) if names else "the registry is empty"
        return AdapterNotFound(f"there is no adapter {name!r}; {hint}", name=name, there_is=names)

    def no_version(self, ref: AdapterRef) -> AdapterNotFound | VersionNotFound:
        latest = self._catalog.latest_number(ref.name)
        if not latest:
            return self.no_adapter(ref.name)
        what = f"version {ref.number}" if ref.number else f"version with digest {ref.digest}"
        numbers = "version 1" if latest == 1 else f"versions 1 to {latest}"
        return VersionNotFound(f"{ref.name!r} has no {what}; it has {numbers}", name=ref.name)

    def no_alias(self, name: str, alias: str) -> AdapterNotFound | AliasNotFound:
        if not self._catalog.latest_number(name):
            return self.no_adapter(name)
        aliases = [move.alias for move in self._catalog.current_moves(name)]
        it_has = (
            f"it has {_some(aliases)}"
            if aliases
            else "it has none; set one with `hotswap alias set`"
        )
        return AliasNotFound(f"{name!r} has no alias {alias!r}; {it_has}", name=name, alias=alias)


def _refuse_other(name: str, owner: str) -> None:
    if owner != name:
        raise NameTaken(
            f"{name!r} looks like the adapter {owner!r}, which differs only in '.', '_' and "
            f"'-'; push to {owner!r}, or choose a name that cannot be taken for it",
            name=owner,
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
