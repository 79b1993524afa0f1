"""`hotswap up`, `serve`, `base` and `chat` as users meet them: processes, lines and statuses."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import Response

from hotswap.registry.domain.manifest import BaseFingerprint
from hotswap.registry.http.app import assemble
from hotswap.serving.base_model import BaseDirectory
from tests.peft_adapters import make_adapter
from tests.servers import serving_app

SMALL = ("--max-num-seqs", "4", "--kv-cache-tokens", "512", "--max-loras", "2")


class Shell:
    """Runs commands with a home of its own."""

    def __init__(self, home: Path) -> None:
        names = ("PATH", "HOME", "LANG", "OMP_NUM_THREADS")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        self.environment = {**kept, "HOTSWAP_HOME": str(home), "USER": "tester"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hotswap", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    @contextmanager
    def server(self, *arguments: str) -> Iterator[str]:
        process = subprocess.Popen(
            self.command(*arguments, "--port", "0"),
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("hotswap: listening on "), line
            yield line.split()[3]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


@pytest.mark.parametrize("command", ["up", "serve", "base", "chat"])
def test_help_has_an_example_and_imports_no_torch(shell: Shell, command: str) -> None:
    program = (
        "import sys; from hotswap.registry.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=shell.environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example" in done.stdout


def test_base_prints_the_fingerprint_that_push_takes(
    shell: Shell, tiny_base: BaseDirectory
) -> None:
    done = shell.run("base", str(tiny_base.path))
    assert BaseFingerprint.model_validate_json(done.stdout) == tiny_base.fingerprint()


def test_up_serves_registry_and_answers_and_serve_follows_it(
    shell: Shell, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_base, tmp_path / "adapter")
    options = ("--base", str(tiny_base.path), *SMALL)
    with shell.server("up", *options) as url:
        shell.environment["HOTSWAP_REGISTRY_URL"] = url
        pushed = shell.run("push", str(adapter), "team/a", "--alias", "prod")
        assert pushed.returncode == 0, pushed.stderr
        told = shell.run("chat", "team/a@prod", "order two", "--max-tokens", "8")
        assert (told.returncode, told.stderr) == (0, "")
        with shell.server("serve", "--registry", url, *options) as other:
            again = shell.run(
                "chat", "team/a@prod", "order two", "--max-tokens", "8", "--url", other
            )
            assert again.stdout == told.stdout
            assert httpx.get(f"{other}/health").json()["planes"] == ["serving", "jobs"]
        wrong = shell.run("chat", "team/a@nowhere", "order two")
        assert wrong.returncode == 1
        assert wrong.stderr.count("\n") == 1
        assert "nowhere" in wrong.stderr


def test_chat_shows_its_token_and_says_when_one_is_needed(
    shell: Shell, tiny_base: BaseDirectory
) -> None:
    with shell.server("up", "--base", str(tiny_base.path), *SMALL) as url:
        shell.environment["HOTSWAP_REGISTRY_URL"] = url
        made = shell.run("token", "create", "app", "--scope", "infer:*", "--json")
        refused = shell.run("chat", tiny_base.model_id, "hi", "--max-tokens", "2")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "token" in refused.stderr
        shell.environment["HOTSWAP_REGISTRY_TOKEN"] = json.loads(made.stdout)["token"]
        told = shell.run("chat", tiny_base.model_id, "hi", "--max-tokens", "2")
        assert (told.returncode, told.stderr) == (0, "")


def test_up_tells_a_terminal_what_it_does_and_when_it_is_ready(
    shell: Shell, tiny_base: BaseDirectory
) -> None:
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, encoding="utf-8", newline="") as terminal,
        subprocess.Popen(
            shell.command("up", "--base", str(tiny_base.path), *SMALL, "--port", "0"),
            env=shell.environment, stdout=subprocess.DEVNULL, stderr=theirs,
        ) as process,
    ):  # fmt: skip
        os.close(theirs)
        told = [terminal.readline().strip() for _ in range(4)]
        process.send_signal(signal.SIGTERM)
    assert told[0].startswith("hotswap: opening the store ")
    assert told[1].startswith(f"hotswap: looking for the base {tiny_base.path}")
    assert told[2] == f"hotswap: loading {tiny_base.model_id} from {tiny_base.path} …"
    assert re.fullmatch(r"hotswap: ready after [0-9.]+ s; Ctrl-C stops it", told[3])


def test_a_base_that_is_not_there_is_one_line_and_a_status(shell: Shell) -> None:
    done = shell.run("up", "--base", "no-such-base", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("hotswap: error: base 'no-such-base'")
    assert done.stderr.count("\n") == 1


def test_settings_that_do_not_fit_each_other_are_one_line(shell: Shell) -> None:
    done = shell.run("up", "--max-num-batched-tokens", "8")
    assert done.returncode == 1
    assert "max_num_seqs + prefill_chunk" in done.stderr


def test_chat_shows_text_with_any_line_ends(shell: Shell) -> None:
    text = "one\u2028two\x85three"
    chunk = {"choices": [{"delta": {"content": text}}]}
    body = f": ping\n\ndata: {json.dumps(chunk, ensure_ascii=False)}\n\ndata: [DONE]\n\n"

    app = assemble([])

    @app.post("/v1/chat/completions")
    def answer() -> Response:
        return Response(body, media_type="text/event-stream")

    with serving_app(app) as url:
        told = shell.run("chat", "team/a", "hi", "--url", url)
    assert (told.returncode, told.stdout) == (0, f"{text}\n")


def test_chat_without_a_server_says_how_to_start_one(shell: Shell) -> None:
    done = shell.run("chat", "team/a", "hi", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "hotswap up" in done.stderr


def test_settings_come_from_the_environment(shell: Shell, tiny_base: BaseDirectory) -> None:
    shell.environment["HOTSWAP_SERVING_QUANTIZATION"] = "none"
    with shell.server("up", "--base", str(tiny_base.path), *SMALL) as url:
        health = json.loads(httpx.get(f"{url}/health").text)
    assert health["serving"]["quantization"] == "none"
