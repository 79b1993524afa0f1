"""The object store in an S3 bucket. The only file that knows boto3.

Credentials come from boto3's own chain (AWS_ACCESS_KEY_ID and the rest).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from registry.errors import StoreUnavailable
from registry.storage.objects import (
    CHUNK_BYTES,
    ObjectMissing,
    ObjectStat,
    Unfinished,
    check_key,
)

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
MAX_ATTEMPTS = 4
MAX_CONNECTIONS = 32
SPOOL_BYTES = 8 << 20
MULTIPART_BYTES = 64 << 20

_TRANSFER = TransferConfig(
    multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, use_threads=False
)
_NO_UPLOAD = frozenset({"404", "NoSuchUpload"})
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class S3Store:
    """A bucket, or the part of it below a prefix. Raises no error of botocore's."""

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint: str | None = None, region: str
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = endpoint
        with self._explained(""):
            self._client: Any = _client(endpoint, region)

    @property
    def location(self) -> str:
        at = f" at {self._endpoint}" if self._endpoint else ""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/") + at

    def create(self, key: str, data: bytes) -> bool:
        place = self._place(key)
        with self._explained(key):
            for attempt in range(MAX_ATTEMPTS):
                try:
                    self._client.put_object(**place, Body=data, IfNoneMatch="*")
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return False
                    # 409: another conditional write of this key is under way; ask again.
                    if status != 409 or attempt == MAX_ATTEMPTS - 1:
                        raise
                    time.sleep(0.05 * 2**attempt)
                else:
                    return True
        raise AssertionError("unreachable: the last attempt returns or raises")

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
            for chunk in chunks:
                spool.write(chunk)
            spool.seek(0)
            with self._explained(key):
                self._client.upload_fileobj(spool, **self._place(key), Config=_TRANSFER)

    def open(self, key: str) -> Iterator[bytes]:
        with self._explained(key):
            try:
                body = self._client.get_object(**self._place(key))["Body"]
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    raise ObjectMissing(key) from None
                raise
            try:
                yield from body.iter_chunks(CHUNK_BYTES)
            finally:
                body.close()

    def stat(self, key: str) -> ObjectStat | None:
        with self._explained(key):
            try:
                head = self._client.head_object(**self._place(key))
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return None
                raise
        return ObjectStat(head["ContentLength"], head["LastModified"])

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(**self._place(key))

    def list(self, prefix: str) -> Iterator[str]:
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._prefix)

    def unfinished(self) -> Iterator[Unfinished]:
        with self._explained(""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    key = upload["Key"].removeprefix(self._prefix)
                    size_bytes = sum(part["Size"] for part in self._parts(key, upload["UploadId"]))
                    name = f"{key}?uploadId={upload['UploadId']}"
                    yield Unfinished(name, size_bytes, upload["Initiated"])

    def discard(self, unfinished: Unfinished) -> None:
        key, _, upload_id = unfinished.name.partition("?uploadId=")
        with self._explained(key):
            try:
                self._client.abort_multipart_upload(**self._place(key), UploadId=upload_id)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _NO_UPLOAD:
                    raise

    def _parts(self, key: str, upload_id: str) -> Iterator[dict[str, Any]]:
        """The parts that are stored; none when the upload ended meanwhile."""
        try:
            pages = self._client.get_paginator("list_parts").paginate(
                **self._place(key), UploadId=upload_id
            )
            for page in pages:
                yield from page.get("Parts", ())
        except ClientError as error:
            if error.response["Error"]["Code"] not in _NO_UPLOAD:
                raise

    def close(self) -> None:
        self._client.close()

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
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                raise StoreUnavailable(
                    f"there is no bucket {self._bucket!r} ({self.location}); create it first"
                ) from error
            raise StoreUnavailable(f"{what} was refused: {error}") from error
        except (BotoCoreError, Boto3Error, ValueError, OSError) as error:
            raise StoreUnavailable(f"{what} cannot be reached: {error}") from error


def _client(endpoint: str | None, region: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
            max_pool_connections=MAX_CONNECTIONS,
            # Servers under one host name do not resolve bucket.host.
            s3={"addressing_style": "path" if endpoint else "auto"},
        ),
    )
