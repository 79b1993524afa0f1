"""EleutherAI's lm-eval against the completions endpoint, when its command is on the path.

It brings pandas, datasets and more, so that it is not one of our dependencies:
`pip install 'lm-eval[api]'`, also in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from hotswap.serving.base_model import BaseDirectory
from tests.peft_adapters import load_reference
from tests.serving.test_api import url

__all__ = ["url"]

CHOICES = [" pizza", " one two three", " fox jumps over the lazy dog"]
QUESTIONS = ["order two", "The quick brown", "one two", "seven wizards", "You help."]
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": CHOICES,
        "doc_to_target": "{{label}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "tiny_copy": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}
TIMEOUT_S = 180


def write_tasks(directory: Path, rows: list[dict[str, Any]]) -> None:
    data = directory / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **task,
        }
        (directory / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML


def run(url: str, base: BaseDirectory, work: Path) -> dict[str, Any]:
    """Results by task, and the samples' likelihoods."""
    command = shutil.which("lm_eval")
    if command is None:
        pytest.skip("needs lm_eval: pip install 'lm-eval[api]'")
    model = {
        "model": "tiny",
        "base_url": f"{url}/v1/completions",
        "tokenizer": str(base.path),
        "tokenizer_backend": "huggingface",
        "num_concurrent": 2,
        "max_length": 256,
    }
    done = subprocess.run(
        [
            command, "run", "--model", "local-completions",
            "--model_args", ",".join(f"{key}={value}" for key, value in model.items()),
            "--tasks", *TASKS, "--include_path", str(work), "--batch_size", "4",
            "--output_path", str(work / "results"), "--log_samples",
        ],
        env={**os.environ, "HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = (work / "results").rglob("results_*.json")
    (samples,) = (work / "results").rglob("samples_tiny_choice_*.jsonl")
    lines = map(json.loads, samples.read_text().splitlines())
    found = {sample["doc_id"]: sample["resps"] for sample in lines}
    return {"results": json.loads(results.read_text())["results"], "likelihoods": found}


def likelihood(model: torch.nn.Module, base: BaseDirectory, text: str, choice: str) -> float:
    start = len(base.tokenizer.encode(text, add_special_tokens=False).ids)
    ids = torch.tensor(base.tokenizer.encode(text + choice, add_special_tokens=False).ids)
    with torch.no_grad():
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return float(sum(logprobs[at - 1, ids[at]] for at in range(start, len(ids))))


def test_lm_eval_finds_the_likelihoods_and_answers_that_transformers_does(
    url: str, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    model = load_reference(tiny_base)
    expected = [[likelihood(model, tiny_base, q, choice) for choice in CHOICES] for q in QUESTIONS]
    labels = [max(range(len(CHOICES)), key=found.__getitem__) for found in expected]
    rows = [
        {"question": q, "label": n, "answer": "no"} for q, n in zip(QUESTIONS, labels, strict=True)
    ]
    write_tasks(tmp_path, rows)

    found = run(url, tiny_base, tmp_path)

    for index, of_row in enumerate(expected):
        told = [float(resp[0][0]) for resp in found["likelihoods"][index]]
        assert told == pytest.approx(of_row, rel=0.02)  # the server's weights are int8
    assert found["results"]["tiny_choice"]["acc,none"] == 1
    assert found["results"]["tiny_copy"]["exact_match,none"] == 0
