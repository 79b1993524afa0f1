"""The command, as users meet it: what it prints, its status, what it imports."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from hotswap.registry.cli import cli, main, other_tables
from hotswap.registry.commands.table import TABLE
from hotswap.registry.domain.layout import webhook_key
from hotswap.registry.domain.servers import ServerReport
from hotswap.registry.domain.webhooks import Attempt, WebhookState
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.storage.local import LocalStore
from tests.registry.bundles import file_bytes, make_bundle
from tests.servers import free_ports


class Shell:
    """Runs `hotswap` in this process, with a home of its own, over a store in a directory."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.store = str(root / "store")
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int | str | None, str, str]:
        """Status, standard output, standard error."""
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        captured = self._capsys.readouterr()
        return left.value.code, captured.out, captured.err

    def ok(self, *arguments: str) -> str:
        status, output, errors = self.run(*arguments)
        assert (status, errors) == (0, "")
        return output

    def fails(self, *arguments: str) -> str:
        status, output, errors = self.run(*arguments)
        assert status not in (0, None)
        assert output == ""
        assert re.fullmatch(r"hotswap: error: [^\n]+\n", errors), errors
        return errors


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    for name in os.environ:
        if name.startswith("HOTSWAP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOTSWAP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOTSWAP_REGISTRY_URL", str(tmp_path / "store"))
    monkeypatch.setenv("USER", "ann")
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capsys)


def test_the_whole_life_of_an_adapter(shell: Shell) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "team/sql", "--metric", f"em=0.{seed}", "--tag", "team=x")
    shell.ok("alias", "set", "team/sql@prod", "1", "--why", "first")
    shell.ok("alias", "set", "team/sql@prod", "2", "--expect", "1", "--why", "better")
    assert "version 1 again (was 2)" in shell.ok("rollback", "team/sql@prod", "--why", "broken")
    moves = json.loads(shell.ok("alias", "history", "team/sql@prod", "--json"))
    assert [(m["to_number"], m["why"]) for m in moves] == [
        (1, "first"),
        (2, "better"),
        (1, "broken"),
    ]
    assert "prod=1" in shell.ok("ls")
    shell.ok("pull", "team/sql:2", "pulled")
    assert file_bytes(shell.root / "pulled") == file_bytes(shell.root / "v2")
    shown = json.loads(shell.ok("show", "team/sql", "--json"))
    assert (shown["version"]["number"], shown["manifest"]["metrics"]) == (1, {"em": 0.1})


@pytest.mark.parametrize("name", ["a?mode=memory", "a#b", "a%20b", "a b", "a:b@c", "ä"])
def test_home_may_have_letters_that_mean_more_in_a_url(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = shell.root / "homes" / name
    monkeypatch.setenv("HOTSWAP_HOME", str(home))
    monkeypatch.setenv("HOTSWAP_REGISTRY_URL", str(home / "store"))
    make_bundle(shell.root / "v1", 1)
    shell.ok("push", "v1", "team/sql")
    assert "team/sql" in shell.ok("ls")
    assert "at schema" in shell.ok("store", "migrate")
    assert [path.name for path in (shell.root / "homes").iterdir()] == [name]
    assert {path.name for path in home.iterdir()} >= {"store", "catalog.sqlite"}


def test_rebuild_brings_back_what_the_catalog_lost(shell: Shell) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "team/sql", "--alias", "prod", "--metric", f"em=0.{seed}")
    shell.ok("adapter", "yank", "team/sql:1")
    asked = (
        ("ls", "--json"),
        ("alias", "history", "team/sql@prod"),
        ("ls", "--filter", "metrics.em > 0.1"),
    )
    before = [shell.ok(*arguments) for arguments in asked]
    (catalog,) = (shell.root / "home" / "catalogs").glob("*.sqlite")
    database = sqlite3.connect(catalog)
    with database:
        for table in ("alias_moves", "version_states", "versions"):
            assert database.execute(f"DELETE FROM {table}").rowcount > 0
    database.close()
    told = shell.ok("store", "rebuild", "--store", shell.store)
    assert told == "2 versions, 2 alias moves and 1 changes of state are in the catalog\n"
    assert [shell.ok(*arguments) for arguments in asked] == before
    for file in catalog.parent.glob(f"{catalog.name}*"):
        file.unlink()
    assert (
        json.loads(shell.ok("store", "rebuild", "--store", shell.store, "--json"))["num_versions"]
        == 2
    )
    assert [shell.ok(*arguments) for arguments in asked] == before


