"""What a run will cost before it starts: parameters and memory, from shapes alone.

Nothing is loaded or computed: the model's tensors are fake ones, which have shapes and no data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.batches import batches, micro_batches
from hotswap.training.data.tokens import Row
from hotswap.training.loss import LOGIT_CHUNK, attention_for
from hotswap.training.methods.layers import Layer, find_targets, published_rank
from hotswap.training.methods.loading import lora_config, with_lora
from hotswap.training.spec import TrainingSpec

_FLOAT32_BYTES = 4
# NF4 with double-quantized scales: 4 bits, an 8-bit scale for each 64 weights, and a float32 for
# each 256 scales (Dettmers et al. 2023, section 3).
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at a run's highest point, besides what Python and the libraries take.

    `weights` are the base's and those that train, in the run's dtype; `optimizer` is the float32
    originals and AdamW's two moments; `gradients` one pass's and their float32 sum; `activations`
    what the longest pass keeps for its backward pass; `logits` one chunk of them with its gradient;
    `kept` copies of trained weights; `publishing` the untouched base that some methods load again
    when they are done, when gradients and activations are gone.
    """

    weights_bytes: int
    optimizer_bytes: int
    gradients_bytes: int
    activations_bytes: int
    logits_bytes: int
    kept_bytes: int
    publishing_bytes: int

    @property
    def peak_bytes(self) -> int:
        resting = self.weights_bytes + self.optimizer_bytes + self.kept_bytes
        passing = self.gradients_bytes + self.activations_bytes + self.logits_bytes
        return resting + max(passing, self.publishing_bytes)


@dataclass(frozen=True, slots=True)
class Plan:
    """The adapted layers, the rank that is published, and what trains."""

    layers: tuple[Layer, ...]
    r: int
    num_model: int
    num_trainable: int
    memory: Memory

    @property
    def num_adapted(self) -> int:
        """Σ w · k over the adapted layers."""
        return sum(layer.num_weights for layer in self.layers)

    @property
    def num_published(self) -> int:
        """Σ r · (k + w), without DoRA's magnitudes."""
        return sum(layer.num_lora(self.r) for layer in self.layers)


def make_plan(base: BaseDirectory, spec: TrainingSpec, rows: Sequence[Row]) -> Plan:
    """What training on `rows` by this spec will need."""
    targets = find_targets(base, spec)
    model = _meta_model(base, spec, max((len(row.ids) for row in rows), default=0))
    num_model = sum(parameter.numel() for parameter in model.parameters())
    trained = _prepared(model, spec, {f"{layer.name}.weight" for layer in targets.layers})
    num_trainable = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    num_adapted = sum(layer.num_weights for layer in targets.layers)
    return Plan(
        layers=targets.layers,
        r=published_rank(spec),
        num_model=num_model,
        num_trainable=num_trainable,
        memory=_memory(
            spec, num_model, num_adapted, num_trainable, _pass_bytes(trained, spec, rows)
        ),
    )


def _memory(
    spec: TrainingSpec,
    num_model: int,
    num_adapted: int,
    num_trainable: int,
    in_pass: tuple[int, int],
) -> Memory:
    size = getattr(torch, spec.dtype).itemsize
    packed = num_adapted if spec.method == "qlora" else 0
    base_bytes = int((num_model - packed) * size + packed * _NF4_BYTES)
    added = 0 if spec.method == "full" else num_trainable
    copies = 2 if spec.method in ("pissa", "olora") else 1  # the first factors, the best checkpoint
    loads_again = spec.method not in ("lora", "dora")
    return Memory(
        weights_bytes=base_bytes + added * size,
        optimizer_bytes=3 * _FLOAT32_BYTES * num_trainable,
        gradients_bytes=(size + _FLOAT32_BYTES) * num_trainable,
        activations_bytes=in_pass[0],
        logits_bytes=in_pass[1],
        kept_bytes=copies * num_trainable * size,
        publishing_bytes=num_model * size if loads_again else 0,
    )


def _meta_model(base: BaseDirectory, spec: TrainingSpec, longest_row: int) -> Any:
    config = AutoConfig.from_pretrained(base.path)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=getattr(torch, spec.dtype), attn_implementation=attention_for(longest_row)
        )
    return model


def _prepared(model: Any, spec: TrainingSpec, names: set[str]) -> nn.Module:
    """The model with the parameters that train, all in the run's dtype."""
    if spec.method == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        prepared: nn.Module = model
        return prepared
    with torch.device("meta"):
        adapted = with_lora(model, lora_config(spec))
    return adapted.to(getattr(torch, spec.dtype))


def _pass_bytes(model: nn.Module, spec: TrainingSpec, rows: Sequence[Row]) -> tuple[int, int]:
    """Activations and logits of the largest pass."""
    if not rows:
        return 0, 0
    largest = largest_pass(rows, spec)
    shape = (len(largest), max(len(row.ids) for row in largest))
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    with FakeTensorMode():
        _leave_meta(model)
        ids = torch.zeros(shape, dtype=torch.long)
        activations = saved_bytes(lambda: inner.base_model(input_ids=ids, use_cache=False), model)
    num_logits = min(LOGIT_CHUNK, sum(row.num_supervised for row in largest))
    vocabulary = inner.get_output_embeddings().weight.shape[0]
    # As made, as float32, and the gradients of both.
    size = 2 * (getattr(torch, spec.dtype).itemsize + _FLOAT32_BYTES)
    return activations, num_logits * vocabulary * size


def largest_pass(rows: Sequence[Row], spec: TrainingSpec) -> list[Row]:
    """The rows of the first epoch's pass with the most padded tokens."""
    passes = (
        part
        for batch in batches(rows, spec.batch_size, seed=spec.seed, epoch=0)
        for part in micro_batches(batch, spec.micro_batch_tokens)
    )
    return max(passes, key=lambda part: len(part) * max(len(row.ids) for row in part))


def _leave_meta(model: nn.Module) -> None:
    """Put the model's tensors on the (fake) CPU, whose kernels keep other tensors than meta's."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        held: Any
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = moved.setdefault(id(tensor), _on_cpu(tensor))


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def saved_bytes(run: Callable[[], object], model: nn.Module) -> int:
    """The bytes that autograd keeps of `run` for the backward pass, the model's own tensors left
    out; a storage that is kept twice counts once."""
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, torch.Tensor] = {}  # keeps the storages alive, so that no address comes again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in own:
            seen.setdefault(_storage(tensor), tensor)
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    del kept
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
