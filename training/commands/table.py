"""Training's commands: where each stands on the command line, and in which module."""

from __future__ import annotations

from hotswap.registry.commands.table import DAILY
from hotswap.registry.commands.tree import CommandTable, Group, Lazy

_HERE = "hotswap.training.commands"
_TRAINING = "Training"

TABLE = CommandTable(
    commands={
        "train": Lazy(
            f"{_HERE}.train:train", "Train a LoRA adapter on DATA, a file of rows.", DAILY
        ),
        "tune": Lazy(
            f"{_HERE}.tune:tune",
            "Train on DATA once for every pair of a learning rate and a rank, and compare.",
            _TRAINING,
        ),
        "evaluate": Lazy(
            f"{_HERE}.evaluate:evaluate",
            "Ask an adapter the questions of DATA, a file of rows as `hotswap train` takes them.",
            _TRAINING,
        ),
        "ladder": Lazy(
            f"{_HERE}.ladder:ladder",
            "Find out whether prompting is enough, or an adapter is worth it.",
            _TRAINING,
        ),
        "runs": Lazy(
            f"{_HERE}.runs:runs",
            "List the training runs, newest last: what each was trained on and what came of it.",
            _TRAINING,
        ),
        "data check": Lazy(
            f"{_HERE}.check:check", "Look for what is wrong with rows before they are trained on."
        ),
        "data convert": Lazy(
            f"{_HERE}.convert:convert", "Write the rows of IN to OUT in another format."
        ),
        "data drift": Lazy(
            f"{_HERE}.drift:drift",
            "Compare the requests of production with DATA, the training rows.",
        ),
        "data fix": Lazy(
            f"{_HERE}.fix:fix", "Write the rows of IN to OUT with the fixes that are named."
        ),
        "data from-traffic": Lazy(
            f"{_HERE}.from_traffic:from_traffic",
            "Make a dataset of what a server's request log keeps.",
        ),
        "data split": Lazy(
            f"{_HERE}.fix:split_rows", "Cut IN into train, validation and test files in DIRECTORY."
        ),
    },
    groups={"data": Group("Check, convert and fix files of training rows.", _TRAINING)},
)
