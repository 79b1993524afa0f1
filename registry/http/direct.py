"""Sends a file straight to the registry's store with requests that the registry has signed.

Anything that goes wrong between here and the store is no error: the file then goes through the
registry, which says what is wrong with it, or goes on with the parts that arrived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import StoreUnavailable
from hotswap.registry.domain.uploads import SentPart, SignedPart, SignedRequest, UploadOffer
from hotswap.registry.http.certificates import certificates
from hotswap.registry.storage.blobs import read_chunks
from hotswap.registry.storage.objects import CHUNK_BYTES

_TIMEOUT = httpx.Timeout(60, connect=5)
PRECONDITION_FAILED = 412

Offer = Callable[[Descriptor, Sequence[Digest]], UploadOffer | None]
Finish = Callable[[Descriptor, Sequence[SentPart]], None]


def send_directly(offer: Offer, finish: Finish, descriptor: Descriptor, path: Path) -> bool:
    """Whether the store has the file now, or had it; False when it must go through the registry.

    Raises what `offer` and `finish` raise, InvalidBundle when the file cannot be read.
    """
    offered = offer(descriptor, ())
    if offered is None or offered.is_stored:
        return offered is not None
    try:
        with _client() as http:
            if offered.put is not None:
                return _put(http, offered.put, read_chunks(path)) is not None
            assert offered.part_bytes is not None
            digests = [Digest.of(part) for part in read_chunks(path, offered.part_bytes)]
            offered = offer(descriptor, digests)
            if offered is None or offered.is_stored:
                return offered is not None
            sent = _send_parts(http, offered, digests, path)
    except httpx.HTTPError:
        return False
    if sent is None:
        return False
    finish(descriptor, sent)
    return True


def read_url(url: str) -> Iterator[bytes]:
    """The bytes at a signed URL; raises StoreUnavailable."""
    try:
        with _client() as http, http.stream("GET", url) as response:
            response.raise_for_status()
            yield from response.iter_bytes(CHUNK_BYTES)
    except httpx.HTTPError as error:
        host = httpx.URL(url).netloc.decode()
        raise StoreUnavailable(f"the store at {host} did not give the blob: {error}") from error


def _client() -> httpx.Client:
    return httpx.Client(timeout=_TIMEOUT, verify=certificates())


def _send_parts(
    http: httpx.Client, offered: UploadOffer, digests: Sequence[Digest], path: Path
) -> list[SentPart] | None:
    """What was sent; None when a part was refused. A part that is stored already is not sent,
    but for the first, whose new date keeps sweeps away."""
    sent: list[SentPart] = []
    parts = read_chunks(path, offered.part_bytes or CHUNK_BYTES)
    for number, (signed, digest, data) in enumerate(
        zip(offered.parts, digests, parts, strict=True)
    ):
        etag = signed.stored_etag if number > 0 and _is_stored(signed, data) else None
        if etag is None:
            response = _put(http, signed, iter([data]))
            if response is None:
                return None
            etag = response.headers["etag"]
        sent.append(SentPart(etag=etag, digest=digest))
    return sent


def _put(
    http: httpx.Client, signed: SignedRequest, chunks: Iterator[bytes]
) -> httpx.Response | None:
    """The answer; None when the store refused. That it has the object already is no refusal."""
    response = http.put(signed.url, headers=signed.headers, content=chunks)
    accepted = response.is_success or response.status_code == PRECONDITION_FAILED
    return response if accepted else None


def _is_stored(signed: SignedPart, data: bytes) -> bool:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return signed.stored_etag is not None and signed.stored_etag.strip('"') == md5
