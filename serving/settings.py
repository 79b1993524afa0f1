"""What an operator chooses for serving. Names are vLLM's where vLLM has the option."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from hotswap.registry.domain.access import is_alias_pattern
from hotswap.registry.settings import Home, Settings

MAX_STACKED = 4
"""How many adapters one row of a step can have."""


class Quantization(StrEnum):
    """How the base's weights are kept; see `quantization` for what each means."""

    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"
    BNB_INT8 = "bnb-int8"
    NONE = "none"


class Device(StrEnum):
    """Where the base is run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Kernels(StrEnum):
    """What computes a step."""

    AUTO = "auto"
    NATIVE = "native"
    TORCH = "torch"


# Mean KL (nats) of probes that may be lost to quantization: about three times what the base itself
# loses on running text. Half or double the scaling of a trained adapter is above it (but for nf4).
PROBE_TOLERANCES = {
    Quantization.INT8: 0.08,
    Quantization.INT4: 0.3,
    Quantization.NF4: 0.5,
    Quantization.BNB_INT8: 0.08,
    Quantization.NONE: 0.02,
}


class ServingSettings(Settings):
    """`HOTSWAP_SERVING_<FIELD>` in the environment, or the option of the same name."""

    base: str = "smollm2-135m"
    """Base model: a built-in name, a directory, a .gguf file or a hub id."""
    device: Device = Device.AUTO
    """cpu, cuda (run by us on a fake device only), or auto: cuda where PyTorch finds it."""
    quantization: Quantization | None = None
    """int8 (exact integer sums; default on a CPU), int4 (a single stream is faster, a batch
    slower), nf4 or bnb-int8 (bitsandbytes; bnb-int8 is the default on CUDA), or none."""
    kernels: Kernels = Kernels.AUTO
    """native (compiled at installation; int8 and int4), torch, or auto: native if it can."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is float32 beside int8 weights and bfloat16 otherwise."""
    lora_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the adapters in their slots; auto is bfloat16 with native kernels, else dtype."""
    max_loras: int | None = Field(None, ge=1)
    """Adapters beside the base at one time. By default, on the native kernels (where a slot costs
    nothing), as many as max_num_seqs; in PyTorch 16."""
    max_lora_rank: int | None = Field(None, ge=1)
    """Highest rank a slot takes; in PyTorch every slot costs memory for this rank. By default 256
    on the native kernels, 16 in PyTorch."""
    max_loras_per_request: int = Field(4, ge=1, le=MAX_STACKED)
    """Adapters that one request may stack; at most as many as max_loras."""
    adapter_memory_gb: float = Field(4, gt=0)
    """Host memory for adapters, beside those that are in slots; the one unused for longest goes."""
    max_cpu_loras: int = Field(1024, ge=1)
    """Adapters kept in host memory, ready for a slot."""
    max_num_seqs: int = Field(32, ge=1)
    """Requests that decode together."""
    max_num_batched_tokens: int = Field(512, ge=2)
    """Tokens computed in one step, prompts and decoding rows together: the most that a stream waits
    for between two of its tokens."""
    prefill_chunk: int = Field(256, ge=1)
    """Prompts are cut at multiples of this many tokens."""
    kv_cache_tokens: int = Field(32768, ge=16)
    """Tokens whose keys and values fit in memory, in pages of 16; also bounds the context. When
    it is full, the youngest request gives up its place and waits again."""
    enable_prefix_caching: bool = True
    """Keep what prompts begin with for later ones of the same adapter; native kernels only."""
    num_speculative_tokens: int = Field(8, ge=0)
    """Next tokens that are guessed from the prompt, in one step, when few requests run; 0 is none.
    Native kernels only. The answers are the same."""
    default_max_tokens: int = Field(512, ge=1)
    """Length of an answer when the request names none."""
    num_threads: int | None = Field(None, ge=1)
    """Cores the engine computes on; all of them when it is not given."""
    probe_tolerance: float | None = Field(None, gt=0)
    """How far (KL, nats) an adapter's probes may be from its trainer's; by quantization if None."""
    trust: Path | None = None
    """TOML file with the keys that must have signed what is served; nothing is required without."""
    alias_max_age_s: float = Field(30, ge=0)
    """How long an alias is used without asking the registry, although its events are followed."""
    alias_grace_s: float = Field(600, ge=0)
    """How long what was known last of aliases and tokens stays in use when the registry, or its
    store, does not answer."""
    max_num_waiting: int = Field(4096, ge=1)
    """Requests that may wait; more are refused with 429."""

    log_requests: str | None = None
    """Keep requests and answers of the names that this pattern stands for (team/*; several with a
    comma between them), in files that `hotswap data drift` reads. They hold what users wrote.
    Nothing is kept without."""
    request_log_directory: Path | None = None
    """Where they are kept, a directory an adapter; below HOTSWAP_HOME by default."""
    request_log_sample_rate: float = Field(1.0, gt=0, le=1)
    """The share of requests that is kept, chosen by the hash of x-request-id."""
    request_log_mb: float = Field(16, ge=0.01)
    """Size of an adapter's files at most; the oldest rows go."""

    @property
    def request_patterns(self) -> list[str]:
        return [] if self.log_requests is None else self.log_requests.split(",")

    @field_validator("log_requests")
    @classmethod
    def _is_pattern_of_names(cls, text: str | None) -> str | None:
        for part in [] if text is None else text.split(","):
            if "@" in part or not is_alias_pattern(part):
                raise ValueError(f"{part!r} is not a pattern of names (example: 'team/*')")
        return text

    @model_validator(mode="after")
    def _step_has_room(self) -> ServingSettings:
        if self.max_num_batched_tokens < self.max_num_seqs + self.prefill_chunk:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs + prefill_chunk ({self.max_num_seqs} + {self.prefill_chunk})"
            )
        return self


class ServingHome(Home):
    """Where serving keeps what it fetched, converted and recorded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bases = root / "bases"
        self.adapter_cache = root / "cache" / "adapters"
        self.seen_moves = root / "seen-moves"
        self.requests = root / "requests"
