"""Tokens and scopes, over real HTTP: who may do what, what is refused and with which words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from hotswap.registry.bundles.transfer import pull, push
from hotswap.registry.domain.access import Principal, check_scope, covers
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    Forbidden,
    HotswapError,
    InvalidRequest,
    TokenExists,
    TokenNotFound,
    Unauthenticated,
    Unavailable,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, StateRequest
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.auth import require_closed
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from tests.refusals import refused
from tests.registry.bundles import file_bytes, read_bundle
from tests.registry.conftest import OpenRegistry
from tests.servers import serving_app

NAME = "team/sql"
Login = Callable[..., RegistryClient]


@pytest.fixture
def opened(open_registry: OpenRegistry) -> Registry:
    return open_registry()


@pytest.fixture
def url(opened: Registry) -> Iterator[str]:
    with serving_app(assemble([registry_plane(opened)], opened.access)) as address:
        yield address


@pytest.fixture
def login(opened: Registry, url: str) -> Iterator[Login]:
    """Makes a token with the scopes and gives a client that shows it."""
    clients: list[RegistryClient] = []

    def make(*scopes: str, name: str = "") -> RegistryClient:
        made = opened.access.create(name or f"t{len(clients)}", scopes, by="root")
        clients.append(RegistryClient(url, token=made.token))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def push_one(
    registry: AdapterRegistry, tmp_path: Path, seed: int = 1, name: str = NAME, **options: str
) -> int:
    bundle, manifest = read_bundle(
        tmp_path / f"{name.replace('/', '-')}-{seed}-{len(options)}", seed
    )
    return push(registry, name, bundle, manifest, by="says ann", **options).number


def stored_bytes(tmp_path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("pattern", "target", "covered"),
    [
        ("*", "team/sql", True),
        ("team/*", "team/sql", True),
        ("team/*", "team/a/b", True),
        ("team/*", "teams/sql", False),
        ("team/*", "team", False),
        ("team/sql", "team/sql2", False),
        ("team/s.l", "team/sql", False),
        ("team/sql", "team/sql@prod", True),
        ("team/sql@prod", "team/sql@prod", True),
        ("team/sql@prod", "team/sql@candidate", False),
        ("*@prod", "team/sql@prod2", False),
        ("*@c*", "team/sql@candidate", True),
    ],
)
def test_pattern_covers_its_names_and_aliases_only(
    pattern: str, target: str, covered: bool
) -> None:
    assert covers(pattern, target) is covered


@pytest.mark.parametrize(
    "scope", ["", "push", "push:", "push:a b", "pull:a@prod", "admin:*", "root", "move:a@B", "*"]
)
def test_text_that_is_no_scope_is_refused(scope: str) -> None:
    with refused(InvalidRequest, repr(scope)):
        check_scope(scope)


def test_store_without_a_token_is_open(url: str, tmp_path: Path) -> None:
    with RegistryClient(url) as client:
        assert push_one(client, tmp_path) == 1
        assert client.access.is_open()


def test_first_token_closes_a_running_server_at_once(
    opened: Registry, url: str, tmp_path: Path
) -> None:
    with RegistryClient(url) as client:
        made = client.access.create("admin", ["admin"], by="ann")
        with refused(Unauthenticated, "HOTSWAP_REGISTRY_TOKEN"):
            client.adapters.all()
    with RegistryClient(url, token=made.token) as client:
        assert client.adapters.all() == []


def test_revoking_the_last_token_opens_nothing(opened: Registry, url: str, login: Login) -> None:
    admin = login("admin", name="admin")
    admin.access.revoke("admin", by="ann")
    for client in (admin, RegistryClient(url)):
        with pytest.raises(Unauthenticated):
            client.adapters.all()
        client.close()


def test_every_route_but_the_public_ones_asks_for_a_token(
    opened: Registry, url: str, login: Login
) -> None:
    login("admin")
    app = assemble([registry_plane(opened)], opened.access)
    paths = app.openapi()["paths"]
    asked = 0
    for path, methods in paths.items():
        for method in methods:
            response = httpx.request(method, url + path.replace("{", "").replace("}", ""))
            if path == "/health":
                assert response.status_code == 200
            else:
                asked += 1
                assert response.status_code == 401, path
                assert response.headers["WWW-Authenticate"] == 'Bearer realm="hotswap"'
    assert asked > 10


def test_every_route_refuses_a_token_without_its_scope(
    opened: Registry, url: str, login: Login
) -> None:
    """Also a route that no rule names: it needs `admin`."""
    made = opened.access.create("weak", ["infer:nothing"], by="root")
    headers = {"Authorization": f"Bearer {made.token}"}
    paths = assemble([registry_plane(opened)], opened.access).openapi()["paths"]
    for path, methods in paths.items():
        if path in ("/health", "/v1/whoami"):
            continue
        for method in methods:
            asked = url + path.replace("{", "").replace("}", "")
            response = httpx.request(method, asked, headers=headers)
            assert response.status_code == 403, path
            assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]
    assert httpx.get(f"{url}/v1/unknown", headers=headers).status_code == 403


def test_push_scope_pushes_below_its_names_only(login: Login, tmp_path: Path) -> None:
    client = login("push:team/*")
    assert push_one(client, tmp_path) == 1
    with refused(Forbidden, "'push:other'") as refusal:
        push_one(client, tmp_path, name="other")
    assert refusal.value.fields["scope"] == "push:other"


def test_upload_past_the_registry_needs_the_push_scope(login: Login) -> None:
    descriptor = Descriptor(
        digest=Digest.of(b"x"), size_bytes=1, media_type="text/plain", file_name="x"
    )
    assert login("push:team/*").blobs.offer(descriptor) is None
    reader = login("pull:*")
    for verb in (
        lambda: reader.blobs.offer(descriptor),
        lambda: reader.blobs.finish(descriptor, []),
    ):
        with refused(Forbidden, "'push"):
            verb()


def test_push_scope_neither_reads_nor_moves(login: Login, tmp_path: Path) -> None:
    client = login("push:team/*")
    push_one(client, tmp_path)
    with refused(Forbidden, "'pull:team/sql'"):
        client.adapters.versions(NAME)
    with refused(Forbidden, "'move:team/sql@prod'"):
        client.aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
    with refused(Forbidden, "'move:team/sql@prod'"):
        push_one(client, tmp_path, alias="prod")


def test_error_names_only_adapters_that_the_token_may_know(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    push_one(opened, tmp_path, name="team/open")
    push_one(opened, tmp_path, name="team/secret")
    with refused(AdapterNotFound, "team/open") as refusal:
        login("pull:team/o*").adapters.versions("team/opem")
    assert "secret" not in str(refusal.value.body())
    with refused(AdapterNotFound, "`hotswap ls`"):
        login("pull:team/x", name="bob").adapters.versions("team/x")


def test_pull_scope_verifies_its_names_and_not_the_store(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    push_one(opened, tmp_path)
    client = login("pull:team/*")
    assert not client.versions.verify(AdapterRef.parse(f"{NAME}:1")).damage
    with refused(Forbidden, "'pull:other'"):
        client.versions.verify(AdapterRef.parse("other"))
    with refused(Forbidden, "'admin'"):
        client.versions.verify()


def test_pull_scope_reads_its_names_and_writes_nothing(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    push_one(opened, tmp_path, alias="prod")
    push_one(opened, tmp_path, name="other", alias="prod")
    client = login("pull:team/*")
    pull(client, AdapterRef.parse(NAME), tmp_path / "pulled")
    assert file_bytes(tmp_path / "pulled") == file_bytes(tmp_path / "team-sql-1-1")
    assert [move.alias for move in client.aliases.all(NAME)] == ["prod"]
    assert len(client.aliases.history(NAME, "prod")) == 1
    for read in (client.adapters.versions, client.aliases.all):
        with refused(Forbidden, "'pull:other'"):
            read("other")
    for ref in ("other", "other:1", "other@prod"):
        with refused(Forbidden, "'pull:other'"):
            client.versions.resolve(AdapterRef.parse(ref))
    with pytest.raises(Forbidden):
        push_one(client, tmp_path, seed=2)


def test_listing_shows_only_the_names_that_may_be_read(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    for name in ("a", "b", "team/x", "team/y", "z"):
        push_one(opened, tmp_path, name=name)
    client = login("pull:team/*")
    assert [a.name for a in client.adapters.all()] == ["team/x", "team/y"]
    assert [a.name for a in client.adapters.all(limit=1)] == ["team/x"]
    assert [a.name for a in client.adapters.all(after="team/x", limit=1)] == ["team/y"]


def test_move_scope_moves_its_alias_only(opened: Registry, login: Login, tmp_path: Path) -> None:
    push_one(opened, tmp_path, 1)
    push_one(opened, tmp_path, 2)
    client = login("move:team/sql@prod", name="releaser")
    client.aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
    client.aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))
    assert client.aliases.rollback(MoveRequest(NAME, "prod", by="ann")).moved_by == "releaser"
    with refused(Forbidden, "'move:team/sql@candidate'"):
        client.aliases.move(MoveRequest(NAME, "candidate", 1, by="ann"))


def test_records_name_the_token_not_what_the_client_says(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    client = login("admin", name="ci")
    push_one(client, tmp_path, alias="prod")
    assert opened.adapters.versions(NAME)[0].created_by == "ci"
    assert opened.aliases.history(NAME, "prod")[0].moved_by == "ci"


def test_secret_is_shown_once_and_stored_as_its_hash(opened: Registry, tmp_path: Path) -> None:
    made = opened.access.create("ci", ["pull:*"], by="ann")
    stored = stored_bytes(tmp_path)
    assert made.token.encode() not in stored
    assert made.token.rpartition("_")[2].encode() not in stored
    assert hashlib.sha256(made.token.encode()).hexdigest().encode() in stored
    assert made.token not in repr(opened.access.all())


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer x", "Basic abc", "Bearer hs_t0_" + "0" * 64, "Bearer hs_no_" + "0" * 64],
)
def test_wrong_token_is_401(url: str, login: Login, header: str) -> None:
    login("admin")
    response = httpx.get(f"{url}/v1/adapters", headers={"Authorization": header})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")


def test_token_expires(opened: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    made = opened.access.create("ci", ["pull:*"], by="ann", expires_at=until)
    assert opened.access.principal(made.token).name == "ci"

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # noqa: ARG003
            return until

    monkeypatch.setattr("hotswap.registry.access.tokens.datetime", Later)
    with refused(Unauthenticated, "'ci'"):
        opened.access.principal(made.token)


def test_expiry_in_the_past_is_refused(opened: Registry) -> None:
    with refused(InvalidRequest, param="expires_at"):
        opened.access.create(
            "ci", ["pull:*"], by="ann", expires_at=datetime(2020, 1, 1, tzinfo=UTC)
        )


def test_revocation_is_seen_by_another_process(open_registry: OpenRegistry) -> None:
    here, there = open_registry("here"), open_registry("there")
    made = here.access.create("ci", ["pull:*"], by="ann")
    assert there.access.principal(made.token).name == "ci"
    here.access.revoke("ci", by="ann")
    for registry in (here, there):
        with refused(Unauthenticated, "'ci'"):
            registry.access.principal(made.token)


def test_lost_catalog_neither_loses_nor_resurrects_tokens(open_registry: OpenRegistry) -> None:
    before = open_registry("before")
    kept = before.access.create("kept", ["pull:*"], by="ann")
    gone = before.access.create("gone", ["pull:*"], by="ann")
    before.access.revoke("gone", by="ann")
    after = open_registry("after")
    assert after.access.principal(kept.token).name == "kept"
    with refused(Unauthenticated, "revoked"):
        after.access.principal(gone.token)


def test_token_name_is_never_used_twice(opened: Registry) -> None:
    opened.access.create("ci", ["pull:*"], by="ann")
    opened.access.revoke("ci", by="ann")
    with refused(TokenExists, "'ci'"):
        opened.access.create("ci", ["admin"], by="bob")


@pytest.mark.parametrize("name", ["", "A", "a/b", "../a", "a_b", "a..b", "x" * 65, "а"])
def test_text_that_is_no_token_name_is_refused(opened: Registry, name: str) -> None:
    with refused(InvalidRequest, param="name"):
        opened.access.create(name, ["pull:*"], by="ann")


def test_unknown_token_cannot_be_revoked(login: Login) -> None:
    with refused(TokenNotFound, "'nobody'"):
        login("admin").access.revoke("nobody", by="ann")


def test_tokens_are_made_and_read_by_admins_only(login: Login) -> None:
    client = login("push:*", "pull:*", "move:*", "infer:*")
    with refused(Forbidden, "'admin'"):
        client.access.create("mine", ["admin"], by="ann")
    with refused(Forbidden, "'admin'"):
        client.access.all()
    with refused(Forbidden, "'admin'"):
        list(client.access.entries())


def test_missing_scope_on_a_blob_is_told_although_head_has_no_body(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    push_one(opened, tmp_path)
    digest = (
        opened.versions.manifest(opened.adapters.versions(NAME)[0].manifest_digest).files[0].digest
    )
    with refused(Forbidden, scope="pull:…"):
        login("infer:*").blobs.has(digest)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_open_server_refuses_to_listen_beyond_this_machine(opened: Registry, host: str) -> None:
    with refused(Unavailable, "hotswap token create"):
        require_closed(opened.access, host)
    opened.access.create("admin", ["admin"], by="ann")
    assert require_closed(opened.access, host) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_open_server_says_so_on_loopback(opened: Registry, host: str) -> None:
    assert "no token was ever made" in require_closed(opened.access, host)


def test_principal_names_what_is_missing() -> None:
    with refused(Forbidden, "'ci'", "'push:a'", "pull:*", scope="push:a"):
        Principal(name="ci", scopes=("pull:*",)).require("push", "a")


def test_audit_log_tells_every_change_with_its_request(
    opened: Registry, url: str, login: Login, tmp_path: Path
) -> None:
    admin = login("admin", name="admin")
    push_one(admin, tmp_path, 1)
    push_one(admin, tmp_path, 2)
    admin.aliases.move(MoveRequest(NAME, "prod", 1, by="x", why="first"))
    admin.aliases.move(MoveRequest(NAME, "prod", 2, by="x"))
    token = opened.access.create("raw", ["move:*"], by="root").token
    answer = httpx.post(
        f"{url}/v1/adapters/{NAME}/aliases/prod/rollback",
        json={"by": "someone else", "why": "broken"},
        headers={"Authorization": f"Bearer {token}", "x-request-id": "my-request.1"},
    )
    assert answer.headers["x-request-id"] == "my-request.1"
    admin.access.revoke("raw", by="x")
    entries = list(admin.access.entries())
    assert [
        (e.who, e.action, e.what, e.before, e.after) for e in entries if e.action != "push"
    ] == [
        ("root", "token.create", "admin", None, {"scopes": ["admin"], "expires_at": None}),
        ("admin", "move", f"{NAME}@prod", None, 1),
        ("admin", "move", f"{NAME}@prod", 1, 2),
        ("root", "token.create", "raw", None, {"scopes": ["move:*"], "expires_at": None}),
        ("raw", "rollback", f"{NAME}@prod", 2, 1),
        ("admin", "token.revoke", "raw", "active", "revoked"),
    ]
    pushed = [e for e in entries if e.action == "push"]
    digests = [str(v.manifest_digest) for v in opened.adapters.versions(NAME)]
    assert [(e.what, e.after) for e in pushed] == list(
        zip([f"{NAME}:1", f"{NAME}:2"], digests, strict=True)
    )
    rolled = next(e for e in entries if e.action == "rollback")
    assert (rolled.request_id, rolled.why) == ("my-request.1", "broken")
    assert all(len(e.request_id) == 32 for e in pushed)
    assert list(admin.access.entries(rolled.at)) == entries[entries.index(rolled) :]


def test_audit_log_over_http_keeps_a_reason_with_any_line_ends(
    opened: Registry, login: Login, tmp_path: Path
) -> None:
    push_one(opened, tmp_path)
    why = "one\u2028two\x85three"
    opened.aliases.move(MoveRequest(NAME, "prod", 1, by="ann", why=why))
    assert list(login("admin").access.entries()) == list(opened.access.entries())


def test_what_changes_nothing_is_not_in_the_audit_log(opened: Registry, tmp_path: Path) -> None:
    push_one(opened, tmp_path, alias="prod")
    before = list(opened.access.entries())
    bundle, manifest = read_bundle(tmp_path / "again", 1)
    push(opened, NAME, bundle, manifest, by="bob", alias="prod")
    assert list(opened.access.entries()) == before


def test_audit_log_tells_states_once_and_what_they_were_before(
    opened: Registry, tmp_path: Path
) -> None:
    push_one(opened, tmp_path)
    for verb in ("yank", "yank", "delete", "undelete", "unyank", "delete"):
        opened.versions.change(StateRequest(NAME, 1, verb, by="ann", why="so"))  # type: ignore[arg-type]
    push_one(opened, tmp_path / "again", 1)
    states = [e for e in opened.access.entries() if e.action != "push"]
    assert [(e.action, e.before, e.after) for e in states] == [
        ("yank", "active", "yanked"),
        ("delete", "yanked", "deleted"),
        ("undelete", "deleted", "yanked"),
        ("unyank", "yanked", "active"),
        ("delete", "active", "deleted"),
        ("revive", "deleted", "active"),
    ]
    assert {e.what for e in states} == {f"{NAME}:1"}


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "a\u00e9"])
def test_request_id_that_cannot_be_used_is_replaced(url: str, sent: str) -> None:
    headers = {"x-request-id": sent.encode("latin-1")}
    answer = httpx.get(f"{url}/health", headers=headers).headers["x-request-id"]
    assert len(answer) == 32


def test_error_of_the_client_is_the_error_of_the_server(login: Login) -> None:
    client = login("pull:*")
    with pytest.raises(HotswapError) as refusal:
        client.aliases.move(MoveRequest(NAME, "prod", 1, by="x"))
    assert json.loads(json.dumps(refusal.value.body()))["error"]["code"] == "forbidden"


def test_search_shows_only_what_may_be_read(login: Login, tmp_path: Path) -> None:
    admin = login("admin")
    for name in ("other", "team/a", "team/b", "zzz"):
        push_one(admin, tmp_path / name.replace("/", "-"), name=name)
    reader = login("pull:team/*")
    assert [v.name for v in reader.adapters.search("number > 0", limit=1)] == ["team/a"]
    assert [v.name for v in reader.adapters.search("number > 0")] == ["team/a", "team/b"]
    with refused(Forbidden, "'pull:…'"):
        login("push:team/*").adapters.search("number > 0")
