"""Signed requests with which a client sends a blob straight to the store."""

from __future__ import annotations

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.values import ValueObject


class SignedRequest(ValueObject):
    """A PUT that its holder may make until it expires, with exactly these headers."""

    url: str
    headers: dict[str, str]


class SignedPart(SignedRequest):
    """The PUT of one part of a multipart upload."""

    stored_etag: str | None
    """The ETag of the part that is stored from an earlier try: its MD5 with most servers."""


class SentPart(ValueObject):
    """A part that the store has acknowledged."""

    etag: str
    digest: Digest


class UploadOffer(ValueObject):
    """How to send a blob to the store: not at all, by one `put`, or in parts of `part_bytes`.

    Parts are offered when their digests are known, so a first offer only gives their size.
    """

    is_stored: bool = False
    put: SignedRequest | None = None
    part_bytes: int | None = None
    parts: tuple[SignedPart, ...] = ()


class UploadAnswer(ValueObject):
    """What a registry answers over HTTP; None: send the blob to the registry."""

    offer: UploadOffer | None
