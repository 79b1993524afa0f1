"""Serving as a plane: routes, lifespan, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.app import Plane
from hotswap.registry.http.planes import PlaneHost
from hotswap.registry.settings import Home
from hotswap.serving.adapters.cache import AdapterCache
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.engine import Engine
from hotswap.serving.execution.runner import ModelRunner, PreparedAdapter
from hotswap.serving.http.api import SERVING_RULES, serving_router
from hotswap.serving.http.parts import ServingParts
from hotswap.serving.requests.inference import Inference
from hotswap.serving.settings import ServingSettings


class Serving:
    """One base, its engine and the adapters around it. `start` before use, `stop` after."""

    def __init__(
        self,
        settings: ServingSettings,
        registry: AdapterRegistry,
        home: Home,
        *,
        base: BaseDirectory | None = None,
    ) -> None:
        """Loads and quantizes `base`, or the one that the settings name; raises BaseNotFound, or
        InvalidSettings for the trust file or the request log."""
        self._parts = ServingParts.over(settings, registry, home, base)

    @property
    def base(self) -> BaseDirectory:
        return self._parts.around.base

    @property
    def runner(self) -> ModelRunner:
        return self._parts.execution.runner

    @property
    def adapters(self) -> AdapterCache[PreparedAdapter]:
        return self._parts.execution.adapters

    @property
    def engine(self) -> Engine[PreparedAdapter]:
        return self._parts.execution.engine

    @property
    def inference(self) -> Inference:
        return self._parts.inference

    def start(self) -> None:
        if (log := self._parts.request_log) is not None:
            log.start()
        self.engine.start()
        self._parts.resolution.follower.start()

    def stop(self) -> None:
        self._parts.resolution.follower.stop()
        self.engine.stop()
        self.adapters.close()
        if (log := self._parts.request_log) is not None:
            log.stop()

    def health(self) -> dict[str, Any]:
        around, log = self._parts.around, self._parts.request_log
        return {
            "base": self.base.model_id,
            "device": around.placement.device.type,
            "quantization": around.placement.quantization.value,
            "max_model_len": around.max_model_len,
            **self.engine.health(),
            **self._parts.resolution.follower.health(),
            **({} if log is None else {"request_log": log.health()}),
        }

    def plane_host(self, home: Home) -> PlaneHost:
        """What planes of other packages need to know of this one."""
        base = self.base
        return PlaneHost(
            self._parts.around.registry,
            home,
            base.path,
            base.model_id,
            base.revision,
            is_busy=self.engine.is_busy,
        )

    def plane(self) -> Plane:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            self.start()
            try:
                yield
            finally:
                self.stop()

        router = serving_router(self.inference, self._parts.around.registry)
        return Plane("serving", router, lifespan, self.health, rules=SERVING_RULES)
