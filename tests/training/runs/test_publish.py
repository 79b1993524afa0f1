from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.domain.digests import hash_file
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.manifest import Lineage
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.rendering import render
from hotswap.training.batches import collate
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.outcome import Outcome
from hotswap.training.loop.progress import Silence
from hotswap.training.loss import measure
from hotswap.training.prepare import Prepared, prepare
from hotswap.training.runs.publish import code_revision, publish
from hotswap.training.runs.run import Run
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.conftest import WriteRows
from tests.training.rows import counting

# PEFT 0.21 reads an attribute that transformers 5.24 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def trained(
    base: BaseDirectory, data: Path, /, **values: Any
) -> tuple[TrainingSpec, Prepared, Outcome]:
    known = {"data": data, "r": 4, "num_epochs": 2, "system_prompt": "Count."}
    spec = TrainingSpec.parse({**known, **values})
    prepared = prepare(spec, base)
    outcome = finetune(spec, base, prepared.train, prepared.validation, Silence(), prepared.probes)
    return spec, prepared, outcome


def test_the_directory_is_a_bundle_with_base_prompt_provenance_and_metrics(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec, prepared, outcome = trained(base, write_rows(counting(40)))

    bundle = publish(tmp_path / "adapter", outcome, spec, base, prepared)

    metadata = Bundle.read(bundle.directory).metadata
    assert metadata.base == base.fingerprint()
    assert metadata.prompt == base.prompt_format(system_prompt="Count.")
    assert metadata.provenance["spec"]["data"] == "rows.jsonl"
    assert metadata.provenance["data"][0]["num_rows"] == 40
    assert metadata.provenance["num_validation_rows"] == 4
    assert metadata.metrics == pytest.approx(outcome.metrics())
    assert bundle.lora.not_servable == ()
    assert bundle.lora.num_parameters == outcome.num_trainable
    assert len(bundle.lora.modules) == 2 * 7  # layers, linear modules of each


def test_the_probes_are_what_transformers_and_peft_say_about_the_published_adapter(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec, prepared, outcome = trained(base, write_rows(counting(20)), dtype="float32")

    bundle = publish(tmp_path / "adapter", outcome, spec, base, prepared)

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32), bundle.directory
    ).eval()
    assert len(bundle.metadata.probes) == 2  # as many as there are validation rows
    for probe in bundle.metadata.probes:
        rendered = render(prepared.prompt, probe.messages)
        prompt_ids = base.tokenizer.encode(rendered, add_special_tokens=False).ids
        assert list(probe.token_ids[: probe.num_prompt_tokens]) == prompt_ids
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([probe.token_ids])).logits[0].double()
        for row, top in enumerate(probe.top, start=probe.num_prompt_tokens - 1):
            expected = torch.log_softmax(logits[row], -1)
            assert top.token_ids[0] == int(expected.argmax())
            assert expected[list(top.token_ids)].tolist() == pytest.approx(top.logprobs, abs=1e-3)


