"""The model card of a version: Markdown for people, with the front matter that the Hugging Face Hub
reads. Made from the manifest, the version's record, its state and the aliases that point to it.

Everything that a user wrote is escaped: it can neither end a table's cell nor become a heading, a
link or HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

import yaml

from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, AliasMove, VersionState
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.protocol import AdapterRegistry

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>()#|~&!$^]")
_BLOCK_START = re.compile(r"[-+=:]|[0-9]+[.](?= |$)")
_WIDE = 1 << 30  # no line of the front matter is folded


def make_card(registry: AdapterRegistry, ref: AdapterRef) -> str:
    """The card of the version `ref` means now; raises as AdapterRegistry.resolve."""
    version = registry.versions.resolve(ref)
    states = [s for s in registry.adapters.states(version.name) if s.number == version.number]
    moves = [m for m in registry.aliases.all(version.name) if m.to_number == version.number]
    manifest = registry.versions.manifest(version.manifest_digest)
    return render_card(version, manifest, moves, states[0] if states else None)


def render_card(
    version: AdapterVersion,
    manifest: Manifest,
    moves: Sequence[AliasMove],
    state: VersionState | None,
) -> str:
    """`moves` are the current ones of the aliases that point here; no state means active."""
    blocks = [
        f"---\n{front_matter(version, manifest)}---",
        f"# {version.ref}",
        escaped(manifest.description),
        _table(("", ""), _facts(version, manifest, moves, state)),
        _section("Metrics", ("metric", "value"), _pairs(manifest.metrics)),
        _section(
            "Lineage", ("", ""), _pairs(manifest.lineage.stated() if manifest.lineage else {})
        ),
        _section("Tags", ("tag", "value"), _pairs(manifest.tags)),
        f"## Use\n\n    hotswap pull {version.ref} DIRECTORY\n    hotswap chat {version.ref} TEXT",
        _section(
            "Files",
            ("file", "bytes", "digest"),
            [(escaped(f.file_name), f"{f.size_bytes}", f"`{f.digest}`") for f in manifest.files],
        ),
        _provenance(manifest.provenance),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def front_matter(version: AdapterVersion, manifest: Manifest) -> str:
    """YAML with the Hub's field names; see huggingface.co/docs/hub/model-cards."""
    document: dict[str, Any] = {
        "base_model": _line(manifest.base.model_id),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [
            manifest.lora.kind,
            *(_line(f"{key}={value}") for key, value in sorted(manifest.tags.items())),
        ],
    }
    if manifest.metrics:
        document["model-index"] = [{"name": version.name, "results": [_result(manifest)]}]
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=_WIDE)
    return text


def _result(manifest: Manifest) -> dict[str, Any]:
    digest = manifest.lineage.dataset_digest if manifest.lineage else None
    dataset = "not stated" if digest is None else str(digest)
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": dataset, "name": dataset},
        "metrics": [
            {"type": _line(key), "value": value} for key, value in sorted(manifest.metrics.items())
        ],
    }


def _facts(
    version: AdapterVersion,
    manifest: Manifest,
    moves: Sequence[AliasMove],
    state: VersionState | None,
) -> Iterator[tuple[str, str]]:
    lora, prompt = manifest.lora, manifest.prompt
    yield "digest", f"`{version.manifest_digest}`"
    at = f"{version.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    yield "pushed", f"by {escaped(version.created_by)} at {at}"
    why = f": {escaped(state.why)}" if state is not None and state.why else ""
    yield "state", f"{state.state if state else 'active'}{why}"
    yield "aliases", ", ".join(escaped(move.alias) for move in moves) or "none"
    yield "base", escaped(manifest.base.model_id)
    shape = f"r={lora.r}, lora\\_alpha={lora.lora_alpha:g}, {len(lora.modules)} modules"
    yield "adapter", f"{lora.kind}, {shape}, {lora.num_parameters:,} parameters"
    if lora.not_servable:
        yield "not servable", escaped("; ".join(lora.not_servable))
    yield "chat template", "stored" if prompt else "the base's own"
    if prompt and prompt.system_prompt:
        yield "system prompt", escaped(prompt.system_prompt)
    yield "probes", f"{len(manifest.probes)}"


def _provenance(provenance: Mapping[str, Any]) -> str:
    """As a code block: no line of JSON can end it, because none is made of backticks alone."""
    if not provenance:
        return ""
    text = json.dumps(provenance, indent=2, ensure_ascii=False)
    return f"## Provenance\n\n```json\n{text}\n```"


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(escaped(key), _shown(value)) for key, value in sorted(values.items())]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else escaped(str(value))


def _section(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return f"## {title}\n\n{_table(header, iter(rows))}" if rows else ""


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """One line of Markdown that shows `text` as it is, white space and control characters as a
    space."""
    line = _SPECIAL.sub(r"\\\g<0>", _line(text))
    if (start := _BLOCK_START.match(line)) is not None:
        end = start.end() - 1
        return f"{line[:end]}\\{line[end:]}"
    return line


def _line(text: str) -> str:
    """Printable, in one line; YAML and Markdown both have trouble with what is not."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
