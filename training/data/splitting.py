"""Cuts rows into parts by seed: rows that are alike stay together, classes keep their shares."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hotswap.training.data.classes import are_classes
from hotswap.training.data.duplicates import alike
from hotswap.training.data.example import Example


def split(examples: Sequence[Example], shares: Sequence[float], seed: int) -> list[list[Example]]:
    """The rows of the parts that `cut` tells."""
    return [[examples[index] for index in part] for part in cut(examples, shares, seed)]


def cut(examples: Sequence[Example], shares: Sequence[float], seed: int) -> list[list[int]]:
    """The rows of each part by index, ascending: what is left, then a part for each of `shares`.

    Groups of rows that are alike are dealt out whole, class by class where answers are classes, in
    an order of chance, each to the part that is furthest behind its share. So a part ends about
    one group from its share. A share above 0 has a row, as long as that leaves one for the first.
    """
    all_shares = [1 - sum(shares), *shares]
    groups = alike(examples)
    chance = random.Random(seed)  # noqa: S311
    chance.shuffle(groups)
    if are_classes(examples):
        groups.sort(key=lambda group: examples[group[0]].label)
    parts: list[list[list[int]]] = [[] for _ in all_shares]
    sizes = [0] * len(all_shares)
    num_rows = 0
    for group in groups:
        num_rows += len(group)
        behind = [share * num_rows - size for share, size in zip(all_shares, sizes, strict=True)]
        part = behind.index(max(behind))
        parts[part].append(group)
        sizes[part] += len(group)
    _fill_empty(parts, shares)
    return [sorted(index for group in part for index in group) for part in parts]


def _fill_empty(parts: list[list[list[int]]], shares: Sequence[float]) -> None:
    """Give every share above 0 a group, of the first part's smallest, but not its last one."""
    for part, share in zip(parts[1:], shares, strict=True):
        if share > 0 and not part and len(parts[0]) > 1:
            smallest = min(parts[0], key=len)
            parts[0].remove(smallest)
            part.append(smallest)
