"""Measures what an S3 server does with checksums and with conditions on multipart uploads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from registry.storage.objects import Capabilities
from registry.storage.s3_client import checksum, status_of

_SENT = b"sent"
_OTHER = checksum(b"other bytes")


def measure(client: Any, place: dict[str, str]) -> Capabilities:
    """Write to the one `place` in every way that should be refused; it is empty afterwards."""
    upload = {**place, "UploadId": _start(client, place)}
    try:
        part = {"PartNumber": 1, "Body": _SENT}
        enforces_checksums = all(
            [
                _is_refused(client.put_object, **place, Body=_SENT, ChecksumSHA256=_OTHER),
                _is_refused(client.upload_part, **upload, **part, ChecksumSHA256=_OTHER),
            ]
        )
        etag = client.upload_part(**upload, **part, ChecksumSHA256=checksum(_SENT))["ETag"]
        client.put_object(**place, Body=_SENT)
        parts = [{"PartNumber": 1, "ETag": etag, "ChecksumSHA256": checksum(_SENT)}]
        create_once_multipart = _is_refused(
            client.complete_multipart_upload,
            **upload,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )
    finally:
        with suppress(ClientError):  # where the completion was accepted the upload is gone
            client.abort_multipart_upload(**upload)
        client.delete_object(**place)
    return Capabilities(
        create_once_multipart=create_once_multipart, enforces_checksums=enforces_checksums
    )


def _start(client: Any, place: dict[str, str]) -> str:
    return str(client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256")["UploadId"])


def _is_refused(call: Any, **parameters: Any) -> bool:
    """Raises ClientError when the server refuses for a reason of its own, as when it is down."""
    try:
        call(**parameters)
    except ClientError as error:
        if status_of(error) not in (400, 412):
            raise
        return True
    return False
