"""Any causal language model of transformers, through its own modelling code: its linear layers
become quantized ones with the adapters' slots beside them, and its cache is paged.

Sequences run one after the other, so a row's bits cannot depend on its neighbours, whatever the
family's code does with a batch. That is right before it is fast: a step reads the base once for
each of its sequences. `models.llama` and the native kernels read it once.
"""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hotswap.serving.adapters.lora import (
    LoraPlan,
    LoraRoom,
    LoraSlots,
    LoraWeights,
    check_fit,
    dora_factor,
)
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseNotFound
from hotswap.serving.models.paged_cache import PagedCache
from hotswap.serving.models.step import (
    AdapterRows,
    Segment,
    StepInput,
    StepOutput,
    reachable_positions,
    spare_pages_of,
)
from hotswap.serving.quantization import Linear, make_linear
from hotswap.serving.settings import Quantization

_TRIAL = (7, 3, 11, 5, 2, 13, 3, 17)
_TRIAL_DISTANCE = {torch.float32: 0.01, torch.bfloat16: 0.1}
"""How far a prompt's logits may be off when it is read in two parts (relative, by compute type)."""


class _ReplacedLinear(nn.Module):
    """Takes the place of a linear layer. `lora` is set before each sequence's rows."""

    def __init__(
        self, linear: Linear, bias: Tensor | None, slots: LoraSlots | None, weight: Tensor
    ) -> None:
        super().__init__()
        self._linear = linear
        self._added = bias
        self.slots = slots
        self.lora: Sequence[LoraPlan] = ()
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        # Some families' code asks the weight for its type. What multiplies with it gets NaN, so
        # that a layer whose product is not made here cannot go unnoticed.
        self.weight = torch.full((), torch.nan, dtype=weight.dtype, device=weight.device).expand(
            weight.shape
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = self._linear(rows)
        if self.slots is not None:
            for plan in self.lora:
                self.slots.add(plan, rows, y)
        if self._added is not None:
            y.add_(self._added)  # behind the adapters: DoRA does not scale it
        return y.view(*x.shape[:-1], -1)

    def used_weight(self) -> Tensor:
        """The base's (out, in) as it is used: what the layer makes of each feature alone."""
        one_each = torch.eye(self.in_features, dtype=self.weight.dtype, device=self.weight.device)
        return self._linear(one_each).T


class Generic:
    """Implements Model. Invariant: what a sequence's rows compute depends on its own tokens and
    adapters and on where its prompt is cut."""

    is_cut_invariant = False
    keys_per_row = math.inf

    def __init__(
        self,
        base: BaseDirectory,
        quantization: Quantization,
        dtype: torch.dtype,
        room: LoraRoom,
        *,
        num_pages: int,
        max_rows: int,
        num_threads: int = 1,
    ) -> None:
        """Raises BaseNotFound when transformers has no causal language model for the directory, or
        one that keeps more about a sequence than keys and values."""
        self.room = room
        self._num_threads = num_threads
        self.max_rows = max_rows
        self._model = model = _load(base, dtype)
        known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        reachable = reachable_positions(num_pages)
        self.max_positions = min(known or reachable, reachable)
        self.spare_pages = spare_pages_of(num_pages, self.max_positions)
        self._cache = PagedCache(self.spare_pages.stop)
        self._linears = _replace_linears(model, quantization, dtype, room)
        self.modules = frozenset(self._linears)
        model.to(room.device)
        accepted = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self._takes_positions = "position_ids" in accepted
        self._keeps_some_logits = "logits_to_keep" in accepted
        self._try_out(base)

    def attach(self) -> None:
        """As in Llama: only the engine's thread computes on several cores."""
        torch.set_num_threads(self._num_threads)

    @torch.inference_mode()
    def prepare(self, adapter: LoraWeights) -> LoraWeights:
        factors = {}
        for name, (a, b) in adapter.modules.items():
            linear = self._linears[name]
            check_fit(name, a, b, linear.in_features, linear.out_features)
            if name in adapter.magnitudes:
                weight = linear.used_weight().cpu()
                factors[name] = dora_factor(weight, a, b, adapter.magnitudes[name])
        return adapter.prepared(self.room.dtype, factors)

    @torch.inference_mode()
    def load(self, slot: int, prepared: LoraWeights) -> None:
        for linear in self._linears.values():
            assert linear.slots is not None
            linear.slots.load(slot, prepared)

    @torch.inference_mode()
    def forward(self, step: StepInput) -> StepOutput:
        by_row: dict[int, Tensor] = {}
        for segment in step.segments:
            rows = range(segment.start, segment.end)
            wanted = [row for row in step.wanted if row in rows]
            token_ids = step.token_ids[segment.start : segment.end]
            logits = self._run(token_ids, segment, step.adapters, wanted)
            by_row |= zip(wanted, logits, strict=True)
        logits = torch.stack([by_row[row] for row in step.wanted]) if by_row else torch.empty(0, 1)
        return StepOutput(logits.float().cpu(), logits.argmax(-1).tolist())

    def _run(
        self,
        token_ids: Sequence[int],
        segment: Segment,
        adapters: Sequence[AdapterRows],
        wanted: Sequence[int],
    ) -> Tensor:
        """One sequence's rows; the logits (num_wanted, vocab)."""
        num_rows = segment.end - segment.start
        self._set_lora(segment, adapters)
        device = self.room.device
        self._cache.turn_to(segment, device)
        arguments: dict[str, Any] = {self._cache_name: self._cache, "use_cache": True}
        if self._takes_positions:
            positions = torch.arange(num_rows, device=device) + segment.position
            arguments["position_ids"] = positions[None]
        # Of no rows at all some families' code cannot make logits: the last row's are left out.
        kept = [row - segment.start for row in wanted] or [num_rows - 1]
        rows = torch.tensor(kept, device=device)
        if self._keeps_some_logits:
            arguments["logits_to_keep"] = rows
        ids = torch.tensor([list(token_ids)], device=device)
        logits: Tensor = self._model(input_ids=ids, **arguments).logits[0]
        return (logits if self._keeps_some_logits else logits[rows])[: len(wanted)]

    def _set_lora(self, segment: Segment, adapters: Sequence[AdapterRows]) -> None:
        start, end = segment.start, segment.end
        lora = LoraPlan.all_of(
            [(0, end - start)],
            [
                (rows.slot, max(rows.start, start) - start, min(rows.end, end) - start, rows.scale)
                for rows in adapters
                if rows.start < end and rows.end > start
            ],
            self.room.device,
        )
        for linear in self._linears.values():
            linear.lora = lora

    @torch.inference_mode()
    def _try_out(self, base: BaseDirectory) -> None:
        """A prompt in two parts, with another sequence between them, must give what the whole
        gives without any cache."""
        kind = self._model.config.model_type
        vocab = self._model.config.get_text_config().vocab_size
        ids = [token_id % vocab for token_id in _TRIAL]
        pages, others = array("i", self.spare_pages[:1]), array("i", self.spare_pages[1:2])
        cut = len(ids) // 2
        try:
            self._set_lora(Segment(0, len(ids), 0, pages), [])
            tensor = torch.tensor([ids], device=self.room.device)
            whole = self._model(input_ids=tensor, use_cache=False).logits[0]
            rows = range(cut)
            first = self._run(ids[:cut], Segment(0, cut, 0, pages), [], rows)
            self._run(ids[:0:-1][:cut], Segment(0, cut, 0, others), [], rows)
            second = self._run(ids[cut:], Segment(0, cut, cut, pages), [], rows)
        except Exception as error:  # whatever the family's own code meets
            raise BaseNotFound(
                f"base {base.model_id!r} (of type {kind}) does not run on quantized layers and a "
                f"paged cache: {type(error).__name__}: {str(error)[:200]}"
            ) from error
        distance = float((torch.cat([first, second]) - whole).norm() / whole.norm())
        if not distance <= _TRIAL_DISTANCE[whole.dtype]:
            raise BaseNotFound(
                f"base {base.model_id!r} (of type {kind}) answers otherwise when its prompt is "
                f"read in parts beside others (off by {distance:.3f}): it keeps more than keys and "
                "values, is not causal, or multiplies with its weights by itself"
            )


def _load(base: BaseDirectory, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype)
    except ValueError as error:
        raise BaseNotFound(
            f"base {base.model_id!r}: transformers has no causal language model for it: {error}"
        ) from error
    if model._is_stateful:
        kind = model.config.model_type
        raise BaseNotFound(
            f"base {base.model_id!r} (of type {kind}) keeps a state beside keys and values, which "
            "pages cannot hold; choose a model with attention in all layers"
        )
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    return model


def _replace_linears(
    model: Any, quantization: Quantization, dtype: torch.dtype, room: LoraRoom
) -> dict[str, _ReplacedLinear]:
    """Put ours in the place of every linear layer; those that adapters may change, by name.

    The head is left out of these, as by PEFT's `all-linear`, and is quantized to int8 at most.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    head_quantization = (
        Quantization.INT8
        if quantization in (Quantization.INT8, Quantization.INT4)
        else Quantization.NONE
    )
    adapted = {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        stored = module.weight.data.to(room.device)
        weight = stored.T if isinstance(module, Conv1D) else stored  # (out, in)
        bias = None if module.bias is None else module.bias.data.to(room.device)
        chosen = head_quantization if module is head else quantization
        linear = make_linear(weight.contiguous(), None, chosen, dtype)
        slots = None if module is head else _slots(name, weight, room)
        ours = _ReplacedLinear(linear, None if bias is None else bias.to(dtype), slots, weight)
        model.set_submodule(name, ours)
        if slots is not None:
            adapted[name] = ours
    return adapted


def _slots(name: str, weight: Tensor, room: LoraRoom) -> LoraSlots:
    return LoraSlots(
        weight.shape[1],
        [(name, weight.shape[0])],
        num_slots=room.num_slots,
        max_rank=room.max_rank,
        dtype=room.dtype,
        device=room.device,
    )
