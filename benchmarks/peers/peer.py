"""A peer in a process of its own, stopped while it is not its turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import Case

SCRIPTS = Path(__file__).parent


@dataclass(frozen=True)
class Program:
    """An engine's script, the folder of its virtual environment, whether it needs a process
    without LoRA to be at its best without adapters, and what must be in the folder's bin/."""

    folder: str
    script: str
    alone: bool
    binary: str = "python"

    def is_in(self, peers: Path) -> bool:
        return (peers / self.folder / "bin" / self.binary).exists()


PROGRAMS = {
    "vLLM": Program("vllm", "vllm_engine.py", alone=True),
    "OpenVINO GenAI": Program("openvino", "openvino_engine.py", alone=True),
    "llama.cpp": Program("llama.cpp", "llama_cpp_engine.py", alone=False),
    "llama.cpp native": Program(
        "llama.cpp-native", "llama_cpp_native_engine.py", alone=False, binary="llama-server"
    ),
    "PEFT": Program("peft", "peft_engine.py", alone=True),
}
BETTER = {"llama.cpp": "llama.cpp native"}
"""The same engine, built for the processor: where it is, the other is measured only by name."""


def installed(peers: Path, only: Sequence[str] | None) -> dict[str, Program]:
    """The programs that take part: those of `only` (None: all) that are there."""
    found = {
        name: program
        for name, program in PROGRAMS.items()
        if program.is_in(peers) and (not only or name in only)
    }
    if not only:
        for name, better in BETTER.items():
            if better in found:
                found.pop(name, None)
    return found


class PeerFailed(Exception):
    """The peer's process ended, or said something that is no answer."""


class Peer:
    """One process; it computes only while it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.settings = ""

    def start(self, job: dict[str, Any]) -> None:
        self.settings = str(self._ask(job)["ready"])
        self._signal(signal.SIGSTOP)

    def run(self, case: Case, prompts: Sequence[str]) -> float:
        """The seconds a case takes; raises PeerFailed when it does not give every token."""
        self._signal(signal.SIGCONT)
        asked = {"prompts": list(prompts), "adapters": list(case.adapters)}
        asked |= {"new_tokens": case.new_tokens, "concurrency": case.concurrency}
        found = self._ask(asked)
        self._signal(signal.SIGSTOP)
        if found["output_tokens"] != case.new_tokens * len(prompts):
            raise PeerFailed(f"{found['output_tokens']} tokens came in {case.name!r}")
        return float(found["seconds"])

    def stop(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PeerFailed("its process has ended") from None
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed("its process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


@contextmanager
def peer(program: Program, peers: Path, job: dict[str, Any], log: Path) -> Iterator[Peer]:
    """A peer that is ready; what it prints goes to the file `log`. Raises PeerFailed."""
    python = peers / program.folder / "bin" / "python"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python, SCRIPTS / program.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=_environment(),
        )
        found = Peer(process)
        try:
            found.start(job)
            yield found
        finally:
            found.stop()


def _environment() -> dict[str, str]:
    """Ours without what is meant for us, so that no setting of ours is one of theirs."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("HOTSWAP_", "OMP_"))}
