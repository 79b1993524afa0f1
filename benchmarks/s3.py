"""A SeaweedFS store for benchmarks, and what makes a server use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from tests.servers import ACCESS_KEY, SECRET_KEY, seaweedfs

BUCKET = "bench"


@contextmanager
def s3_store(binary: str, directory: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """An empty bucket in a new directory: a boto3 client, and a server's variables for it."""
    directory.mkdir()
    with seaweedfs(binary, directory) as endpoint:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        client.create_bucket(Bucket=BUCKET)
        yield (
            client,
            {
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "HOTSWAP_REGISTRY_STORE": f"s3://{BUCKET}/registry",
                "HOTSWAP_REGISTRY_S3_ENDPOINT": endpoint,
            },
        )
