"""Large objects in parts: each with its SHA-256, one in memory at a time, continued after a crash.

A write that does not end leaves its parts. The next write of the key goes on with them: a part of
the same number, size and checksum is not sent again. Keys written like this are digests, so two
writers at a time send the same parts, and whoever completes last replaces equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from hotswap.registry.domain.errors import UploadInterrupted
from hotswap.registry.storage.s3_client import checksum, code_of

NO_UPLOAD = frozenset({"404", "NoSuchUpload"})
UPLOAD_ENDED = NO_UPLOAD | {"InvalidPart"}

Stored = dict[str, Any]
"""A part as ListParts gives it."""


def in_parts(chunks: Iterable[bytes], part_bytes: int) -> Iterator[bytes]:
    """The same bytes in pieces of `part_bytes`; the last one may be smaller."""
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) >= part_bytes:
            part = bytes(memoryview(pending)[:part_bytes])
            del pending[:part_bytes]
            yield part
    if pending:
        yield bytes(pending)


def upload_in_parts(client: Any, place: dict[str, str], parts: Iterable[bytes]) -> None:
    """Store `parts` as one object; raises UploadInterrupted when the upload ended meanwhile."""
    upload_id = unfinished_upload(client, place)
    stored = {} if upload_id is None else stored_parts(client, place, upload_id)
    if upload_id is None:
        upload_id = start_upload(client, place)
    upload = {**place, "UploadId": upload_id}
    try:
        sent = [
            _send_part(client, upload, number, data, stored.get(number))
            for number, data in enumerate(parts, start=1)
        ]
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    except ClientError as error:
        if code_of(error) not in UPLOAD_ENDED:
            raise
        raise UploadInterrupted(
            f"the upload of {place['Key']} ended meanwhile: another one completed it, or a sweep "
            "aborted it; send it again"
        ) from error


def start_upload(client: Any, place: dict[str, str]) -> str:
    return str(client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256")["UploadId"])


def unfinished_upload(client: Any, place: dict[str, str]) -> str | None:
    """The id of the newest upload of the key that has not ended."""
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=place["Bucket"], Prefix=place["Key"]
    )
    uploads = [
        upload
        for page in pages
        for upload in page.get("Uploads", ())
        if upload["Key"] == place["Key"]
    ]
    newest = max(uploads, key=lambda upload: upload["Initiated"], default=None)
    return None if newest is None else str(newest["UploadId"])


def stored_parts(client: Any, place: dict[str, str], upload_id: str) -> dict[int, Stored]:
    """The parts by number; none when the upload ended meanwhile.

    SeaweedFS lists a part that was sent twice twice. When the two differ, which one counts is not
    known and neither is given.
    """
    parts: dict[int, Stored] = {}
    doubtful: set[int] = set()
    try:
        pages = client.get_paginator("list_parts").paginate(**place, UploadId=upload_id)
        for page in pages:
            for part in page.get("Parts", ()):
                former = parts.setdefault(part["PartNumber"], part)
                if former["ETag"] != part["ETag"]:
                    doubtful.add(part["PartNumber"])
    except ClientError as error:
        if code_of(error) not in NO_UPLOAD:
            raise
    return {number: part for number, part in parts.items() if number not in doubtful}


def _send_part(
    client: Any, upload: dict[str, str], number: int, data: bytes, stored: Stored | None
) -> dict[str, Any]:
    """What the completion must say about the part.

    The first part is always sent: its new date keeps sweeps from aborting what is being resumed.
    """
    sha256 = checksum(data)
    if number > 1 and stored is not None and _is_same(stored, data, sha256):
        etag = stored["ETag"]
    else:
        part = client.upload_part(**upload, PartNumber=number, Body=data, ChecksumSHA256=sha256)
        etag = part["ETag"]
    return {"PartNumber": number, "ETag": etag, "ChecksumSHA256": sha256}


def _is_same(stored: Stored, data: bytes, sha256: str) -> bool:
    """Servers that do not list SHA-256 give the MD5 as the ETag; one that is neither never fits."""
    if stored["Size"] != len(data):
        return False
    if "ChecksumSHA256" in stored:
        return bool(stored["ChecksumSHA256"] == sha256)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return bool(stored["ETag"].strip('"') == md5)
