"""The connection to an S3 server, and how its answers are read. Knows no keys.

Credentials come from boto3's own chain (AWS_ACCESS_KEY_ID and the rest).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
MAX_ATTEMPTS = 4
MAX_CONNECTIONS = 32

ChecksumMode = Literal["when_required", "when_supported"]


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach a server; an `endpoint` of None is AWS."""

    region: str
    endpoint: str | None
    public_endpoint: str | None
    checksums: ChecksumMode
    multipart_bytes: int
    """From this size on an object is sent in parts of `part_bytes`."""
    part_bytes: int
    presign_expiry_s: int
    """How long a presigned URL is good; 0: there are none."""


def make_client(options: S3Options) -> Any:
    """A boto3 client with bounded time-outs and retries, safe to use from several threads."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=options.endpoint,
        region_name=options.region,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
            max_pool_connections=MAX_CONNECTIONS,
            # boto3 presigns for a custom endpoint with version 2, which binds no headers.
            signature_version="s3v4",
            request_checksum_calculation=options.checksums,
            response_checksum_validation=options.checksums,
            # Servers under one host name do not resolve bucket.host.
            s3={"addressing_style": "path" if options.endpoint else "auto"},
        ),
    )


def checksum(data: bytes) -> str:
    """The SHA-256 of `data` as S3's headers and parameters spell it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
