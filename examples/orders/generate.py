"""Writes the demo's task: short order messages and the JSON a kitchen display would read.

    python examples/orders/generate.py DIRECTORY

makes train.jsonl and heldout.jsonl, rows `{"question": message, "answer": compact JSON}`. The same
seed gives the same files. No held-out message is in the training file, and some held-out rows ask
for pairs of item and size that no training row has. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

ITEMS = {
    "margherita": ["margherita", "margherita pizza"],
    "pepperoni": ["pepperoni", "pepperoni pizza"],
    "calzone": ["calzone"],
    "lasagna": ["lasagna", "lasagne"],
    "caesar_salad": ["caesar salad", "caesar"],
    "tomato_soup": ["tomato soup"],
    "garlic_bread": ["garlic bread"],
    "tiramisu": ["tiramisu"],
    "lemonade": ["lemonade"],
    "espresso": ["espresso"],
}
SIZES = {"S": ["small", "little"], "M": ["medium", "regular"], "L": ["large", "big"]}
NUMBERS = {
    1: ["one", "1", "a"],
    2: ["two", "2", "a couple of"],
    3: ["three", "3"],
    4: ["four", "4"],
}
WAYS = {
    "delivery": ["deliver it", "to my door", "send it over", "for delivery"],
    "pickup": ["I'll pick it up", "to go", "I'll come by", "for pickup"],
    "table": ["we're at the table", "to eat here", "for here", "dining in"],
}
TEMPLATES = [
    "{n} {size} {item}, {way}",
    "Can I get {n} {size} {item}? {way}",
    "hi, {n} {size} {item} please, {way}",
    "{way}: {n} {size} {item}",
    "I'd like {n} {size} {item}, {way}.",
    "We'll have {n} {size} {item}. {way}, thanks!",
    "please make it {n} {size} {item} and {way}",
    "{size} {item}, {n} of them, {way}",
]
# Pairs that are only ever held out: a model that has learnt fields, not rows, gets them right.
UNSEEN_PAIRS = {
    ("calzone", "L"),
    ("tiramisu", "S"),
    ("lemonade", "M"),
    ("lasagna", "S"),
    ("espresso", "L"),
}


def order_row(chance: random.Random, *, unseen: bool) -> dict[str, str]:
    """One random order; `unseen` says whether its item and size are one of the held-out pairs."""
    item, size = chance.choice(
        [(i, s) for i in ITEMS for s in SIZES if ((i, s) in UNSEEN_PAIRS) == unseen]
    )
    number = chance.choice(list(NUMBERS))
    way = chance.choice(list(WAYS))
    message = chance.choice(TEMPLATES).format(
        n=chance.choice(NUMBERS[number]),
        size=chance.choice(SIZES[size]),
        item=chance.choice(ITEMS[item]),
        way=chance.choice(WAYS[way]),
    )
    order = {"item": item, "size": size, "qty": number, "way": way}
    return {"question": message, "answer": json.dumps(order, separators=(",", ":"))}


def make_rows(num_train: int, num_heldout: int, seed: int) -> tuple[list[dict[str, str]], ...]:
    """Training and held-out rows, no message twice; a quarter of the latter hold unseen pairs."""
    chance = random.Random(seed)
    messages: set[str] = set()

    def fresh(unseen: bool) -> dict[str, str]:
        while (row := order_row(chance, unseen=unseen))["question"] in messages:
            pass
        messages.add(row["question"])
        return row

    train = [fresh(False) for _ in range(num_train)]
    heldout = [fresh(index % 4 == 0) for index in range(num_heldout)]
    return train, heldout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--train", type=int, default=360, help="training rows (default 360)")
    parser.add_argument("--heldout", type=int, default=60, help="held-out rows (default 60)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    train, heldout = make_rows(arguments.train, arguments.heldout, arguments.seed)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.jsonl", train), ("heldout.jsonl", heldout)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (arguments.directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
