"""`import hotswap` is light, and each example in the client's documentation runs as it stands."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hotswap
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.errors import InvalidReference, InvalidRequest, Unauthenticated
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from hotswap.sdk import Client
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.serving.settings import ServingHome
from tests.peft_adapters import make_adapter
from tests.refusals import refused
from tests.servers import serving_app
from tests.serving.conftest import serving_settings

EXAMPLES = [
    test
    for named in (hotswap.connect, Client)
    for test in doctest.DocTestFinder().find(named, globs={})
    if test.examples
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOTSWAP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USER", "ann")


@pytest.fixture
def adapters(tiny_base: BaseDirectory, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_adapter(tiny_base, tmp_path / f"adapter-{seed}", seed=seed)


@contextmanager
def a_server(tmp_path: Path, base: BaseDirectory) -> Iterator[str]:
    """Registry and serving on one port."""
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    registry = Registry.open(LocalStore(tmp_path / "store"), catalog)
    serving = Serving(serving_settings(base), registry, ServingHome(tmp_path / "home"), base=base)
    with serving_app(assemble([registry_plane(registry), serving.plane()], registry.access)) as url:
        yield url
    registry.close()


def test_every_verb_has_an_example() -> None:
    verbs = {"push", "pull", "resolve", "versions", "alias", "rollback", "history", "search"}
    verbs |= {"diff", "chat"}
    assert {test.name for test in EXAMPLES} == {"connect", *(f"Client.{verb}" for verb in verbs)}


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example_prints_what_it_says(
    example: doctest.DocTest, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    with a_server(tmp_path, tiny_base) as url, hotswap.connect(url) as client:
        for number, why in ((1, "first"), (2, "better")):
            metrics = {"em": number / 10}
            client.push(f"adapter-{number}", "team/sql", alias="prod", why=why, metrics=metrics)
        example.globs = {"client": client, "url": url}
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.usefixtures("adapters")
def test_store_is_opened_like_a_server_but_answers_nothing(tmp_path: Path) -> None:
    with hotswap.connect(str(tmp_path / "store")) as client:
        assert client.push("adapter-1", "team/sql", alias="prod").number == 1
        assert client.history("team/sql") == client.history("team/sql@prod")
        with refused(InvalidRequest, "store"):
            client.chat("team/sql", "hi")


def test_bare_name_is_never_moved(tmp_path: Path) -> None:
    with hotswap.connect(str(tmp_path / "store")) as client:
        for verb in (lambda: client.alias("team/sql", 1), lambda: client.rollback("team/sql")):
            with refused(InvalidReference, "team/sql@prod"):
                verb()


def test_token_goes_before_the_settings(tiny_base: BaseDirectory, tmp_path: Path) -> None:
    with a_server(tmp_path, tiny_base) as url, hotswap.connect(url) as opened:
        made = opened.registry.access.create("ci", ["pull:*"], by="ann")
        with hotswap.connect(url, token=made.token) as client:
            assert client.search("number = 1") == []
        with refused(Unauthenticated, "HOTSWAP_REGISTRY_TOKEN"):
            opened.search("number = 1")


def test_importing_the_package_and_opening_a_client_are_light() -> None:
    code = (
        "import sys, hotswap\n"
        "assert not {'pydantic', 'httpx', 'click'} & set(sys.modules)\n"
        "client = hotswap.connect('http://127.0.0.1:1')\n"
        "heavy = {'torch', 'sqlalchemy', 'sqlmodel', 'boto3', 'fastapi', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "client.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_of_the_package_are_those_it_lists() -> None:
    assert hotswap.__all__ == ["Client", "HotswapError", "connect"]
    assert all(getattr(hotswap, name).__doc__ for name in hotswap.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = hotswap.nothing
