"""What a training run is asked to do: the same spec, data and machine give the same adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from hotswap.registry.domain.prompts import Normaliser
from hotswap.training.data.fixes import Fixes


class TrainingSpec(Fixes):
    """Every option of a run. Rate, rank and batch size are those that examples/orders is measured
    with on SmolLM2-135M; they were not swept.

    Invariant: `validation` and `validation_fraction` are not both used; a validation file wins.
    """

    noun: ClassVar[str] = "training spec"

    base: str = "smollm2-135m"
    """The base model: a built-in name, a hub id, a directory or a .gguf file."""
    data: Path
    """Rows in any format that `hotswap data convert` reads."""
    columns: str | None = None
    """Where a row's fields stand in data and validation (`question=text,answer=category`)."""
    validation: Path | None = None
    """Rows that are never trained on; the checkpoint with the lowest loss on them is kept."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """The seeded share of `data` held back when there is no validation file, the same of each
    class, like rows together; 0 holds back none."""
    system_prompt: str | None = None
    """Put in front of conversations without a system message; None is the template's own."""
    normaliser: Normaliser = Normaliser.NONE
    """What is done to user messages before rendering, in training and in serving alike; the fixes
    trim and lower add to it what they do."""

    method: Literal["lora", "qlora", "dora", "pissa", "olora", "full"] = "lora"
    """How weights are adapted: LoRA; over an NF4 base; with magnitudes; from the weights' principal
    parts by SVD or QR; or all of them, the change extracted as a LoRA. All publish plain PEFT."""
    r: int = Field(default=16, ge=1, le=1024)
    """The rank: an adapted (out, in) matrix gets r · (in + out) new parameters."""
    lora_alpha: int = Field(default=32, ge=1)
    """The update is scaled by lora_alpha / r (by lora_alpha / √r with use_rslora)."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which layers are adapted: every linear layer but the head, or the names given."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """The share of LoRA inputs zeroed in training; with it micro-batches change the result."""
    use_rslora: bool = False
    """Scale by √r (Kalajdzievski 2023), so that the rate need not change with the rank."""
    lora_init: Literal["uniform", "gaussian", "orthogonal"] = "uniform"
    """LoRA's first weights; the product is zero in each. PiSSA and OLoRA bring their own."""
    lora_plus_ratio: float = Field(default=1.0, gt=0, le=1024)
    """LoRA+ (Hayou et al. 2024): B learns at this times the rate of A; 1 is LoRA."""

    learning_rate: float = Field(default=2e-3, gt=0)
    """The highest rate of AdamW, reached after warm-up."""
    num_epochs: int = Field(default=3, ge=0, le=1000)
    """How often every row is seen; 0 publishes the untrained adapter, which has no effect."""
    batch_size: int = Field(default=16, ge=1)
    """Rows to one optimiser step."""
    micro_batch_tokens: int = Field(default=1024, ge=1)
    """The most padded tokens in one forward pass; a batch with more is accumulated over passes."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """The share of all steps in which the rate rises linearly from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls to 0 after warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled decay of the LoRA weights."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this 2-norm when it is longer."""
    validate_every_steps: int | None = Field(default=None, ge=1)
    """How often the validation loss is measured besides step 0 and the last; None: every epoch."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after so many measurements in a row without a lower validation loss; None: never."""
    early_stopping_min_delta: float = Field(default=0.0, ge=0)
    """How much lower, in nats per token, a validation loss must be to count for the patience."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """How often the run's state is written, so that it can be resumed; None: at every validation.
    An interrupted run writes it too."""

    max_length: int = Field(default=512, ge=2)
    """The most tokens a row may have, prompt and answers together; longer rows are refused."""
    dtype: Literal["auto", "bfloat16", "float32"] = Field(default="auto", validate_default=True)
    """Of the base and of the arithmetic: auto is bfloat16 where the processor multiplies it, and is
    recorded as what it stood for. The optimiser's LoRA weights are float32 always."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Decides LoRA's first weights, the order of rows, the split and dropout."""

    @field_validator("dtype")
    @classmethod
    def _natural(cls, dtype: str) -> str:
        return fast_dtype() if dtype == "auto" else dtype

    @model_validator(mode="after")
    def _fits_its_method(self) -> TrainingSpec:
        """An option that the method would not look at is a mistake."""
        unused = {
            "lora_init": self.lora_init != "uniform" and self.method in ("pissa", "olora", "full"),
            "lora_dropout": self.lora_dropout > 0 and self.method == "full",
            "lora_plus_ratio": self.lora_plus_ratio != 1 and self.method == "full",
        }
        for option in (name for name, is_unused in unused.items() if is_unused):
            raise ValueError(f"method {self.method!r} does not use {option}; leave it out")
        if self.lora_init == "orthogonal" and self.r % 2:
            raise ValueError(f"lora_init 'orthogonal' needs an even r, not {self.r}")
        return self

    def portable(self) -> dict[str, Any]:
        """The spec as JSON with file names in place of paths, so that it names no machine."""
        values = self.model_dump(mode="json")
        for field, path in (("data", self.data), ("validation", self.validation)):
            values[field] = None if path is None else path.name
        values["base"] = Path(self.base).name if Path(self.base).is_absolute() else self.base
        return values


def fast_dtype() -> str:
    """bfloat16 with a GPU or a CPU that has instructions for it. Where an x86 has not, products
    take 2.7 times as long as in float32 (measured with AVX-512 without BF16)."""
    import torch  # a spec is read, and help is printed, without it

    features = torch.cpu.get_capabilities()
    multiplies = (
        torch.cuda.is_available()
        or features.get("architecture") != "x86_64"
        or features.get("avx512_bf16")
        or features.get("amx_bf16")
    )
    return "bfloat16" if multiplies else "float32"
