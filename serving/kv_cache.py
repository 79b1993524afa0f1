"""Keys and values of the running sequences: one contiguous block a sequence, sized at admission."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KvShape:
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype


class KvCache:
    """Blocks by sequence id. The scheduler counts the room; this only holds the tensors."""

    def __init__(self, shape: KvShape) -> None:
        self.shape = shape
        self._blocks: dict[int, Tensor] = {}

    def block(self, sequence_id: int, num_tokens: int) -> Tensor:
        """(num_layers, 2, num_kv_heads, num_tokens, head_dim); made at the first call.

        Not zeroed: pages that are never written cost no memory.
        """
        block = self._blocks.get(sequence_id)
        if block is None:
            shape = self.shape
            block = torch.empty(
                shape.num_layers,
                2,
                shape.num_kv_heads,
                num_tokens,
                shape.head_dim,
                dtype=shape.dtype,
            )
            self._blocks[sequence_id] = block
        return block

    def release(self, sequence_id: int) -> None:
        self._blocks.pop(sequence_id, None)
