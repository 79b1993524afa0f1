"""Measures what an S3 server does with checksums and with conditions on multipart uploads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.storage.s3_client import checksum, status_of

_SENT = b"sent"
_OTHER = checksum(b"other bytes")
_BAD_CHECKSUM = frozenset({400})
_KEY_TAKEN = frozenset({409, 412})
_NO_CONDITION = frozenset({400, 501})


def measure(client: Any, place: dict[str, str]) -> Capabilities:
    """Write to the one `place` in every way that should be refused; it is empty afterwards."""
    upload = {**place, "UploadId": _start(client, place)}
    try:
        return Capabilities(
            enforces_checksums=_refuses_wrong_checksums(client, place, upload),
            create_once_multipart=_completes_once(client, place, upload),
        )
    finally:
        with suppress(ClientError):  # where the completion was accepted the upload is gone
            client.abort_multipart_upload(**upload)
        client.delete_object(**place)


def _refuses_wrong_checksums(client: Any, place: dict[str, str], upload: dict[str, str]) -> bool:
    wrong = {"Body": _SENT, "ChecksumSHA256": _OTHER}
    statuses = (
        _status(client.put_object, **place, **wrong),
        _status(client.upload_part, **upload, PartNumber=1, **wrong),
    )
    return all(status in _BAD_CHECKSUM for status in statuses)


def _completes_once(client: Any, place: dict[str, str], upload: dict[str, str]) -> bool:
    """Whether a completion loses against an object that is there."""
    right = {"Body": _SENT, "ChecksumSHA256": checksum(_SENT)}
    etag = client.upload_part(**upload, PartNumber=1, **right)["ETag"]
    client.put_object(**place, **right)
    parts = [{"PartNumber": 1, "ETag": etag, "ChecksumSHA256": checksum(_SENT)}]
    status = _status(
        client.complete_multipart_upload,
        **upload,
        MultipartUpload={"Parts": parts},
        IfNoneMatch="*",
    )
    return status in _KEY_TAKEN


def _start(client: Any, place: dict[str, str]) -> str:
    return str(client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256")["UploadId"])


def _status(call: Any, **parameters: Any) -> int:
    """The status of the answer: a success, or a refusal that says something about the server.

    Raises ClientError for any other, as when the server is down or forbids the call.
    """
    try:
        call(**parameters)
    except ClientError as error:
        if status_of(error) not in _BAD_CHECKSUM | _KEY_TAKEN | _NO_CONDITION:
            raise
        return status_of(error)
    return 200
