"""Serving's commands. What needs torch is imported when a command runs, not for its help."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotswap.registry.commands.options import model_options
from hotswap.registry.commands.parts import registry_option
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.registry.settings import RegistrySettings, read_home, read_section
from hotswap.serving.settings import ServingHome, ServingSettings

if TYPE_CHECKING:
    from hotswap.registry.domain.access import AccessControl
    from hotswap.registry.domain.protocol import AdapterRegistry
    from hotswap.serving.http.app import Serving

_Command = Callable[..., None]


class StartReport:
    """Tells a person at a terminal what a server is doing until it is ready; nothing in a pipe."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()

    def say(self, what: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"hotswap: {what} …", err=True)

    def finish(self) -> None:
        if sys.stderr.isatty():
            elapsed_s = time.monotonic() - self._began_at
            click.echo(f"hotswap: ready after {elapsed_s:.1f} s; Ctrl-C stops it", err=True)


def _address_options(command: _Command) -> _Command:
    command = click.option("--port", default=8000, show_default=True, help="Port; 0: a free one.")(
        command
    )
    return click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
    )(command)


@click.command(epilog="\b\nExample:\n  hotswap up --base smollm2-135m --max-loras 16")
@_address_options
@model_options(ServingSettings)
def up(host: str, port: int, **options: object) -> None:
    """Run everything in one process: registry and serving."""
    from hotswap.registry.connect import configured_webhooks, open_registry
    from hotswap.registry.http.app import assemble, registry_plane, run
    from hotswap.registry.http.planes import further_planes

    home, settings = read_home(ServingHome), read_section("serving", ServingSettings, options)
    registry_settings = read_section("registry", RegistrySettings)
    webhooks = configured_webhooks(registry_settings)
    start = StartReport()
    start.say(f"opening the store {registry_settings.store or home.store}")
    with open_registry(registry_settings, home) as registry:
        serving = _start_serving(settings, registry, home, start)
        planes = [registry_plane(registry, registry.delivery(webhooks)), serving.plane()]
        planes += further_planes(serving.plane_host(home))
        run(assemble(planes, _access(registry, settings)), host, port, start.finish)


@click.command(epilog="\b\nExample:\n  hotswap serve --registry http://127.0.0.1:8000 --port 8001")
@registry_option
@_address_options
@model_options(ServingSettings)
def serve(location: str | None, host: str, port: int, **options: object) -> None:
    """Serve adapters of a registry that runs elsewhere."""
    from hotswap.registry.connect import connect
    from hotswap.registry.http.app import assemble, run
    from hotswap.registry.http.planes import further_planes

    home, settings = read_home(ServingHome), read_section("serving", ServingSettings, options)
    client_settings = read_section("registry", RegistrySettings)
    start = StartReport()
    start.say(f"following the registry at {location or client_settings.url}")
    with connect(location, client_settings, home) as registry:
        serving = _start_serving(settings, registry, home, start)
        planes = [serving.plane(), *further_planes(serving.plane_host(home))]
        run(assemble(planes, _access(registry, settings)), host, port, start.finish)


def _access(registry: AdapterRegistry, settings: ServingSettings) -> AccessControl:
    """Requests go on while the registry, or the store behind it, does not answer."""
    from hotswap.serving.aliases.known_access import KnownAccess

    return KnownAccess(registry.access, grace_s=settings.alias_grace_s)


def _start_serving(
    settings: ServingSettings, registry: AdapterRegistry, home: ServingHome, start: StartReport
) -> Serving:
    from hotswap.serving.base_model import provide_base
    from hotswap.serving.http.app import Serving

    start.say(f"looking for the base {settings.base}, which is fetched or converted if need be")
    base = provide_base(settings.base, home.bases)
    start.say(f"loading {base.model_id} from {base.path}")
    return Serving(settings, registry, home, base=base)


