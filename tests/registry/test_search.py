"""Searches in SQL, held against a plain reading of the same expressions, on both databases."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hotswap.registry.bundles.transfer import push
from hotswap.registry.database import search
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.database.database import Database
from hotswap.registry.database.revisions import upgrade
from hotswap.registry.domain.adapters import AdapterVersion, AliasMove, VersionState
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.layout import manifest_key
from hotswap.registry.registry import Registry
from hotswap.registry.search import language
from hotswap.registry.search.facts import MAX_KEY, MAX_TEXT, Fact
from hotswap.registry.search.language import Expression, Not, Predicate
from hotswap.registry.search.parser import parse_filter
from hotswap.registry.storage.blobs import ManifestStore
from hotswap.registry.storage.local import LocalStore
from tests.registry.bundles import read_bundle
from tests.registry.conftest import OpenRegistry

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a", "a-b", "a/b", "a.b", "team/sql", "team/Ünï", "z")
NUMBERS = {"metrics.em": (0.1, 0.5, 0.5, 0.9), "lora.r": (4, 8, 16)}
TEXTS = {
    "tag.team": ("x", "X", "xy", "x%", "x_y", "[x]", "é", ""),
    "description": ("dates and times", "a*b?c", "50% [off]", "\\ back"),
    "lineage.run": ("r1", "r2"),
}
ALIASES = ("prod", "candidate")
STATES = ("active", "yanked", "deleted", "purged")


class Known:
    """What a test knows of one version."""

    def __init__(self, version: AdapterVersion) -> None:
        self.version = version
        self.state = "active"
        self.aliases: set[str] = set()
        self.facts: dict[str, str | float] = {
            "by": version.created_by,
            "created": version.created_at.timestamp(),
        }

    @property
    def key(self) -> tuple[str, int]:
        return self.version.name, self.version.number

    def holds(self, expression: Expression) -> bool:
        match expression:
            case language.And():
                return all(map(self.holds, expression.parts))
            case language.Or():
                return any(map(self.holds, expression.parts))
            case Not():
                return not self.holds(expression.inner)
            case Predicate():
                return any(compare(value, expression) for value in self.values(expression.field))

    def values(self, field: str) -> list[str | float]:
        own: dict[str, Any] = {
            "name": [self.version.name],
            "number": [float(self.version.number)],
            "state": [self.state],
            "alias": list(self.aliases),
        }
        return own.get(field, [self.facts[field]] if field in self.facts else [])


def compare(value: Any, comparison: Predicate) -> bool:
    first: Any = comparison.values[0]
    match comparison.operator:
        case "=":
            return value == first
        case "in":
            return value in comparison.values
        case "<":
            return value < first
        case "<=":
            return value <= first
        case ">":
            return value > first
        case ">=":
            return value >= first
        case "~":
            pattern = ".*".join(map(re.escape, first.split("*")))
            return re.fullmatch(pattern, value, re.DOTALL) is not None


def fill(catalog: Catalog, chance: random.Random) -> list[Known]:
    """Random versions, their facts, states with a history and aliases that were moved about."""
    known: list[Known] = []
    moves: list[AliasMove] = []
    states: list[VersionState] = []
    for name in NAMES:
        versions = [_version(name, n, chance) for n in range(1, chance.randint(2, 9))]
        mine = [Known(version) for version in versions]
        for alias in ALIASES:
            for sequence in range(1, chance.randint(1, 4)):
                to = chance.choice(mine)
                for one in mine:
                    one.aliases.discard(alias)
                to.aliases.add(alias)
                moves.append(_move(name, alias, sequence, to.version.number))
        for one in mine:
            for sequence in range(1, chance.choice((1, 1, 1, 2, 3))):
                one.state = chance.choice(STATES)
                states.append(_state(one, sequence))
            for key, values in (*NUMBERS.items(), *TEXTS.items()):
                if chance.random() < 0.8:
                    one.facts[key] = chance.choice(values)
        known += mine
    versions = [one.version for one in known]
    catalog.add(versions, moves, states, [fact for one in known for fact in _facts(one)])
    return known


def _version(name: str, number: int, chance: random.Random) -> AdapterVersion:
    return AdapterVersion(
        name=name,
        number=number,
        manifest_digest=Digest.of(f"{name}:{number}".encode()),
        created_by=chance.choice(("ann", "bob")),
        created_at=STARTED + timedelta(days=chance.randint(0, 9), microseconds=number),
    )


def _move(name: str, alias: str, sequence: int, to: int) -> AliasMove:
    return AliasMove(
        name=name, alias=alias, sequence=sequence, from_number=None, to_number=to,
        moved_by="ann", moved_at=STARTED, why="",
    )  # fmt: skip


def _state(one: Known, sequence: int) -> VersionState:
    name, number = one.key
    return VersionState.model_validate(
        {
            "name": name, "number": number, "sequence": sequence, "state": one.state,
            "changed_by": "ann", "changed_at": STARTED, "why": "",
        }
    )  # fmt: skip


def _facts(one: Known) -> Iterator[Fact]:
    for key, value in one.facts.items():
        text = value if isinstance(value, str) else None
        yield Fact(*one.key, key, text, None if isinstance(value, str) else float(value))


def random_filter(chance: random.Random, depth: int = 3) -> str:
    if depth and chance.random() < 0.6:
        parts = [random_filter(chance, depth - 1) for _ in range(chance.randint(1, 3))]
        return f" {chance.choice(('and', 'or'))} ".join(f"({part})" for part in parts)
    if chance.random() < 0.2:
        return f"not {random_filter(chance, 0)}"
    if chance.random() < 0.3:
        field = chance.choice((*NUMBERS, "number"))
        values = [str(v) for v in NUMBERS.get(field, (1, 2, 3))]
        return f"{field} {_right_side(chance, values, ('=', '!=', '<', '<=', '>', '>='))}"
    own = {"name": NAMES, "state": STATES, "alias": (*ALIASES, "none"), "by": ("ann", "zed")}
    field = chance.choice((*TEXTS, *own))
    texts = [*TEXTS.get(field, own.get(field, ()))]
    operators = ("=", "=", "!=", "<", "<=", ">", ">=", "~", "~", "~")
    texts += [_pattern(chance, text) for text in texts]
    return f"{field} {_right_side(chance, [_quoted(t) for t in texts], operators)}"


def _right_side(chance: random.Random, values: list[str], operators: tuple[str, ...]) -> str:
    if chance.random() < 0.2:
        return f"in ({', '.join(chance.choices(values, k=2))})"
    return f"{chance.choice(operators)} {chance.choice(values)}"


def _pattern(chance: random.Random, text: str) -> str:
    start = chance.randint(0, len(text))
    return f"{text[:start]}*{text[chance.randint(start, len(text)) :]}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog on each database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/catalog.sqlite"
    else:
        url = str(request.getfixturevalue("postgres_url"))
        database = Database(url)
        upgrade(database)
        database.close()
    opened = Catalog(url)
    yield opened
    opened.close()


def read_pages(catalog: Catalog, expression: Expression, limit: int) -> list[tuple[str, int]]:
    keys: list[tuple[str, int]] = []
    while page := catalog.search(expression, keys[-1] if keys else None, limit):
        keys += [(version.name, version.number) for version in page]
        if len(page) < limit:
            break
    return keys


INJECTIONS = ["' or 1=1 --", "x'); DROP TABLE facts; --", "a\0b", "😀", "%", "*"]


@pytest.mark.parametrize("max_driving", [0, 3, 5000])
def test_every_page_is_what_a_plain_reading_gives(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, max_driving: int
) -> None:
    monkeypatch.setattr(search, "MAX_DRIVING", max_driving)
    chance = random.Random(max_driving)
    known = fill(catalog, chance)
    num_found = 0
    for _ in range(300):
        text = random_filter(chance)
        expression = parse_filter(text)
        gone = () if language.mentions(expression, "state") else ("deleted", "purged")
        expected = sorted(k.key for k in known if k.state not in gone and k.holds(expression))
        found = read_pages(catalog, expression, chance.randint(1, 20))
        assert found == expected, text
        num_found += len(found)
    assert num_found > 1000


@pytest.mark.parametrize("text", INJECTIONS)
def test_values_are_bound_and_never_part_of_the_statement(catalog: Catalog, text: str) -> None:
    known = fill(catalog, random.Random(1))
    quoted = _quoted(text)
    for field in ("name", "tag.team", f"tag.{quoted}", "alias", "state", "by"):
        for operator in ("=", "<", "~"):
            catalog.search(parse_filter(f"{field} {operator} {quoted}"), None, 10)
    assert len(catalog.search(parse_filter("number > 0 and state ~ '*'"), None, 1000)) == len(known)


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


def push_one(registry: Registry, directory: Path, seed: int, name: str = "a", **known: Any) -> None:
    bundle, _ = read_bundle(directory, seed)
    push(registry, name, bundle, bundle.manifest(**known), by="ann")


def found(registry: Registry, text: str) -> list[str]:
    return [str(version.ref) for version in registry.adapters.search(text)]


def test_facts_come_back_with_a_new_catalog_a_rebuild_and_another_process(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    first, other = open_registry(), open_registry("other")
    push_one(first, tmp_path / "1", 1, metrics={"em": 0.9}, tags={"team": "x"})
    push_one(first, tmp_path / "2", 2, metrics={"em": 0.7})
    text = 'metrics.em > 0.8 and tag.team = "x"'
    assert found(first, text) == ["a:1"]
    other.adapters.versions("a")  # catches up
    assert found(other, text) == ["a:1"]
    assert found(open_registry("fresh"), text) == ["a:1"]
    first.rebuild()
    assert found(first, text) == ["a:1"]


def test_damaged_manifest_hides_its_facts_and_stops_nothing(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    first = open_registry()
    push_one(first, tmp_path / "1", 1, metrics={"em": 0.9})
    push_one(first, tmp_path / "2", 2, metrics={"em": 0.9})
    digest = first.adapters.versions("a")[0].manifest_digest
    (tmp_path / "store" / manifest_key(digest)).write_bytes(b"{}")
    reopened = open_registry("fresh")
    assert found(reopened, "metrics.em > 0.8") == ["a:2"]
    assert found(reopened, "by = 'ann'") == ["a:1", "a:2"]
    bundle, manifest = read_bundle(tmp_path / "again", 1)
    manifest = bundle.manifest(metrics={"em": 0.9})
    push(reopened, "a", bundle, manifest, by="bob")
    assert found(reopened, "metrics.em > 0.8") == ["a:1", "a:2"]


def test_catalog_from_before_there_were_facts_is_filled_again(tmp_path: Path) -> None:
    store, path = LocalStore(tmp_path / "store"), tmp_path / "catalog.sqlite"
    opened = Registry.open(store, Catalog(f"sqlite:///{path}"))
    push_one(opened, tmp_path / "1", 1, metrics={"em": 0.9})
    database = Database(f"sqlite:///{path}")
    with database.add() as connection:
        for statement in (
            "DROP TABLE facts",
            "DROP INDEX alias_moves_by_alias",
            "UPDATE alembic_version SET version_num = '0003'",
        ):
            connection.exec_driver_sql(statement)
    database.close()
    opened.close()
    reopened = Registry.open(store, Catalog(f"sqlite:///{path}"))
    assert found(reopened, "metrics.em > 0.8") == ["a:1"]
    reopened.close()


def test_long_texts_are_searched_in_their_beginning_and_long_keys_not_at_all(
    registry: Registry, tmp_path: Path
) -> None:
    tags = {"k" * MAX_KEY: "x", "nul": "a\0b"}
    push_one(registry, tmp_path / "1", 1, description="d" * 5000 + "end", tags=tags)
    assert found(registry, f"description = '{'d' * MAX_TEXT}'") == ["a:1"]
    assert found(registry, "description ~ '*end'") == []
    assert found(registry, f"tag.{'k' * MAX_KEY} = 'x'") == []
    assert found(registry, "tag.nul = 'a\0b'") == ["a:1"]


def test_manifest_store_says_whether_it_had_to_heal(tmp_path: Path) -> None:
    manifests, data = ManifestStore(LocalStore(tmp_path / "store")), b"{}"
    assert manifests.heal(Digest.of(data), data)
    assert not manifests.heal(Digest.of(data), data)