def test_lineage_is_pushed_and_shown(shell: Shell) -> None:
    for seed in (1, 2, 3):
        make_bundle(shell.root / f"v{seed}", seed)
    shell.ok("push", "v1", "team/sql", "--alias", "prod")
    digest = f"sha256:{'1' * 64}"
    stated = ("--dataset-digest", digest, "--run", "r1", "--revision", "3f2c9d1")
    shell.ok("push", "v2", "team/sql", "--parent", "1", *stated)
    shell.ok("push", "v3", "other", "--parent", "team/sql@prod")
    parent = json.loads(shell.ok("show", "team/sql:1", "--json"))["version"]["manifest_digest"]
    for ref, more in (
        ("team/sql:2", {"dataset_digest": digest, "run": "r1", "revision": "3f2c9d1"}),
        ("other:1", {}),
    ):
        lineage = json.loads(shell.ok("show", ref, "--json"))["manifest"]["lineage"]
        assert lineage == {"parent": "team/sql:1", "parent_digest": parent, **more}
    lines = shell.ok("show", "team/sql:2").splitlines()
    assert f"parent:       team/sql:1 {parent[7:19]}" in lines
    assert f"dataset:      {digest}" in lines
    assert "run:          r1" in lines
    assert "revision:     3f2c9d1" in lines


def test_filter_lists_the_versions_it_holds_for(shell: Shell) -> None:
    for seed in (1, 2, 3):
        make_bundle(shell.root / f"v{seed}", seed)
        for name in ("a", "b"):
            shell.ok("push", f"v{seed}", name, "--metric", f"em=0.{seed}", "--tag", f"v=v{seed}")

    def refs(*arguments: str) -> list[str]:
        return [line.split()[0] for line in shell.ok("ls", *arguments).splitlines()[1:]]

    text = "metrics.em > 0.1 and tag.v in ('v2', 'v3')"
    assert refs("--filter", text) == ["a:2", "a:3", "b:2", "b:3"]
    assert refs("--filter", text, "--limit", "3") == ["a:2", "a:3", "b:2"]
    assert refs("--filter", text, "--after", "a:3") == ["b:2", "b:3"]
    assert refs("b", "--filter", "number = 1 or number = 3") == ["b:1", "b:3"]
    assert refs("b", "--limit", "2") == ["b:1", "b:2"]
    assert refs("--limit", "1") == ["a"]
    assert refs("--after", "a") == ["b"]
    documents = json.loads(shell.ok("ls", "--filter", text, "--limit", "1", "--json"))
    assert [(d["name"], d["number"]) for d in documents] == [("a", 2)]
    assert "column 13" in shell.fails("ls", "b", "--filter", "metrics.em >")


def test_move_that_changes_nothing_says_so(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "a")
    assert shell.ok("alias", "set", "a@prod", "1") == "a@prod points to version 1\n"
    assert "already, since 2" in shell.ok("alias", "set", "a@prod", "1")
    assert "prod points to version 1 already, since 2" in shell.ok(
        "push", "v1", "a", "--alias", "prod"
    )
    assert len(json.loads(shell.ok("alias", "history", "a@prod", "--json"))) == 1


