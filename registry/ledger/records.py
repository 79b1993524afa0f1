"""Version, alias, state, event and signature records in the object store: written once, never
changed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hotswap.registry.domain.adapters import AdapterVersion, AliasMove, VersionState
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobCorrupted
from hotswap.registry.domain.event import Event, EventRecord, key_of
from hotswap.registry.domain.layout import (
    ALIASES,
    SIGNATURES,
    STATES,
    STORE_KEY,
    VERSIONS,
    event_key,
    move_key,
    name_key,
    parse_move_key,
    parse_state_key,
    parse_version_key,
    signature_key,
    signatures_prefix,
    state_key,
    version_key,
)
from hotswap.registry.domain.signatures import VersionSignature, key_id
from hotswap.registry.domain.values import first_problem
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore

RecordT = TypeVar("RecordT", bound=BaseModel)


class Records:
    """Claims numbers and sequences. Invariant: a claimed record never changes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim_name(self, name: str) -> str:
        """Reserve `name` and every spelling that looks like it; the name it is reserved for."""
        key = name_key(name)
        if self._store.create(key, json.dumps({"name": name}).encode()):
            return name
        if (owner := self.name_owner(name)) is None:
            raise BlobCorrupted(f"{key} was there a moment ago and cannot be read; try again")
        return owner

    def name_owner(self, name: str) -> str | None:
        """The spelling that `name` and its look-alikes are reserved for; None when free."""
        key = name_key(name)
        if (data := self._read(key)) is None:
            return None
        try:
            return str(json.loads(data)["name"])
        except (ValueError, KeyError, TypeError):
            raise BlobCorrupted(f"{key} holds no name; restore the object") from None

    def claim_version(self, version: AdapterVersion) -> bool:
        """Whether the version's number is now ours."""
        return self._claim(version_key(version.name, version.number), version)

    def claim_move(self, move: AliasMove) -> bool:
        """Whether the move's sequence number is now ours."""
        return self._claim(move_key(move.name, move.alias, move.sequence), move)

    def claim_state(self, state: VersionState) -> bool:
        """Whether the state's sequence number is now ours."""
        return self._claim(state_key(state.name, state.number, state.sequence), state)

    def claim_event(self, event: Event) -> bool:
        """Whether the event's sequence number is now ours."""
        return self._claim(event_key(event.sequence), event)

    def events_from(self, sequence: int) -> Iterator[Event]:
        """The events from `sequence` on, up to the newest that exists now."""
        while (data := self._read(event_key(sequence))) is not None:
            yield _parse(Event, data, event_key(sequence))
            sequence += 1

    def has_event(self, sequence: int) -> bool:
        return self._store.stat(event_key(sequence)) is not None

    def keep_signature(self, signature: VersionSignature) -> bool:
        """Store it; False when it was there. Raises BlobCorrupted when something else is."""
        key = _key_of(signature)
        if self._claim(key, signature):
            return True
        if self.signature(key) != signature:
            raise BlobCorrupted(
                f"{self._store.location}, {key}: holds another signature by the same key, which "
                "cannot be; find out who wrote it, remove the object and push again"
            )
        return False

    def signature_keys(self, name: str = "", manifest: Digest | None = None) -> list[str]:
        """Where the signatures are stored: of all versions, or of one."""
        prefix = SIGNATURES if manifest is None else signatures_prefix(name, manifest)
        return sorted(self._store.list(prefix))

    def signature(self, key: str) -> VersionSignature:
        return self._listed(VersionSignature, key)

    def states_from(self, name: str, number: int, sequence: int) -> Iterator[VersionState]:
        """The version's states from `sequence` on, up to the newest that exists now."""
        while (data := self._read(state_key(name, number, sequence))) is not None:
            yield _parse(VersionState, data, state_key(name, number, sequence))
            sequence += 1

    def versions_from(self, name: str, number: int) -> Iterator[AdapterVersion]:
        """The versions of `name` from `number` on, up to the newest that exists now."""
        while (data := self._read(version_key(name, number))) is not None:
            version = _parse(AdapterVersion, data, version_key(name, number))
            yield version
            number += 1

    def moves_from(self, name: str, alias: str, sequence: int) -> Iterator[AliasMove]:
        """The moves of the alias from `sequence` on, up to the newest that exists now."""
        while (data := self._read(move_key(name, alias, sequence))) is not None:
            yield _parse(AliasMove, data, move_key(name, alias, sequence))
            sequence += 1

    def version_keys(self) -> set[tuple[str, int]]:
        return {parse_version_key(key) for key in self._store.list(VERSIONS)}

    def move_keys(self, name: str | None = None) -> set[tuple[str, str, int]]:
        """Name, alias and sequence of all moves, or of one adapter's."""
        prefix = ALIASES if name is None else f"{ALIASES}{name}/"
        keys = {parse_move_key(key) for key in self._store.list(prefix)}
        return {key for key in keys if name is None or key[0] == name}

    def state_keys(self, name: str | None = None) -> set[tuple[str, int, int]]:
        """Name, number and sequence of all states, or of one adapter's."""
        prefix = STATES if name is None else f"{STATES}{name}/"
        keys = {parse_state_key(key) for key in self._store.list(prefix)}
        return {key for key in keys if name is None or key[0] == name}

    def everything(self) -> tuple[list[AdapterVersion], list[AliasMove], list[VersionState]]:
        """All records; moves and states are listed first, so that their versions are there."""
        moves = [self.move(*key) for key in sorted(self.move_keys())]
        states = [self.state(*key) for key in sorted(self.state_keys())]
        return [self.version(*key) for key in sorted(self.version_keys())], moves, states

    def version(self, name: str, number: int) -> AdapterVersion:
        return self._listed(AdapterVersion, version_key(name, number))

    def move(self, name: str, alias: str, sequence: int) -> AliasMove:
        return self._listed(AliasMove, move_key(name, alias, sequence))

    def state(self, name: str, number: int, sequence: int) -> VersionState:
        return self._listed(VersionState, state_key(name, number, sequence))

    def event(self, sequence: int) -> Event:
        return self._listed(Event, event_key(sequence))

    def store_id(self) -> str:
        """The store's own id, made by whoever opens it first."""
        if (data := self._read(STORE_KEY)) is None:
            self._store.create(STORE_KEY, json.dumps({"store_id": uuid.uuid4().hex}).encode())
            data = self._read(STORE_KEY)
        try:
            return str(json.loads(data or b"")["store_id"])
        except (ValueError, KeyError, TypeError):
            raise BlobCorrupted(
                f"{self._store.location}, {STORE_KEY}: not a store's id; restore the object"
            ) from None

    def _claim(self, key: str, record: BaseModel) -> bool:
        """A claim carries a random id: when the answer to a create that succeeded is lost and
        the retry is refused, the id in the store shows that the winner was this very claim."""
        document = {"claim": uuid.uuid4().hex, **record.model_dump(mode="json")}
        data = json.dumps(document, ensure_ascii=False, indent=1).encode()
        return self._store.create(key, data) or self._read(key) == data

    def _read(self, key: str) -> bytes | None:
        try:
            return b"".join(self._store.open(key))
        except ObjectMissing:
            return None

    def _listed(self, kind: type[RecordT], key: str) -> RecordT:
        data = self._read(key)
        if data is None:
            raise BlobCorrupted(f"{self._store.location}, {key}: listed, but it cannot be read")
        return _parse(kind, data, key)


def _parse(kind: type[RecordT], data: bytes, key: str) -> RecordT:
    """Raises BlobCorrupted when the record is damaged or belongs under another key."""
    try:
        document = json.loads(data)
        document.pop("claim", None)
        record = kind.model_validate(document)
    except (ValueError, AttributeError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise BlobCorrupted(f"{key} is not a record: {problem}; restore the object") from None
    if key != _key_of(record):
        raise BlobCorrupted(f"{key} holds the record of {_key_of(record)}; restore the object")
    return record


def _key_of(record: BaseModel) -> str:
    if isinstance(record, Event):
        return event_key(record.sequence)
    if isinstance(record, VersionSignature):
        return signature_key(record.name, record.manifest_digest, key_id(record.signature.key))
    assert isinstance(record, EventRecord)
    return key_of(record)
