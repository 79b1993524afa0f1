"""The OpenAI-style HTTP API. Asynchronous, as `answers` and `generation` are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from hotswap.registry.domain.adapters import DEFAULT_ALIAS
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.auth import principal_of
from hotswap.registry.http.rules import rule
from hotswap.serving.http.answers import ChatAnswer, TextAnswer, provenance_of
from hotswap.serving.requests.inference import Inference
from hotswap.serving.requests.schemas import ChatRequest, CompletionRequest

_PAGE = 500

# Routes that learn the adapters from the body or the path ask for their names themselves.
SERVING_RULES = (
    rule("POST", "/v1/(chat/)?completions", "infer"),
    rule("GET", "/v1/models(/.*)?", "infer"),
)


def serving_router(inference: Inference, registry: AdapterRegistry) -> APIRouter:
    router = APIRouter()
    # Long prompts share two threads, so that they hold up neither streams nor other routes.
    preparing = CapacityLimiter(2)

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        inference.resolver.require_allowed(body.model, principal_of(request))
        target = await run_in_threadpool(inference.resolver.resolve, body.model)
        prompts = await to_thread.run_sync(inference.chat_ids, target, body, limiter=preparing)
        answer = ChatAnswer(inference, target, body, inference.start(target, body, prompts))
        return await answer.respond(request)

    @router.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Any:
        inference.resolver.require_allowed(body.model, principal_of(request))
        target = await run_in_threadpool(inference.resolver.resolve, body.model)
        prompts = await to_thread.run_sync(inference.completion_ids, body, limiter=preparing)
        answer = TextAnswer(inference, target, body, inference.start(target, body, prompts))
        return await answer.respond(request)

    @router.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        base = _model(inference.resolver.servable.base_name, 0, "hotswap")
        principal = principal_of(request)
        models = [base, *_adapter_models(registry)]
        allowed = [m for m in models if principal.allows("infer", m["id"].partition("@")[0])]
        return {"object": "list", "data": allowed}

    @router.get("/v1/models/{name:path}")
    def model(name: str, request: Request) -> dict[str, Any]:
        inference.resolver.require_allowed(name, principal_of(request))
        target = inference.resolver.resolve(name)
        version = target.version
        if version is None:
            return _model(name, 0, "hotswap")
        created = int(version.created_at.timestamp())
        root = {"root": target.model, "digest": provenance_of(inference, target).digest}
        return {**_model(name, created, version.created_by), **root}

    return router


def _model(name: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def _adapter_models(registry: AdapterRegistry) -> Iterable[dict[str, Any]]:
    """Every alias as `name@alias`, and the bare name where the default alias exists."""
    after = ""
    while page := registry.adapters.all(after=after, limit=_PAGE):
        for adapter in page:
            created = int(adapter.updated_at.timestamp())
            names = [f"{adapter.name}@{alias}" for alias in sorted(adapter.aliases)]
            if DEFAULT_ALIAS in adapter.aliases:
                names.insert(0, adapter.name)
            for name in names:
                yield _model(name, created, adapter.name.partition("/")[0])
        after = page[-1].name