def test_list_takes_a_pattern_and_all_below_a_folder(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    for name in ("a", "team/sql", "team/text", "teams"):
        shell.ok("push", "v1", name)

    def names(*arguments: str) -> list[str]:
        return [line.split()[0] for line in shell.ok("ls", *arguments).splitlines()[1:]]

    assert names("team/") == names("team/*") == ["team/sql", "team/text"]
    assert names("team*", "--limit", "2") == ["team/sql", "team/text"]
    assert names("team/", "--filter", "number = 1") == ["team/sql:1", "team/text:1"]
    assert "not an adapter name" in shell.fails("ls", "Team/")


def test_list_sorts_versions_and_shows_their_size_and_metrics(shell: Shell) -> None:
    for seed, metric in ((1, "0.5"), (2, "0.9"), (3, "0.7")):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "a", "--metric", f"em={metric}")
    make_bundle(shell.root / "v4", 4)
    shell.ok("push", "v4", "b")
    lines = [line.split() for line in shell.ok("ls", "--sort", "metrics.em").splitlines()]
    assert [line[0] for line in lines] == ["VERSION", "a:2", "a:3", "a:1", "b:1"]
    assert lines[1][-1] == "em=0.9"
    assert re.search(r"^a:2 .* [0-9.]+ k?B .* em=0.9$", shell.ok("ls", "a", "-l"), re.MULTILINE)
    best = json.loads(shell.ok("ls", "a", "--sort", "metrics.em", "--limit", "1", "--json"))
    assert [version["number"] for version in best] == [2]
    assert "metrics.NAME" in shell.fails("ls", "--sort", "weight")


def test_card_is_printed_alone(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "team/sql", "--metric", "em=0.5")
    card = shell.ok("show", "team/sql:1", "--card")
    assert card.startswith("---\nbase_model: tiny\n")
    assert "| em | 0.5 |" in card
    assert "one of them" in shell.fails("show", "team/sql:1", "--card", "--json")


def test_diff_shows_what_differs(shell: Shell) -> None:
    for seed, alpha in ((1, 8), (2, 16)):
        make_bundle(shell.root / f"v{seed}", seed, lora_alpha=alpha)
        shell.ok("push", f"v{seed}", "team/sql", "--metric", f"em=0.{seed}", "--alias", "prod")
    text = shell.ok("adapter", "diff", "team/sql:1", "team/sql@prod")
    assert re.search(r"^lora.lora_alpha +8.0 +16.0$", text, re.MULTILINE)
    assert re.search(r"^em +0.1 +0.2 +\+0.1$", text, re.MULTILINE)
    document = json.loads(shell.ok("adapter", "diff", "team/sql:1", "team/sql@prod", "--json"))
    (layer,) = document["layers"]
    line = rf"^{re.escape(layer['module'])} +{layer['change']:.4g} "
    assert re.search(line, text, re.MULTILINE)
    assert text.endswith(f"\nall layers: {document['change']:.4g}\n")
    assert shell.ok("adapter", "diff", "team/sql:1", "team/sql:1").endswith("\nall layers: 0\n")


