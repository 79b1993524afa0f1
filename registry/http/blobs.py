"""Blobs of a registry that runs elsewhere: by way of it, or straight to and from its store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import RegistryUnavailable, StoreUnavailable
from hotswap.registry.domain.uploads import SentPart, UploadAnswer, UploadOffer
from hotswap.registry.http.direct import Offer, read_url, send_directly
from hotswap.registry.http.transport import HttpTransport
from hotswap.registry.storage.blobs import as_announced, as_stored, read_chunks
from hotswap.registry.tasks import Tasks

CHUNK_BYTES = 1 << 20


class RemoteBlobs:
    """Implements Blobs. Safe from several threads."""

    def __init__(self, http: HttpTransport, tasks: Tasks) -> None:
        self._http = http
        self._tasks = tasks

    @property
    def capabilities(self) -> Capabilities:
        response = self._http.get("/health")
        with self._http.understood(response):
            return Capabilities(**response.json()["registry"]["store"])

    def has(self, digest: Digest) -> bool:
        status = self._http.head(_path(digest))
        if status == 404:
            return False
        if status in (401, 403):
            self._http.get(_path(digest))  # says why
        if status >= 400:
            raise RegistryUnavailable(f"{self._http.url} answered {status} for {digest}")
        return True

    def put(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        self._http.put(_path(descriptor.digest), as_announced(descriptor, chunks))

    def send(self, files: Sequence[tuple[Descriptor, Path]]) -> None:
        """The largest one in this thread, which an interrupt ends. The others are only asked for
        once its offer is there: small requests at the same time hold each other up."""
        rest = sorted(files, key=lambda each: each[0].size_bytes)
        with self._tasks.together() as start:

            def offer(descriptor: Descriptor, parts: Sequence[Digest]) -> UploadOffer | None:
                answer = self.offer(descriptor, parts)
                while rest:
                    start(self._send, *rest.pop(), self.offer)
                return answer

            if rest:
                self._send(*rest.pop(), offer)

    def _send(self, descriptor: Descriptor, path: Path, offer: Offer) -> None:
        if not send_directly(offer, self.finish, descriptor, path):
            self.put(descriptor, read_chunks(path))

    def offer(self, descriptor: Descriptor, parts: Sequence[Digest] = ()) -> UploadOffer | None:
        body = {
            "descriptor": descriptor.model_dump(mode="json"),
            "parts": [str(part) for part in parts],
        }
        return self._http.post(UploadAnswer, "/v1/uploads", body).offer

    def finish(self, descriptor: Descriptor, parts: Sequence[SentPart]) -> None:
        body = {
            "descriptor": descriptor.model_dump(mode="json"),
            "parts": [part.model_dump(mode="json") for part in parts],
        }
        self._http.post(Descriptor, "/v1/uploads/finish", body, timeout_s=None)

    def url(self, digest: Digest) -> str | None:
        with self._http.stream(_path(digest), {"redirect": True}) as response:
            return response.headers["location"] if response.is_redirect else None

    def open(self, digest: Digest) -> Iterator[bytes]:
        yield from as_stored(digest, self._read(digest), self._http.url)

    def _read(self, digest: Digest) -> Iterator[bytes]:
        """From the store itself where the registry says so and we get there, else from it."""
        with self._http.stream(_path(digest), {"redirect": True}) as response:
            if not response.is_redirect:
                yield from response.iter_bytes(CHUNK_BYTES)
                return
            chunks = read_url(response.headers["location"])
        try:
            first = next(chunks, b"")
        except StoreUnavailable:
            with self._http.stream(_path(digest)) as response:
                yield from response.iter_bytes(CHUNK_BYTES)
        else:
            yield first
            yield from chunks


def _path(digest: Digest) -> str:
    return f"/v1/blobs/{digest}"