@click.command(epilog="\b\nExample:\n  hotswap base smollm2-135m > fingerprint.json")
@click.argument("name", default="smollm2-135m")
def base(name: str) -> None:
    """Fetch or convert the base NAME if need be, and print its fingerprint as JSON.

    It tells a push which base an adapter belongs to: `hotswap push --fingerprint FILE`.
    """
    from hotswap.serving.base_model import provide_base

    base_directory = provide_base(name, read_home(ServingHome).bases)
    click.echo(base_directory.fingerprint().model_dump_json(indent=2))
    click.echo(f"{base_directory.path}", err=True)


@click.command(
    epilog="\b\nExample:\n  hotswap adapter export team/sql@prod sql.gguf\n"
    "  hotswap adapter export team/sql@prod merged-model --merged"
)
@click.argument("ref")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--merged", is_flag=True, help="Write the base with the adapter merged in.")
@click.option(
    "--base",
    "base_name",
    metavar="MODEL",
    help="The base model; default: the one the adapter names.",
)
@registry_option
def export(ref: str, out: Path, merged: bool, base_name: str | None, location: str | None) -> None:
    """Write the adapter REF for llama.cpp (OUT ends in .gguf), or merged into its base."""
    from tempfile import TemporaryDirectory

    from hotswap.registry.bundles.transfer import pull
    from hotswap.registry.connect import connect
    from hotswap.registry.domain.adapters import AdapterRef
    from hotswap.registry.domain.errors import InvalidRequest
    from hotswap.serving.adapters.export import (
        check_exportable,
        export_gguf,
        export_merged,
    )
    from hotswap.serving.base_model import provide_base

    if not merged and out.suffix != ".gguf":
        raise InvalidRequest(f"{out} does not end in .gguf; for a model directory add --merged")
    home = read_home(ServingHome)
    with TemporaryDirectory() as work:
        directory = Path(work) / "adapter"
        with connect(location, read_section("registry", RegistrySettings), home) as registry:
            version = pull(registry, AdapterRef.parse(ref), directory)
            manifest = registry.versions.manifest(version.manifest_digest)
        base = provide_base(base_name or manifest.base.model_id, home.bases)
        check_exportable(manifest, base)
        if merged:
            provenance = {
                "merged_adapter": str(version.ref),
                "digest": str(version.manifest_digest),
            }
            export_merged(directory, manifest.lora, base, out, provenance)
        else:
            export_gguf(directory, manifest.lora, base, out)
    click.echo(f"wrote {version.ref} {version.manifest_digest} to {out}")


@click.command(
    epilog='\b\nExample:\n  hotswap chat team/sql@prod "How many users signed up today?"',
    cls=RenamedOptions,
    renamed={"--system": "--system-prompt"},
)
@click.argument("model")
@click.argument("text", required=False)
@click.option("--url", help="The server's URL; default: HOTSWAP_REGISTRY_URL.")
@click.option("--system-prompt", metavar="TEXT", help="A system message in front.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=int, help="Length of an answer at most.")
def chat(
    model: str,
    text: str | None,
    url: str | None,
    system_prompt: str | None,
    temperature: float,
    max_tokens: int | None,
) -> None:
    """Talk to MODEL, an adapter or the base.

    One TEXT is one question; without it each line is one, until end of file.
    """
    from hotswap.serving.http.chat import stream_answer

    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    request: dict[str, Any] = {"model": model, "temperature": temperature}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    client_settings = read_section("registry", RegistrySettings)
    secret = client_settings.token
    token = None if secret is None else secret.get_secret_value()
    for line in [text] if text is not None else _lines():
        messages.append({"role": "user", "content": line})
        body, answer = {**request, "messages": messages}, ""
        with stream_answer(url or client_settings.url, body, token) as pieces:
            for piece in pieces:
                answer += piece
                click.echo(piece, nl=False)
        click.echo()
        messages.append({"role": "assistant", "content": answer})


def _lines() -> Iterator[str]:
    while True:
        try:
            line = click.prompt("", prompt_suffix="> ", default="", show_default=False)
        except click.Abort:
            return
        if line:
            yield line