def test_tables_are_aligned(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    for name in ("a", "a-much-longer-name"):
        shell.ok("push", "v1", name, "--alias", "prod")
    lines = shell.ok("ls").splitlines()
    assert {line.index(word) for line, word in zip(lines, ("VERS", "1 ", "1 "), strict=True)} == {
        20
    }
    assert "prod" in shell.ok("ls", "a").splitlines()[1]
    assert shell.ok("show", "a").startswith("version:      a:1\n")


def test_same_push_twice_prints_the_same(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    assert shell.ok("push", "v1", "a") == shell.ok("push", "v1", "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("push", "absent", "a"), "no directory"),
        (("push", "v1", "Bad Name"), "not an adapter name"),
        (("push", "v1", "a", "--metric", "em=x"), "must be a number"),
        (("push", "v1", "a", "--tag", "novalue"), "key=value"),
        (("push", "v1", "a", "--fingerprint", "absent.json"), "absent.json"),
        (("push", "v1"), "Missing argument"),
        (("push", "v1", "a", "--parent", "1"), "no adapter 'a'"),
        (("push", "v1", "a", "--dataset-digest", "12"), "not a digest"),
        (("push", "v1", "a", "--run", ""), "--run: "),
        (("pull", "a:1", "out"), "no adapter 'a'"),
        (("alias", "set", "a:1", "1"), "names a version"),
        (("alias", "set", "a@prod", "0"), "0"),
        (("alias", "set", "a", "1"), "'a' names no alias"),
        (("rollback", "a"), "example: 'a@prod'"),
        (("rollback", "a@prod"), "no adapter 'a'"),
        (("show", "a", "--registry", "http://127.0.0.1:1"), "cannot reach"),
        (("ls", "--registry", "ftp://x"), "not a store"),
        (("nonsense",), "nonsense"),
    ],
)
def test_error_is_one_line_and_a_status(
    shell: Shell, arguments: tuple[str, ...], words: str
) -> None:
    make_bundle(shell.root / "v1")
    assert words in shell.fails(*arguments)


def test_unknown_variable_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSWAP_REGISTRY_STROE", "x")
    assert "HOTSWAP_REGISTRY_STORE" in shell.fails("ls")


PATHS = [path for table in (TABLE, *other_tables()) for path in table.commands]


@pytest.mark.parametrize("path", PATHS)
def test_help_has_an_example(shell: Shell, path: str) -> None:
    assert f"Example:\n    hotswap {path}" in shell.ok(*path.split(), "--help")


@pytest.mark.parametrize("path", PATHS)
def test_table_says_of_a_command_what_its_help_begins_with(path: str) -> None:
    context = click.Context(cli)
    command: click.Command = cli
    for name in path.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command = found
    (entry,) = [t.commands[path] for t in (TABLE, *other_tables()) if path in t.commands]
    assert command.get_short_help_str(200) == entry.help


def test_old_names_work_and_say_the_new_one(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "team/sql", "--alias", "prod")
    assert shell.run("history", "team/sql@prod", "--json") == (
        0,
        shell.ok("alias", "history", "team/sql@prod", "--json"),
        "hotswap: note: `hotswap history` is now `hotswap alias history`\n",
    )
    status, output, errors = shell.run("alias", "team/sql@prod", "1")
    assert status == 0
    assert output.startswith("team/sql@prod points to version 1 already, since ")
    assert errors == "hotswap: note: `hotswap alias` is now `hotswap alias set`\n"


@pytest.mark.parametrize(
    ("old", "new"), [item for t in (TABLE, *other_tables()) for item in t.renamed.items()]
)
def test_old_name_leads_to_a_command_and_is_not_listed(shell: Shell, old: str, new: str) -> None:
    assert new in PATHS
    status, output, _ = shell.run(old, "--help")
    assert (status, output) == (0, shell.ok(*new.split(), "--help"))
    assert old not in cli.list_commands(click.Context(cli))


def imported_by(arguments: list[str]) -> set[str]:
    """The modules that a process has imported when the command is done."""
    code = (
        "import sys\nfrom hotswap.registry.cli import main\n"
        f"try:\n    main({arguments!r})\nfinally:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_push_and_help_never_import_torch(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    heavy = {"torch", "transformers", "peft", "boto3"}
    upper = {"hotswap.serving", "hotswap.training"}
    assert not imported_by(["push", "v1", "a"]) & {*heavy, *upper}
    helped = imported_by(["--help"])
    assert not helped & heavy
    # Their tables of commands are all that help reads of the upper layers.
    assert {name for name in helped if name.startswith(tuple(upper))} == {
        *upper,
        "hotswap.serving.commands",
        "hotswap.training.commands",
        "hotswap.training.commands.table",
    }


def test_no_command_of_another_layer_hides_behind_one_of_ours() -> None:
    assert len(PATHS) == len(set(PATHS))


def test_help_names_the_commands_of_the_other_layers(shell: Shell) -> None:
    text = shell.ok("--help")
    assert re.search(
        r"^  train +Train a LoRA adapter on DATA, a file of rows\.$", text, re.MULTILINE
    )


@pytest.fixture
def server(shell: Shell) -> Iterator[str]:
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "hotswap", "store", "serve",
         "--port", str(port), "--store", shell.store],
        stdout=subprocess.PIPE, text=True,
        # A shell starts background jobs with interrupts ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert (
        process.stdout.readline() == f"hotswap: listening on http://127.0.0.1:{port} (registry)\n"
    )
    assert "no token was ever made" in process.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    status = process.wait()
    process.stdout.close()
    assert status == 130


