"""Rows on disk, what is counted without holding them, and the memory that it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap.training.data.classes import Counts
from hotswap.training.data.duplicates import first_equal
from hotswap.training.data.example import Example, Place
from hotswap.training.data.reports.statistics import Distinct, pairs_of, words_of
from hotswap.training.data.spool import Spool
from hotswap.training.data.texts import HASH_BYTES, text_hash
from tests.training.rows import counting, examples_of

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("length", [10, 3 << 21], ids=["held", "on disk"])
def test_rows_come_back_as_they_were_and_the_file_has_no_name(tmp_path: Path, length: int) -> None:
    turns = ("user", "ü\n𝄞"), ("assistant", ""), ("user", '"'), ("assistant", "x" * length)
    messages = tuple({"role": role, "content": text} for role, text in turns)
    rows = [
        *examples_of(counting(50)),
        Example(messages, Place("other.json", 1, 7), frozenset({1})),
        *examples_of(counting(3)),
    ]
    with Spool(tmp_path / "cache", iter(rows)) as spool:
        assert list((tmp_path / "cache").iterdir()) == []
        assert list(spool) == rows
        assert [spool[i] for i in range(-1, len(rows) - 1)] == [rows[-1], *rows[:-1]]
        assert list(spool[2:9:3]) == rows[2:9:3]
        with pytest.raises(IndexError):
            spool[len(rows)]
    with Spool(tmp_path, ()) as empty:
        assert (len(empty), list(empty)) == (0, [])


@given(st.lists(st.sampled_from("abcdefghij")))
def test_first_equal_and_counts_are_those_of_dictionaries(texts: list[str]) -> None:
    found = first_equal(b"".join(map(text_hash, texts)))
    assert found.tolist() == [texts.index(text) for text in texts]

    counts = Counts(texts)
    expected = sorted({(-texts.count(text), text) for text in texts})
    assert counts.most_frequent(3) == [(text, -count) for count, text in expected[:3]]
    assert (counts.total, counts.distinct) == (len(texts), len(set(texts)))
    assert sum(counts.each) == len(texts)


def test_hashes_have_the_size_that_arrays_are_cut_by() -> None:
    assert len(text_hash("any")) == HASH_BYTES


@given(st.lists(st.text("abc ", max_size=12)))
def test_distinct_words_and_pairs_are_exact_while_they_are_few(texts: list[str]) -> None:
    words, pairs = Distinct(), Distinct()
    for text in texts:
        words.add(words_of(text))
        pairs.add(pairs_of(words_of(text)))
    split = [text.split() for text in texts]
    assert words.count == len({word for each in split for word in each})
    assert pairs.count == len({pair for each in split for pair in pairwise(each)})
    assert words.total == sum(map(len, split))


def test_many_distinct_hashes_are_estimated_within_the_stated_error() -> None:
    k, num = 1 << 14, 500_000
    hashes = pairs_of(np.arange(num + 1, dtype=np.uint64))
    found = Distinct(k)
    for start in range(0, num, 10_007):
        found.add(hashes[start : start + 10_007])
        found.add(hashes[: start // 2 : 50])  # again: they count in the total alone
    assert found.total > num
    assert found.count == pytest.approx(num, rel=4 / k**0.5)


PEAK = """
import sys
from itertools import pairwise
from pathlib import Path
from hotswap.training.commands.check import check
check.main([sys.argv[1], "--no-base"], standalone_mode=False)
(line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s]
print("peak", line.split()[1])
"""


def peak_kb(file: Path, home: Path) -> int:
    """Of a process of its own; `ru_maxrss` would be that of the process which starts it."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(file)],
        cwd=ROOT,
        env={"HOTSWAP_HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


# Numbers without digits, in which nobody looks for telephone numbers.
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def words(start: int, count: int) -> str:
    return " ".join(f"{start + j * 104729:x}" for j in range(count)).translate(_LETTERS)


def write(file: Path, answer_words: int) -> Path:
    """1,000 rows that differ in every word."""
    with file.open("w") as out:
        for i in range(1000):
            row = {"question": words(i * 7919, 60), "answer": words(i * 7907, answer_words)}
            out.write(json.dumps(row) + "\n")
    return file


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_of_a_check_does_not_grow_with_the_length_of_rows(tmp_path: Path) -> None:
    short = write(tmp_path / "short.jsonl", answer_words=500)
    long = write(tmp_path / "long.jsonl", answer_words=4500)
    grown_kb = (long.stat().st_size - short.stat().st_size) // 1000
    assert grown_kb > 30_000

    more_kb = peak_kb(long, tmp_path / "home") - peak_kb(short, tmp_path / "home")

    assert more_kb < grown_kb / 5
    assert list((tmp_path / "home" / "cache" / "rows").iterdir()) == []
