"""llama.cpp's server compiled for this processor, asked over HTTP: Q4_0 base, adapters named by
each request."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from llama_cpp_requests import runner
from protocol import Job, Run, serve

PROGRAM = Path(sys.prefix) / "bin" / "llama-server"
START_S = 120


def make(job: Job) -> tuple[str, Run]:
    threads = str(os.cpu_count() or 1)
    log = Path(tempfile.mkdtemp()) / "llama-server.log"
    options = {
        "--model": job["gguf"],
        "--lora": ",".join(job["gguf_adapters"]),
        "--parallel": str(job["concurrency"]),
        "--ctx-size": str(job["concurrency"] * job["max_length"]),
        "--batch-size": "2048",
        "--threads": threads,
        "--threads-batch": threads,
        "--flash-attn": "on",
        "--cache-ram": "0",
        "--port": "0",
        "--log-file": str(log),
    }
    flags = ["--lora-init-without-apply", "--cont-batching", "--no-cache-prompt", "--offline"]
    command = [PROGRAM, *flags, *(word for option in options.items() for word in option)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    said = _wait(process, log)
    address = re.findall(r"http://([\d.]+:\d+)", said)[-1]

    def complete(body: dict[str, Any]) -> dict[str, Any]:
        with closing(HTTPConnection(address, timeout=600)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            answer: dict[str, Any] = json.load(connection.getresponse())
        return answer

    settings = f"llama.cpp, {_about()}, Q4_0, flash attention, over HTTP"
    return settings, runner(job, complete)


def _about() -> str:
    """The source that it was built from and what of the processor it uses, as it says itself
    before it looks for a model."""
    command = [PROGRAM, "--model", "none", "--verbosity", "4"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    text = said.stdout + said.stderr
    source = re.search(r"build \d+ \((\S+)\)", text)
    features = " ".join(re.findall(r"((?:AVX|AMX)\w*) = 1", text))
    return f"native build of {source[1] if source else 'unknown source'} with {features}"


def _wait(process: subprocess.Popen[bytes], log: Path) -> str:
    """What the server has said until it listens."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        said = log.read_text(errors="replace") if log.exists() else ""
        if "listening on" in said:
            return said
        time.sleep(0.1)
    raise SystemExit(f"{PROGRAM} does not listen")


if __name__ == "__main__":
    serve(make)