def test_server_and_commands_share_a_store(shell: Shell, server: str) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "team/sql", "--alias", "prod", "--registry", server)
    assert shell.ok("ls", "--registry", server) == shell.ok("ls")


def test_list_over_http_imports_neither_database_nor_what_else_is_slow(
    shell: Shell, server: str
) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "team/sql", "--registry", server)
    heavy = {"sqlalchemy", "sqlmodel", "boto3", "botocore", "cryptography", "jinja2", "numpy"}
    heavy |= {"torch", "fastapi", "hotswap.serving", "hotswap.training"}
    assert imported_by(["ls", "--registry", server]).isdisjoint(heavy)


def test_port_in_use_is_one_line(shell: Shell, server: str) -> None:
    message = shell.fails("store", "serve", "--port", server.rpartition(":")[2])
    assert "in use" in message
    assert "--port" in message


def test_served_tells_what_the_alias_pointed_to_at_a_time(shell: Shell) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "team/sql", "--alias", "prod")
    first, second = json.loads(shell.ok("alias", "history", "team/sql@prod", "--json"))
    for move in (first, second):
        text = shell.ok("alias", "at", "team/sql@prod", move["moved_at"])
        assert f"pointed to version {move['to_number']} " in text
    assert "did not exist" in shell.fails("alias", "at", "team/sql@prod", "2001-01-01T00:00Z")
    assert "time zone" in shell.fails("alias", "at", "team/sql@prod", "2026-01-01T00:00")
    assert "ISO 8601" in shell.fails("alias", "at", "team/sql@prod", "some day")
    assert "did not exist" in shell.fails("alias", "at", "team/sql@prod", "yesterday")
    assert "in the future" in shell.fails("alias", "at", "team/sql@prod", "2999-01-01")
    _, output, errors = shell.run("served", "team/sql@prod", "--at", second["moved_at"])
    assert "pointed to version 2 " in output
    assert "`--at` is now `TIME`" in errors


def test_time_that_a_table_prints_is_the_end_of_its_second(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "team/sql", "--alias", "prod")
    header, line = shell.ok("alias", "history", "team/sql@prod").splitlines()
    printed = line[header.index("AT") :].split()[0]
    assert "version 1 " in shell.ok("alias", "at", "team/sql@prod", printed)


def test_rollback_to_names_the_version(shell: Shell) -> None:
    for seed in (1, 2, 3):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "team/sql", "--alias", "prod")
    assert "version 1 again (was 3)" in shell.ok("rollback", "team/sql@prod", "--to", "1")


def test_verify_names_damage_and_repair_heals_it(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "a")
    said = shell.ok("store", "verify", "--all")
    assert "all intact" in said
    assert "the store refuses wrong checksums; completes multipart uploads once" in said
    (blob,) = [p for p in (shell.root / "store/blobs").rglob("*") if p.is_file()][:1]
    blob.write_bytes(b"rot")
    status, output, errors = shell.run("store", "verify", "a:1")
    assert (status, errors) == (1, "")
    assert f"sha256:{blob.name}" in output
    shell.ok("push", "v1", "a", "--repair")
    assert "all intact" in shell.ok("store", "verify", "a:1")


