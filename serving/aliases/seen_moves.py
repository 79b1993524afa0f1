"""Which alias moves this server has seen, kept on its own disk: an old pointer that is put back in
the registry is known as one, also after a restart."""

from __future__ import annotations

from pathlib import Path

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobCorrupted, InvalidDigest
from hotswap.registry.domain.layout import ALIASES, move_key, parse_move_key
from hotswap.registry.storage.local import LocalStore
from hotswap.serving.errors import StalePointer


class SeenMoves:
    """Invariant: the highest sequence number of an alias that was ever accepted is on disk, with
    where it pointed. Servers on one machine may share the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: LocalStore | None = None

    def accept(self, name: str, alias: str, sequence: int, to: Digest) -> None:
        """Remember the move; raises StalePointer when a later one was seen, or the same number
        with another target. Create-once writes decide between servers that race."""
        key, where = move_key(name, alias, sequence), f"{name}@{alias}"
        seen = self._sequences(name, alias)
        highest = max(seen, default=0)
        if sequence < highest:
            raise StalePointer(
                f"{where}: the registry shows move {sequence}, but this server has seen move "
                f"{highest}: an old pointer was put back; find out who did, and make new moves (a "
                "rollback is one). If the store was restored on purpose, or is another one, remove "
                f"{self._directory / move_key(name, alias, highest)}",
                seen=highest,
                got=sequence,
            )
        if not self._store.create(key, str(to).encode()) and (was := self._target(key)) != to:
            raise StalePointer(
                f"{where}: the registry shows move {sequence} to {to}, but this server has seen it "
                f"go to {was}: two moves were signed for one number; make a new move",
                seen=highest,
                got=sequence,
            )
        for old in seen - {sequence}:
            self._store.delete(move_key(name, alias, old))

    @property
    def _store(self) -> LocalStore:
        """Made when it is needed first: most servers require no signatures."""
        if self._opened is None:
            self._opened = LocalStore(self._directory)
        return self._opened

    def _sequences(self, name: str, alias: str) -> set[int]:
        keys = self._store.list(f"{ALIASES}{name}/{alias}/")
        return {parse_move_key(key)[2] for key in keys}

    def _target(self, key: str) -> Digest:
        text = b"".join(self._store.open(key)).decode(errors="replace")
        try:
            return Digest.parse(text)
        except InvalidDigest:
            raise BlobCorrupted(
                f"{self._store.location}, {key}: not a digest; remove the file when you know that "
                "the registry's pointer is right"
            ) from None