def test_no_file_names_a_path_of_the_machine(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec, prepared, outcome = trained(base, write_rows(counting(20)), base=str(base.path))

    bundle = publish(tmp_path / "adapter", outcome, spec, base, prepared)

    files = list(bundle.directory.iterdir())
    assert len(files) == 3
    assert all(str(tmp_path.parent).encode() not in path.read_bytes() for path in files)
    config = json.loads((bundle.directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_the_tensors_are_bit_equal_to_the_best_checkpoint(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec, prepared, outcome = trained(base, write_rows(counting(40)))

    publish(tmp_path / "adapter", outcome, spec, base, prepared)

    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert tensors.keys() == outcome.best.tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == outcome.best.tensors[name].dtype
        assert torch.equal(tensor, outcome.best.tensors[name])


def test_peft_loads_it_and_measures_the_published_validation_loss(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec, prepared, outcome = trained(base, write_rows(counting(40)), dtype="float32")
    bundle = publish(tmp_path / "adapter", outcome, spec, base, prepared)

    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, bundle.directory)
    tally = measure(model, collate(prepared.validation, pad_id=2))

    assert tally.loss == pytest.approx(bundle.metadata.metrics["validation_loss"], rel=1e-4)


@pytest.mark.parametrize("values", [{}, {"lora_dropout": 0.1}, {"use_rslora": True}])
def test_the_same_seed_gives_the_same_file_digests(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path, values: dict[str, Any]
) -> None:
    data = write_rows(counting(24))
    digests = []
    for name in ("a", "b"):
        spec, prepared, outcome = trained(base, data, num_epochs=1, **values)
        bundle = publish(tmp_path / name, outcome, spec, base, prepared)
        digests.append(bundle.manifest().digest)

    assert digests[0] == digests[1]


def test_processes_with_other_hash_seeds_write_the_same_bytes(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    data = write_rows(counting(16))
    options = ["--base", str(base.path), "--r", "2", "--epochs", "1"]
    main = "from hotswap.registry.cli import main; main()"
    command = [sys.executable, "-c", main, "train", str(data), *options]
    processes = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / seed)],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "HOTSWAP_HOME": str(tmp_path / "home"),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in ("1", "2")
    ]

    outputs = [process.communicate()[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (Bundle.read(tmp_path / seed).manifest().digest for seed in ("1", "2"))
    assert first == second


def test_another_seed_gives_other_weights(base: BaseDirectory, write_rows: WriteRows) -> None:
    data = write_rows(counting(24))
    first, second = (
        trained(base, data, num_epochs=1, seed=seed)[2].best.tensors for seed in (0, 1)
    )

    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_directory_that_holds_something_is_not_overwritten(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec, prepared, outcome = trained(base, write_rows(counting(4)), num_epochs=0)

    with refused(InvalidRequest, tmp_path):
        publish(tmp_path, outcome, spec, base, prepared)


@pytest.mark.usefixtures("names_are_synced")
def test_a_run_keeps_spec_curve_and_adapter(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec = TrainingSpec(data=write_rows(counting(40)), r=4, num_epochs=2)
    run = Run.create(tmp_path / "runs")

    outcome, bundle = run.carry_out(spec, base, prepare(spec, base), Silence())

    record = json.loads((run.directory / "run.json").read_text())
    assert record["state"] == "finished"
    assert TrainingSpec.parse(record["spec"]) == spec
    assert record["manifest_digest"] == str(bundle.manifest(lineage=Lineage(run=run.id)).digest)
    curve = (run.directory / "curve.csv").read_text().splitlines()
    assert curve[0].startswith("step,learning_rate,gradient_norm,train_loss")
    assert len(curve) == 1 + outcome.num_steps
    assert bundle.directory == run.adapter


def test_a_run_that_fails_says_so(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    spec = TrainingSpec(
        data=write_rows(counting(20)), num_epochs=20, learning_rate=1e30, max_grad_norm=1e30
    )
    run = Run.create(tmp_path / "runs")

    with pytest.raises(Exception, match="lower the learning rate"):
        run.carry_out(spec, base, prepare(spec, base), Silence())

    record = json.loads((run.directory / "run.json").read_text())
    assert record["state"] == "failed"
    assert "lower the learning rate" in record["error"]
    assert not run.adapter.exists()


def test_the_lineage_names_the_training_file_and_the_code(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    data = write_rows(counting(20))
    spec, prepared, outcome = trained(base, data, num_epochs=1)

    lineage = publish(tmp_path / "adapter", outcome, spec, base, prepared).metadata.lineage

    assert lineage is not None
    assert lineage.dataset_digest == hash_file(data).digest
    assert lineage.revision == code_revision(Path.cwd())


def test_the_revision_is_the_commit_and_says_when_files_differ_from_it(tmp_path: Path) -> None:
    if (git := shutil.which("git")) is None:
        pytest.skip("needs git: apt-get install git")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")

    def run_git(*arguments: str) -> str:
        command = [git, *identity, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert code_revision(tmp_path) is None
    run_git("init", "--quiet")
    assert code_revision(tmp_path) is None
    (tmp_path / "code.py").write_text("1")
    run_git("add", "code.py")
    run_git("commit", "--quiet", "--message", "first")
    run_git("tag", "--annotate", "v1", "--message", "v1")
    commit = run_git("rev-parse", "HEAD")
    assert code_revision(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert code_revision(tmp_path) == f"{commit}-dirty"