def test_delete_yank_and_their_undoing(shell: Shell) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "a", "--alias", "prod")
    assert "points to" in shell.fails("adapter", "delete", "a:2")
    assert "names no number" in shell.fails("adapter", "delete", "a@prod")
    shell.ok("adapter", "yank", "a:1", "--why", "slow")
    assert "1 (yanked)" in shell.ok("ls", "a")
    assert "was yanked" in shell.fails("alias", "set", "a@prod", "1")
    shell.ok("adapter", "unyank", "a:1")
    assert "undelete" in shell.ok("adapter", "delete", "a:1")
    assert "was deleted" in shell.fails("show", "a:1")
    shell.ok("adapter", "undelete", "a:1")
    shell.ok("show", "a:1")


def test_sweep_is_a_dry_run_unless_told(shell: Shell) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "a")
    stray = shell.root / f"store/blobs/sha256/00/{'0' * 64}"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"x")
    os.utime(stray, (0, 0))
    for _ in range(2):
        report = json.loads(shell.ok("store", "sweep", "--store", shell.store, "--json"))
        assert (report["dry_run"], len(report["condemned"]), report["num_live"]) == (True, 1, 4)
    assert "freed 0 B" in shell.ok("store", "sweep", "--store", shell.store, "--delete")
    assert "waiting" in shell.ok("store", "sweep", "--store", shell.store)


def test_token_from_the_environment_opens_a_closed_server(
    shell: Shell, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = ("--scope", "push:team/*")
    made = json.loads(shell.ok("token", "create", "ci", *scope, "--registry", server, "--json"))
    make_bundle(shell.root / "v1")
    push = ("push", "v1", "team/sql", "--registry", server)
    assert "HOTSWAP_REGISTRY_TOKEN" in shell.fails(*push)
    monkeypatch.setenv("HOTSWAP_REGISTRY_TOKEN", made["token"])
    shell.ok(*push)
    assert "'admin'" in shell.fails("token", "ls", "--registry", server)
    assert made["token"] not in shell.ok("token", "ls")
    assert shell.ok("whoami", "--registry", server) == "ci: push:team/*\n"
    shell.ok("token", "revoke", "ci")
    assert re.search(r"^ci +revoked +never +ann", shell.ok("token", "ls"), re.MULTILINE)
    audit = [json.loads(line) for line in shell.ok("audit", "--json").splitlines()]
    assert [(entry["who"], entry["action"]) for entry in audit] == [
        ("ann", "token.create"),
        ("ci", "push"),
        ("ann", "token.revoke"),
    ]
    assert "token.revoke" in shell.ok("audit", "--since", "2026-01-01")
    assert "in the future" in shell.fails("audit", "--since", "2999-01-01")


def test_token_that_may_only_move_an_alias_moves_it(
    shell: Shell, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(shell.root / "v1")
    shell.ok("push", "v1", "team/sql")
    scope = ("--scope", "move:team/sql@prod")
    made = json.loads(shell.ok("token", "create", "releaser", *scope, "--json"))
    monkeypatch.setenv("HOTSWAP_REGISTRY_TOKEN", made["token"])
    moved = shell.ok("alias", "set", "team/sql@prod", "1", "--registry", server)
    assert moved == "team/sql@prod points to version 1\n"


def test_whoami_says_that_an_open_registry_asks_nobody(shell: Shell) -> None:
    assert shell.ok("whoami").startswith("nobody: ")
    assert json.loads(shell.ok("whoami", "--json"))["name"] is None


def test_open_server_refuses_other_addresses_than_loopback(shell: Shell) -> None:
    assert "hotswap token create" in shell.fails(
        "store", "serve", "--host", "0.0.0.0", "--port", "0"
    )


def test_events_prints_what_happened_and_goes_on_behind_a_cursor(shell: Shell) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "team/sql", "--alias", "prod", "--why", "release")
    shell.ok("adapter", "yank", "team/sql:1", "--why", "slow")
    lines = [line.split("  ", 2)[::2] for line in shell.ok("store", "events").splitlines()]
    assert lines == [
        ["1", "team/sql:1 was pushed, by ann"],
        ["2", "team/sql@prod points to version 1, by ann: release"],
        ["3", "team/sql:2 was pushed, by ann"],
        ["4", "team/sql@prod points to version 2 (was 1), by ann: release"],
        ["5", "team/sql:1 is yanked, by ann: slow"],
    ]
    printed = shell.ok("store", "events", "--after", "3", "--json").splitlines()
    assert [json.loads(line)["sequence"] for line in printed] == [4, 5]
    assert "start at the end" in shell.fails("store", "events", "--after", "9")


def test_events_that_are_followed_are_printed_when_they_come(shell: Shell, server: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "hotswap", "store", "events", "--follow", "--after", "0"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "HOTSWAP_REGISTRY_URL": server},
    ) as following:  # fmt: skip
        assert following.stdout is not None
        make_bundle(shell.root / "v1")
        shell.ok("push", "v1", "team/sql", "--alias", "prod", "--registry", server)
        printed = [following.stdout.readline() for _ in range(2)]
        following.terminate()
    assert "team/sql:1 was pushed" in printed[0]
    assert "team/sql@prod points to version 1" in printed[1]


