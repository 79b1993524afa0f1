"""Serving asks for `infer`: in one process with the registry, and beside one elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.serving.http.app import Serving
from tests.servers import serving_app
from tests.serving.conftest import push_adapter


@pytest.fixture(params=["one process", "registry elsewhere"])
def url(
    request: pytest.FixtureRequest, serving: Serving, registry: Registry, adapter_dirs: list[Path]
) -> Iterator[str]:
    push_adapter(registry, "team/a", adapter_dirs[0])
    push_adapter(registry, "other", adapter_dirs[1])
    registry.access.create("serving", ["pull:*"], by="tests")
    plane = registry_plane(registry)
    if request.param == "one process":
        with serving_app(assemble([plane, serving.plane()], registry.access)) as found:
            yield found
        return
    with serving_app(assemble([plane], registry.access)) as registry_url:
        with RegistryClient(registry_url) as client:
            with serving_app(assemble([serving.plane()], client.access)) as found:
                yield found


def login(registry: Registry, url: str, *scopes: str) -> openai.OpenAI:
    return login_as(registry, url, "app", *scopes)


def login_as(registry: Registry, url: str, name: str, *scopes: str) -> openai.OpenAI:
    token = registry.access.create(name, scopes, by="tests").token
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)


def ask(client: openai.OpenAI, model: str) -> str | None:
    answer = client.completions.create(model=model, prompt="order", max_tokens=2)
    return answer.choices[0].text


def test_infer_scope_covers_its_adapters_only(registry: Registry, url: str) -> None:
    with login(registry, url, "infer:team/*") as client:
        assert ask(client, "team/a") is not None
        assert ask(client, "team/a:1") is not None
        for model in ("other", "other:1", "other@absent", "tiny"):
            with pytest.raises(openai.PermissionDeniedError, match="lacks the scope 'infer:"):
                ask(client, model)
        assert {model.id for model in client.models.list()} == {"team/a", "team/a@prod"}
        with pytest.raises(openai.PermissionDeniedError):
            client.models.retrieve("other")


def test_token_without_infer_is_refused(registry: Registry, url: str) -> None:
    with login(registry, url, "pull:*") as client:
        with pytest.raises(openai.PermissionDeniedError, match="infer"):
            ask(client, "team/a")


def test_error_names_only_models_that_the_token_may_use(registry: Registry, url: str) -> None:
    with login(registry, url, "infer:team/*") as client:
        with pytest.raises(openai.NotFoundError, match="there is team/a;") as refused:
            ask(client, "team/b")
    with login_as(registry, url, "bob", "infer:none/*") as client:
        with pytest.raises(openai.NotFoundError) as hidden:
            ask(client, "none/b")
    assert "team/a" not in str(hidden.value.body)
    assert "tiny" in str(refused.value.body)  # the base has no secret name


def test_unknown_token_is_an_authentication_error(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            ask(client, "team/a")
