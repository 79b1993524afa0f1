"""The reference pages, made from the code: commands, settings, errors and the HTTP API.

Each function returns one page in Markdown. Nothing of them is kept in a file, so none is stale.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import click
from fastapi import FastAPI
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from hotswap.registry.cli import cli
from hotswap.registry.domain.errors import HotswapError
from hotswap.registry.http.routes.adapters import registry_router
from hotswap.registry.http.routes.rules import REGISTRY_RULES
from hotswap.registry.http.rules import PUBLIC, Rules
from hotswap.registry.settings import GROUP, PREFIX, Settings

METHODS = ("get", "post", "put", "delete")


def commands() -> str:
    """Every command that `hotswap --help` leads to, in its order."""
    root = click.Context(cli, info_name="hotswap")
    parts = [part for name in cli.list_commands(root) for part in _command(cli, name, root)]
    intro = (
        "Every command prints this with `--help`. Exit status 0 is success, 1 an error, 2 misuse."
    )
    return "\n\n".join(["# Commands", intro, *parts]) + "\n"


def _command(group: click.Group, name: str, parent: click.Context) -> Iterator[str]:
    command = group.get_command(parent, name)
    if command is None or command.hidden:
        return
    context = click.Context(command, info_name=name, parent=parent)
    yield f"## {context.command_path}"
    yield "\n\n".join(_paragraphs(command.help or ""))
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            yield from _command(command, child, context)
        return
    yield f"```text\n{' '.join(command.get_usage(context).split()).removeprefix('Usage: ')}\n```"
    rows = [_option(option, context) for option in command.params if _is_shown(option)]
    yield _table(["option", "meaning"], rows)
    if command.epilog:
        yield f"```bash\n{_example(command.epilog)}\n```"


def _is_shown(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and not option.hidden


def _option(option: click.Parameter, context: click.Context) -> Sequence[str]:
    names, meaning = option.get_help_record(context) or ("", "")
    return f"`{names}`", meaning


def _paragraphs(text: str) -> list[str]:
    blocks = re.split(r"\n\s*\n", text.strip())
    return [_text(block.replace("\b", "")) for block in blocks]


def _example(epilog: str) -> str:
    lines = epilog.replace("\b\n", "").splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines if line.strip() != "Example:")


def settings() -> str:
    """Every variable of every section, with its default and its field's docstring."""
    parts = [
        "# Settings",
        f"Every setting is an environment variable. An unknown variable with the prefix `{PREFIX}` "
        "is an error.",
        f"`{PREFIX}HOME` is the directory of all local state; `~/.hotswap` without it.",
        "`hotswap up` and `hotswap serve` have an option for each setting of serving.",
    ]
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        kind: type[Settings] = entry.load()
        start = f"{PREFIX}{entry.name.upper()}_"
        rows = [
            (f"`{start}{name.upper()}`", _default(field), field.description or "")
            for name, field in kind.model_fields.items()
        ]
        parts += [f"## {entry.name.capitalize()}", _table(["variable", "default", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def _default(field: Any) -> str:
    value = field.default
    if value is None or value is PydanticUndefined or isinstance(value, SecretStr):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def errors() -> str:
    """The tree of errors with code and status; importing a layer's errors draws its branches."""
    import hotswap.serving.errors
    import hotswap.training.errors  # noqa: F401

    rows = [
        (f"{'· ' * depth}`{error.code}`", str(error.status), _meaning(error))
        for depth, error in _tree(HotswapError, 0)
    ]
    return (
        "\n\n".join(
            [
                "# Errors",
                "The HTTP API answers an error with its status and a JSON body. "
                "A program should read `error.code`: a code never changes its meaning. "
                "`error.message` says what was asked, what was found and what to do. "
                "`error.fields` has the same facts for programs.",
                "The client raises the class of the same name, and a command prints the message "
                "and exits with 1. A dot marks an error that is a kind of the one above it.",
                _table(["code", "status", "when"], rows),
            ]
        )
        + "\n"
    )


def _tree(error: type[HotswapError], depth: int) -> Iterator[tuple[int, type[HotswapError]]]:
    yield depth, error
    for child in error.__subclasses__():
        yield from _tree(child, depth + 1)


def _meaning(error: type[HotswapError]) -> str:
    text = error.__dict__.get("__doc__")
    return " ".join(text.split()) if text else _words(error.__name__) + "."


def _words(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).capitalize()


def http_api() -> str:
    """Every route with the scope that it needs, from the application's own OpenAPI document."""
    from hotswap.serving.http.api import SERVING_RULES, serving_router
    from hotswap.training.jobs.api import files_router, jobs_router
    from hotswap.training.jobs.plane import JOBS_RULES

    # Routes keep what they are given until a request comes, and none comes here.
    absent: Any = SimpleNamespace(access=None)
    rules = Rules((*REGISTRY_RULES, *SERVING_RULES, *JOBS_RULES))
    planes = {
        "Registry": [registry_router(absent, threading.Event())],
        "Serving": [serving_router(absent, absent)],
        "Fine-tuning": [files_router(absent), jobs_router("base", absent, absent, absent)],
    }
    parts = [
        "# HTTP API",
        "A running server has the whole OpenAPI document at `/openapi.json`, and a page of it at "
        "`/docs`. Tokens are sent as `Authorization: Bearer …`. "
        "`GET /health` says how each part of the server is, and needs no token.",
    ]
    for title, routers in planes.items():
        app = FastAPI()
        for router in routers:
            app.include_router(router)
        parts += [f"## {title}", _table(["route", "scope", "what it does"], _routes(app, rules))]
    return "\n\n".join(parts) + "\n"


def _routes(app: FastAPI, rules: Rules) -> list[Sequence[str]]:
    rows = []
    for path, operations in app.openapi()["paths"].items():
        for method in METHODS:
            if method in operations:
                about = operations[method]
                text = " ".join((about.get("description") or about["summary"] + ".").split())
                scope = _scope(rules, method.upper(), path)
                rows.append((f"`{method.upper()} {path}`", scope, text))
    return rows


def _scope(rules: Rules, method: str, path: str) -> str:
    """What the rules ask for a path whose parameters are words."""
    if path in PUBLIC:
        return "none"
    named = rules.naming(method, re.sub(r"{[^}]*}", "x", path))
    if not named:
        return "`admin`"
    verbs = [f"`{rule.verb}`" if rule.verb else "any token" for rule in named]
    return " or ".join(dict.fromkeys(verbs))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\|(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\|", _text(text))  # not within code


def _text(text: str) -> str:
    """On one line; what stands between < and > is shown and is no tag."""
    return " ".join(text.split()).replace("<", "&lt;")


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/settings.md": settings,
    "reference/errors.md": errors,
    "reference/http-api.md": http_api,
}
