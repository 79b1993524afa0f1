"""20 classes of banking77 through the commands: train, push, serve, exact match on 200 test rows.

    python -m benchmarks.banking77 DIRECTORY

DIRECTORY holds the data set's train.csv, test.csv and categories.json (Casanueva et al. 2020, CC BY
4.0); it is not part of this project. 24 train and 10 test rows of each of 20 classes, seed 0.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.server import HOTSWAP, server
from hotswap.registry.settings import read_home
from hotswap.serving.settings import ServingHome

NUM_CLASSES = 20
NUM_TRAIN, NUM_TEST = 24, 10
SYSTEM_PROMPT = "Name the intent."


def main(data: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "bases").symlink_to(read_home(ServingHome).bases)
        train, test = sample(data)
        rows = write_rows(train, home / "train.jsonl")
        start = time.perf_counter()
        with server(home) as url:
            train_and_push(rows, home, url)
            seconds = time.perf_counter() - start
            print(f"trained on {len(train)} rows and pushed in {seconds:.0f} s")
            for model in ("smollm2-135m", "bench/banking"):
                start = time.perf_counter()
                right = marks(url, model, test)
                seconds = time.perf_counter() - start
                score = sum(right) / len(test)
                print(f"{model:<16} exact match {score:.3f} of {len(test)} in {seconds:.1f} s")


def sample(
    data: Path, num_test: int = NUM_TEST
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of the chosen classes, `{"question": text, "answer": category}`."""
    chance = random.Random(0)
    classes = chance.sample(sorted(json.loads((data / "categories.json").read_text())), NUM_CLASSES)
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for part in ("train", "test"):
        found[part] = {name: [] for name in classes}
        for row in read_rows(data / f"{part}.csv"):
            if row["answer"] in found[part]:
                found[part][row["answer"]].append(row)
    train: list[dict[str, str]] = []
    test: list[dict[str, str]] = []
    for name in classes:
        chance.shuffle(found["train"][name])
        train += found["train"][name][:NUM_TRAIN]
        chance.shuffle(found["test"][name])
        test += found["test"][name][:num_test]
    chance.shuffle(train)
    return train, test


def read_rows(file: Path) -> list[dict[str, str]]:
    """All of train.csv or test.csv, `{"question": text, "answer": category}`."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            {"question": row["text"].strip(), "answer": row["category"]}
            for row in csv.DictReader(lines)
        ]


def write_rows(rows: list[dict[str, str]], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def train_and_push(rows: Path, home: Path, url: str) -> None:
    environment = {**os.environ, "HOTSWAP_HOME": str(home)}
    command = [
        HOTSWAP, "train", rows, "--epochs", "2", "--validation-fraction", "0",
        "--system-prompt", SYSTEM_PROMPT, "--push", "bench/banking", "--alias", "prod",
        "--registry", url,
    ]  # fmt: skip
    subprocess.run(command, env=environment, check=True)


def marks(url: str, model: str, rows: list[dict[str, str]]) -> list[bool]:
    """Whether the model's answer to each row is the category, letter by letter."""
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(32) as pool:

        def is_right(row: dict[str, str]) -> bool:
            messages = [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": row["question"]},
            ]
            body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24}
            response = client.post("/v1/chat/completions", json=body)
            response.raise_for_status()
            text: str = response.json()["choices"][0]["message"]["content"]
            return text == row["answer"]

        return list(pool.map(is_right, rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
