"""Content digests and the descriptors of bytes. Knows no store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from hotswap.registry.domain.errors import InvalidDigest
from hotswap.registry.domain.values import ValueObject

_PATTERN = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 content digest, printed as `sha256:<64 hex>`; parsed once, never a bare string."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:<64 lower-case hex>`; raises InvalidDigest for anything else."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise InvalidDigest(
                f"{text[:100]!r} is not a digest; expected 'sha256:' and 64 lower-case hex digits"
            )
        return cls(match.group(1))

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people; never used to look anything up."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def validate(value: Any) -> Digest:
            if isinstance(value, Digest):
                return value
            if not isinstance(value, str) or _PATTERN.fullmatch(value) is None:
                raise ValueError("expected 'sha256:' and 64 lower-case hex digits")
            return cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            validate,
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(pattern=r"^sha256:[0-9a-f]{64}$"),
        )


class Hasher:
    """Hashes and counts bytes while they pass by."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, hashed as they are read."""
        for chunk in chunks:
            self.update(chunk)
            yield chunk

    @property
    def digest(self) -> Digest:
        return Digest(self._sha256.hexdigest())


_READ_BYTES = 1 << 20
MAX_FILE_NAME_BYTES = 255


def hash_file(path: Path) -> Hasher:
    """Digest and size of a file, read once in pieces; raises OSError."""
    hasher = Hasher()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            hasher.update(chunk)
    return hasher


def check_file_name(name: str) -> str:
    """Return `name` if it names a file in a flat directory on any system; ValueError if not."""
    if (
        name in ("", ".", "..")
        or len(name.encode(errors="replace")) > MAX_FILE_NAME_BYTES
        or not name.isprintable()
        or any(character in name for character in "/\\:")
    ):
        raise ValueError(
            f"{name[:100]!r} is not a plain file name; use printable characters without "
            f"'/', '\\' and ':', at most {MAX_FILE_NAME_BYTES} bytes"
        )
    return name


class Descriptor(ValueObject):
    """Describes bytes and carries none: their digest, size, media type and file name.

    The file name cannot lead out of the directory it is written to.
    """

    digest: Digest
    size_bytes: int = Field(ge=0)
    media_type: str
    file_name: Annotated[str, AfterValidator(check_file_name)]
