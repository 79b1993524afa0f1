"""What the probe makes of answers that no server in the tests gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.storage.s3_client import S3Options, make_client
from hotswap.registry.storage.s3_probe import measure

PLACE = {"Bucket": "bucket", "Key": "probe/x"}
OPTIONS = S3Options(
    region="us-east-1",
    endpoint="http://127.0.0.1:1",
    public_endpoint=None,
    checksums="when_required",
    multipart_bytes=10 << 20,
    part_bytes=5 << 20,
    presign_expiry_s=0,
)


@pytest.fixture
def client() -> Iterator[Any]:
    made = make_client(OPTIONS)
    yield made
    made.close()


def answers(client: Any, wrong_body: int, completion: int) -> Stubber:
    stubber = Stubber(client)
    stubber.add_response("create_multipart_upload", {"UploadId": "u"})
    for operation in ("put_object", "upload_part"):
        stubber.add_client_error(operation, "Refused", http_status_code=wrong_body)
    stubber.add_response("upload_part", {"ETag": "e"})
    stubber.add_response("put_object", {})
    stubber.add_client_error("complete_multipart_upload", "Refused", http_status_code=completion)
    return stubber


def end(stubber: Stubber) -> Stubber:
    stubber.add_response("abort_multipart_upload", {})
    stubber.add_response("delete_object", {})
    return stubber


@pytest.mark.parametrize(("status", "is_once"), [(412, True), (409, True), (501, False)])
def test_condition_that_a_server_does_not_know_is_not_taken_for_one_it_honours(
    client: Any, status: int, is_once: bool
) -> None:
    with end(answers(client, 400, status)) as stubber:
        assert measure(client, PLACE) == Capabilities(is_once, enforces_checksums=True)
        stubber.assert_no_pending_responses()


def test_server_that_is_down_is_not_measured(client: Any) -> None:
    stubber = Stubber(client)
    stubber.add_response("create_multipart_upload", {"UploadId": "u"})
    stubber.add_client_error("put_object", "SlowDown", http_status_code=503)
    with end(stubber), pytest.raises(ClientError, match="SlowDown"):
        measure(client, PLACE)
