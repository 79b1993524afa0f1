"""Writes what training made as a PEFT directory that the registry accepts.

The files hold no time, no path and no host name: equal weights, provenance and code revision are
equal bytes. The run's id is stated when its adapter is pushed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save_file

from hotswap.registry.bundles.bundle import METADATA_FILE, Bundle
from hotswap.registry.bundles.peft_config import CONFIG_FILE, WEIGHTS_FILE
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.manifest import BundleMetadata, Lineage
from hotswap.registry.durable import is_free, new_directory, replaced_file
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.loop.outcome import Outcome
from hotswap.training.prepare import Prepared
from hotswap.training.spec import TrainingSpec

GIT_TIMEOUT_S = 10
_LIBRARIES = ("hotswap", "torch", "transformers", "peft", "tokenizers", "safetensors")


def publish(
    directory: Path, outcome: Outcome, spec: TrainingSpec, base: BaseDirectory, prepared: Prepared
) -> Bundle:
    """Write the best checkpoint to `directory`, which appears complete or not at all.

    Raises InvalidRequest when there is something at `directory` already.
    """
    require_absent(directory)
    with new_directory(directory) as work:
        save_file(outcome.best.tensors, work / WEIGHTS_FILE, metadata={"format": "pt"})
        _write_json(work / CONFIG_FILE, adapter_config(outcome.peft_config, base))
        _write_json(work / METADATA_FILE, _metadata(outcome, spec, base, prepared))
        for path in work.iterdir():
            path.chmod(0o644)
    return Bundle.read(directory)


def state_metrics(
    directory: Path,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any] = MappingProxyType({}),
) -> Bundle:
    """Let a published directory's `hotswap.json` state these metrics and entries of its provenance,
    too: it is replaced whole.

    What the directory's manifest digest is depends on them.
    """
    path = directory / METADATA_FILE
    known = BundleMetadata.model_validate_json(path.read_bytes())
    stated = known.model_copy(
        update={
            "metrics": {**known.metrics, **metrics},
            "provenance": {**known.provenance, **provenance},
        }
    )
    with replaced_file(path) as part:
        _write_json(part, stated.model_dump(mode="json"))
    return Bundle.read(directory)


def require_absent(directory: Path) -> None:
    if not is_free(directory):
        raise InvalidRequest(f"{directory} exists already; give another directory or remove it")


def adapter_config(peft_config: dict[str, Any], base: BaseDirectory) -> dict[str, Any]:
    """PEFT's adapter_config.json, with the base's name in place of its path and sets sorted."""
    config = {
        key: sorted(value) if isinstance(value, set | frozenset) else value
        for key, value in peft_config.items()
    }
    return {**config, "base_model_name_or_path": base.model_id, "inference_mode": True}


def library_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _LIBRARIES}


def code_revision(directory: Path) -> str | None:
    """The commit checked out in the git repository around `directory`, with `-dirty` behind it
    when tracked files differ from it; None where there is no repository, commit or git."""
    if (git := shutil.which("git")) is None:
        return None
    command = [git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _metadata(
    outcome: Outcome, spec: TrainingSpec, base: BaseDirectory, prepared: Prepared
) -> dict[str, Any]:
    return BundleMetadata(
        base=base.fingerprint(),
        prompt=prepared.prompt,
        provenance={
            "spec": spec.portable(),
            "data": [file.provenance() for file in prepared.files],
            "fixes": list(prepared.fixes),
            "num_train_rows": len(prepared.train),
            "num_validation_rows": len(prepared.validation),
            "libraries": library_versions(),
            **_energy_kept(outcome),
        },
        metrics=outcome.metrics(),
        probes=outcome.probes,
        lineage=Lineage(
            dataset_digest=next(file.digest for file in prepared.files if file.role == "train"),
            revision=code_revision(Path.cwd()),
        ),
    ).model_dump(mode="json")


def _energy_kept(outcome: Outcome) -> dict[str, Any]:
    """An extraction's share of each layer's weight change; nothing for other methods."""
    shares = {name: round(energy.share, 6) for name, energy in outcome.energy.items()}
    return {"energy_kept": shares} if shares else {}


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
