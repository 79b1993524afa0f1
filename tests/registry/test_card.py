"""Model cards: what the Hub reads in front, and Markdown that no user's text can break."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hotswap.registry.bundles.card import escaped, make_card
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.access import ADMIN
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.manifest import Lineage
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from tests.registry.bundles import read_bundle
from tests.registry.conftest import OpenRegistry
from tests.servers import serving_app

NAME = "team/sql"
HOSTILE = [
    "a | b",
    "a\n| x | y |\n\n# heading",
    "```\n---\n",
    "<script>alert(1)</script> <!-- x",
    "[link](http://x) ![i](y) <http://z>",
    "**bold** _it_ `code` ~~gone~~ \\| \\",
    "---",
    "1. one",
    "- item",
    "+ item",
    "=== \t: :",
    "# heading",
    "> quote",
    "&lt;b&gt; &#124;",
    "quote \" and ' : {a: b}, [c] # no comment",
    "\u202e\u2028 \x00 \x85 ü 😀",
]


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


def push_one(registry: Registry, directory: Path, **known: Any) -> AdapterRef:
    bundle, _ = read_bundle(directory)
    version = push(registry, NAME, bundle, bundle.manifest(**known), by="ann")
    return version.ref


def card_parts(card: str) -> tuple[dict[str, Any], list[Token]]:
    """The front matter, found as the Hub finds it, and the tokens of the Markdown behind it."""
    found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\r|\n|$))", card)
    assert found is not None
    return yaml.safe_load(found.group(2)), MarkdownIt("gfm-like", {"linkify": False}).parse(
        card[found.end() :]
    )


def rows_of(tokens: list[Token]) -> list[list[str]]:
    """The texts of every table row."""
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("td_open", "th_open"):
            rows[-1].append(shown(token))
    return rows


def shown(token: Token) -> str:
    return "".join(child.content for child in token.children or [])


def one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def test_front_matter_is_what_the_hub_reads(registry: Registry, tmp_path: Path) -> None:
    hub = pytest.importorskip(
        "huggingface_hub", reason="needs huggingface_hub: pip install huggingface_hub"
    )
    lineage = Lineage(dataset_digest=Digest.of(b"rows"))
    known = {"metrics": {"em": 0.83, "f1": 0.9}, "tags": {"team": "x"}, "lineage": lineage}
    data = hub.ModelCard(make_card(registry, push_one(registry, tmp_path / "a", **known))).data
    assert (data.base_model, data.library_name) == ("tiny", "peft")
    assert data.tags == ["lora", "team=x"]
    assert data.model_name == NAME
    assert [(r.metric_type, r.metric_value, r.dataset_name) for r in data.eval_results] == [
        ("em", 0.83, str(Digest.of(b"rows"))),
        ("f1", 0.9, str(Digest.of(b"rows"))),
    ]


def test_card_tells_version_state_aliases_and_lineage(registry: Registry, tmp_path: Path) -> None:
    parent = push_one(registry, tmp_path / "a")
    ref = push_one(registry, tmp_path / "b", lineage=Lineage(parent=str(parent), run="r1"))
    registry.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))
    registry.aliases.move(MoveRequest(NAME, "candidate", 2, by="ann"))
    registry.versions.change(StateRequest(NAME, 2, "yank", by="ann", why="too slow"))
    front, tokens = card_parts(make_card(registry, ref))
    rows = rows_of(tokens)
    assert "model-index" not in front
    assert ["state", "yanked: too slow"] in rows
    assert ["aliases", "candidate, prod"] in rows
    assert ["parent", "team/sql:1"] in rows
    assert ["run", "r1"] in rows
    digest = str(registry.versions.resolve(ref).manifest_digest)
    assert ["digest", digest] in rows


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out(registry: Registry, tmp_path: Path, text: str) -> None:
    key = one_line(text) or "x"
    ref = push_one(
        registry,
        tmp_path / "a",
        description=text,
        tags={key: text},
        metrics={key: 1.5},
        lineage=Lineage(run=text),
    )
    front, tokens = card_parts(make_card(registry, ref))
    plain_front, plain = card_parts(
        make_card(registry, push_one(registry, tmp_path / "b", **PLAIN))
    )
    assert [t.type for t in tokens] == [t.type for t in plain]
    children = {c.type for t in tokens for c in t.children or []}
    assert children <= {"text", "text_special", "code_inline"}
    assert [key, one_line(text)] in rows_of(tokens)
    assert [key, "1.5"] in rows_of(tokens)
    assert ["run", one_line(text)] in rows_of(tokens)
    assert front.keys() == plain_front.keys()
    assert front["tags"] == ["lora", one_line(f"{key}={text}")]
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": key, "value": 1.5}]


PLAIN = {"description": "x", "tags": {"a": "b"}, "metrics": {"em": 1}, "lineage": Lineage(run="r")}


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_one_paragraph_that_reads_the_same(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(escaped(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(tokens[1]) == one_line(text)


def test_provenance_cannot_end_its_block(registry: Registry, tmp_path: Path) -> None:
    provenance = {"note": "```\n# heading\n```", "```": ["```"]}
    bundle, manifest = read_bundle(tmp_path / "a")
    manifest = manifest.model_copy(update={"provenance": provenance})
    version = push(registry, NAME, bundle, manifest, by="ann")
    _, tokens = card_parts(make_card(registry, version.ref))
    (fence,) = [token for token in tokens if token.type == "fence"]
    assert json.loads(fence.content) == provenance
    assert tokens[-1] is fence


def test_card_over_http_needs_pull_of_the_name(registry: Registry, tmp_path: Path) -> None:
    ref = push_one(registry, tmp_path / "a")
    registry.access.create("root", [ADMIN], by="ann")
    tokens = {
        scope: registry.access.create(f"t{i}", [scope], by="ann").token
        for i, scope in enumerate(("pull:team/*", "pull:other/*"))
    }
    with serving_app(assemble([registry_plane(registry)], registry.access)) as url:
        answers = {
            scope: httpx.get(
                f"{url}/v1/card",
                params={"ref": str(ref)},
                headers={"Authorization": f"Bearer {token}"},
                timeout=60,
            )
            for scope, token in tokens.items()
        }
    allowed, refused = answers["pull:team/*"], answers["pull:other/*"]
    assert allowed.text == make_card(registry, ref)
    assert allowed.headers["content-type"] == "text/markdown; charset=utf-8"
    assert refused.status_code == 403
