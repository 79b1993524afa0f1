"""Routes that let a blob's bytes pass the registry by."""

from __future__ import annotations

from fastapi import APIRouter

from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.uploads import SentPart, UploadAnswer
from hotswap.registry.domain.values import ValueObject


class OfferBody(ValueObject):
    descriptor: Descriptor
    parts: tuple[Digest, ...] = ()


class FinishBody(ValueObject):
    descriptor: Descriptor
    parts: tuple[SentPart, ...]


def add_upload_routes(router: APIRouter, registry: AdapterRegistry) -> None:
    @router.post("/uploads")
    def offer_upload(body: OfferBody) -> UploadAnswer:
        return UploadAnswer(offer=registry.blobs.offer(body.descriptor, body.parts))

    @router.post("/uploads/finish")
    def finish_upload(body: FinishBody) -> Descriptor:
        registry.blobs.finish(body.descriptor, body.parts)
        return body.descriptor
