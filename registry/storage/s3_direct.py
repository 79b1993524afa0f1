"""Presigned requests to an S3 server, with every binding header in the signature."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import UploadInterrupted
from hotswap.registry.domain.uploads import SentPart, SignedPart, SignedRequest
from hotswap.registry.storage.s3_client import S3Options, code_of, make_client, status_of
from hotswap.registry.storage.s3_multipart import (
    UPLOAD_ENDED,
    start_upload,
    stored_parts,
    unfinished_upload,
)


class S3Direct:
    """Implements DirectAccess."""

    def __init__(
        self,
        client: Any,
        options: S3Options,
        place: Callable[[str], dict[str, str]],
        explained: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._client = client
        self._signer = client
        if options.public_endpoint:
            self._signer = make_client(replace(options, endpoint=options.public_endpoint))
        self._expiry_s = options.presign_expiry_s
        self._place = place
        self._explained = explained
        self.multipart_bytes = options.multipart_bytes
        self.part_bytes = options.part_bytes

    def sign_get(self, key: str) -> str:
        return self.sign("get_object", key, {})

    def sign_put(self, key: str, size_bytes: int, digest: Digest) -> SignedRequest:
        bound = {"ContentLength": size_bytes, "ChecksumSHA256": _spelled(digest)}
        url = self.sign("put_object", key, {**bound, "IfNoneMatch": "*"})
        return SignedRequest(
            url=url, headers={**_headers(size_bytes, digest), "if-none-match": "*"}
        )

    def sign_parts(
        self, key: str, size_bytes: int, digests: Sequence[Digest]
    ) -> tuple[SignedPart, ...]:
        place = self._place(key)
        with self._explained(key):
            upload_id = unfinished_upload(self._client, place)
            stored = {} if upload_id is None else stored_parts(self._client, place, upload_id)
            if upload_id is None:
                upload_id = start_upload(self._client, place)
        return tuple(
            self._sign_part(
                key,
                {"UploadId": upload_id, "PartNumber": number},
                min(self.part_bytes, size_bytes - (number - 1) * self.part_bytes),
                digest,
                stored.get(number, {}).get("ETag"),
            )
            for number, digest in enumerate(digests, start=1)
        )

    def complete(self, key: str, parts: Sequence[SentPart]) -> None:
        place = self._place(key)
        sent = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumSHA256": _spelled(part.digest)}
            for number, part in enumerate(parts, start=1)
        ]
        with self._explained(key):
            upload_id = unfinished_upload(self._client, place)
            if upload_id is None:
                raise _interrupted(key)
            upload = {**place, "UploadId": upload_id}
            try:
                self._client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": sent}, IfNoneMatch="*"
                )
            except ClientError as error:
                if status_of(error) == 412:
                    self._client.abort_multipart_upload(**upload)
                elif code_of(error) in UPLOAD_ENDED:
                    raise _interrupted(key) from error
                else:
                    raise

    def _sign_part(
        self,
        key: str,
        part: dict[str, Any],
        size_bytes: int,
        digest: Digest,
        stored_etag: str | None,
    ) -> SignedPart:
        bound = {"ContentLength": size_bytes, "ChecksumSHA256": _spelled(digest)}
        url = self.sign("upload_part", key, {**part, **bound})
        return SignedPart(url=url, headers=_headers(size_bytes, digest), stored_etag=stored_etag)

    def sign(self, operation: str, key: str, parameters: dict[str, Any]) -> str:
        """The URL that makes boto3's `operation` on the key, until it expires."""
        with self._explained(key):
            return str(
                self._signer.generate_presigned_url(
                    operation,
                    Params={**self._place(key), **parameters},
                    ExpiresIn=self._expiry_s,
                )
            )


def _spelled(digest: Digest) -> str:
    return base64.b64encode(bytes.fromhex(digest.hex)).decode()


def _headers(size_bytes: int, digest: Digest) -> dict[str, str]:
    return {"content-length": str(size_bytes), "x-amz-checksum-sha256": _spelled(digest)}


def _interrupted(key: str) -> UploadInterrupted:
    return UploadInterrupted(
        f"there is no upload of {key} with these parts: another one completed it, or a sweep "
        "aborted it; send it again"
    )
