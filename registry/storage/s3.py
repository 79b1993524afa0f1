"""The object store in an S3 bucket. boto3 is known to the s3 files of this directory only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.errors import StoreUnavailable
from hotswap.registry.retries import retried
from hotswap.registry.storage.direct import DirectAccess
from hotswap.registry.storage.objects import (
    CHUNK_BYTES,
    ObjectMissing,
    ObjectStat,
    Unfinished,
    check_key,
)
from hotswap.registry.storage.s3_client import (
    S3Options,
    checksum,
    code_of,
    make_client,
    status_of,
)
from hotswap.registry.storage.s3_direct import S3Direct
from hotswap.registry.storage.s3_multipart import NO_UPLOAD, in_parts, stored_parts, upload_in_parts
from hotswap.registry.storage.s3_probe import measure

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_BEHIND_THE_END = 416
_PAUSES_S = (0.05, 0.1, 0.2)


class _WriteUnderWay(ClientError):  # type: ignore[misc]
    """409: another conditional write of the key is not decided yet."""


class S3Store:
    """A bucket, or the part of it below a prefix. Raises no error of botocore's.

    `options` are what it was opened with, and `client` is boto3's.
    """

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.options = options
        with self._explained(""):
            self.client: Any = make_client(options)
            self.direct: DirectAccess | None = (
                S3Direct(self.client, options, self._place, self._explained)
                if options.presign_expiry_s
                else None
            )

    @property
    def location(self) -> str:
        at = f" at {self.options.endpoint}" if self.options.endpoint else ""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/") + at

    def create(self, key: str, data: bytes) -> bool:
        request = {**self._place(key), "Body": data, "ChecksumSHA256": checksum(data)}

        def attempt() -> bool:
            try:
                self.client.put_object(**request, IfNoneMatch="*")
            except ClientError as error:
                if status_of(error) == 412:
                    return False
                if status_of(error) == 409:
                    raise _WriteUnderWay(error.response, error.operation_name) from error
                raise
            return True

        with self._explained(key):
            return retried(attempt, _WriteUnderWay, _PAUSES_S)

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        place = self._place(key)
        with self._explained(key):
            parts = in_parts(chunks, self.options.part_bytes)
            first, is_whole = _first_bytes(parts, self.options.multipart_bytes)
            if is_whole:
                data = b"".join(first)
                self.client.put_object(**place, Body=data, ChecksumSHA256=checksum(data))
            else:
                upload_in_parts(self.client, place, chain(_drained(first), parts))

    def open(self, key: str) -> Iterator[bytes]:
        return self._chunks(key, 0, None)

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        return b"".join(self._chunks(key, start, start + num_bytes))

    def _chunks(self, key: str, start: int, end: int | None) -> Iterator[bytes]:
        """A connection that breaks is replaced by one for the rest, as long as bytes arrive."""
        with self._explained(key):
            position, has_gained = start, True
            while position != end:
                body = self._body(key, position, end)
                if body is None:
                    return
                try:
                    for chunk in body.iter_chunks(CHUNK_BYTES):
                        position, has_gained = position + len(chunk), True
                        yield chunk
                except BotoCoreError:
                    if not has_gained:
                        raise
                    has_gained = False
                else:
                    return
                finally:
                    body.close()

    def _body(self, key: str, start: int, end: int | None) -> Any:
        """The bytes from `start` on, before `end`; None when there are none. Raises
        ObjectMissing."""
        last = "" if end is None else end - 1
        wanted = {"Range": f"bytes={start}-{last}"} if start or end is not None else {}
        try:
            return self.client.get_object(**self._place(key), **wanted)["Body"]
        except ClientError as error:
            if code_of(error) in _MISSING:
                raise ObjectMissing(key) from None
            if status_of(error) == _BEHIND_THE_END:
                return None
            raise

    def stat(self, key: str) -> ObjectStat | None:
        with self._explained(key):
            try:
                head = self.client.head_object(**self._place(key))
            except ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                raise
        return ObjectStat(head["ContentLength"], head["LastModified"])

    def delete(self, key: str) -> None:
        with self._explained(key):
            self.client.delete_object(**self._place(key))

    def list(self, prefix: str) -> Iterator[str]:
        with self._explained(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._prefix)

    def unfinished(self) -> Iterator[Unfinished]:
        with self._explained(""):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    yield self._unfinished(upload)

    def _unfinished(self, upload: dict[str, Any]) -> Unfinished:
        key, upload_id = upload["Key"].removeprefix(self._prefix), upload["UploadId"]
        parts = stored_parts(self.client, self._place(key), upload_id).values()
        return Unfinished(
            f"{key}?uploadId={upload_id}",
            sum(part["Size"] for part in parts),
            max([upload["Initiated"], *(part["LastModified"] for part in parts)]),
        )

    def discard(self, unfinished: Unfinished) -> None:
        key, _, upload_id = unfinished.name.partition("?uploadId=")
        with self._explained(key):
            try:
                self.client.abort_multipart_upload(**self._place(key), UploadId=upload_id)
            except ClientError as error:
                if code_of(error) not in NO_UPLOAD:
                    raise

    def measure(self, key: str) -> Capabilities:
        with self._explained(key):
            return measure(self.client, self._place(key))

    def close(self) -> None:
        self.client.close()

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        what = f"the object {key!r} in the store {self.location}"
        try:
            yield
        except NoCredentialsError:
            raise StoreUnavailable(
                f"no credentials for the store {self.location}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            ) from None
        except ClientError as error:
            code = code_of(error)
            if code == "NoSuchBucket":
                raise StoreUnavailable(
                    f"there is no bucket {self._bucket!r} ({self.location}); create it first"
                ) from error
            raise StoreUnavailable(f"{what} was refused: {error}") from error
        except (BotoCoreError, Boto3Error, ValueError, OSError) as error:
            raise StoreUnavailable(f"{what} cannot be reached: {error}") from error


def _first_bytes(parts: Iterator[bytes], size_bytes: int) -> tuple[deque[bytes], bool]:
    """Parts of together `size_bytes`, or all of them and True when they are fewer bytes."""
    first: deque[bytes] = deque()
    for part in parts:
        first.append(part)
        if sum(map(len, first)) >= size_bytes:
            return first, False
    return first, True


def _drained(parts: deque[bytes]) -> Iterator[bytes]:
    """The parts, each forgotten here when it is handed on."""
    while parts:
        yield parts.popleft()