def test_wait_names_the_servers_that_have_not_applied_the_move(shell: Shell, server: str) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "a", "--alias", "prod", "--registry", server)
    wait = ("--registry", server, "--wait", "--timeout", "0.1")
    assert "applied by 0 live servers" in shell.ok("alias", "set", "a@prod", "1", *wait)
    with RegistryClient(server) as client:
        report = ServerReport(base="tiny", cursor=0, aliases={}, loaded=())
        client.events.report("gpu1", report)
        status, output, errors = shell.run("rollback", "a@prod", *wait)
        assert (status, output) == (1, "a@prod points to version 2 again (was 1)\n")
        assert "gpu1 (at event 0 of 6)" in errors
        client.events.report("gpu1", report.model_copy(update={"cursor": 7}))
        assert "applied by 1 live server\n" in shell.ok("alias", "set", "a@prod", "1", *wait)
    assert re.search(
        r"^gpu1 +tiny +7 +0 ", shell.ok("server", "ls", "--registry", server), re.MULTILINE
    )


def test_wait_over_a_bare_store_is_refused_before_anything_moves(shell: Shell) -> None:
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        shell.ok("push", f"v{seed}", "a", "--alias", "prod")
    assert "give its URL" in shell.fails("rollback", "a@prod", "--wait")
    assert "prod=2" in shell.ok("ls")


def test_webhooks_file_is_read_when_a_server_starts(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTSWAP_REGISTRY_WEBHOOKS", "absent.toml")
    assert "absent.toml cannot be read" in shell.fails("store", "serve", "--port", "0")


def test_webhooks_shows_the_last_attempt_of_each(shell: Shell) -> None:
    assert shell.ok("server", "webhooks") == "WEBHOOK  CURSOR  EVENT  ATTEMPT  AT  ANSWER\n"
    attempt = Attempt(event=8, at=datetime(2026, 11, 24, tzinfo=UTC), number=2, status=500)
    state = WebhookState(name="ci", cursor=7, attempts=(attempt,))
    LocalStore(Path(shell.store)).put(webhook_key("ci"), [state.model_dump_json().encode()])
    assert re.search(
        r"^ci +7 +8 +2 +2026-11-24T00:00:00Z +500$", shell.ok("server", "webhooks"), re.MULTILINE
    )
    assert json.loads(shell.ok("server", "webhooks", "--json"))[0]["cursor"] == 7
