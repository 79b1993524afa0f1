"""transformers' cache over our pages: keys and values of all sequences in one place a layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from hotswap.serving.engine.pages import PAGE, num_pages_of
from hotswap.serving.models.step import Segment


class _Turn:
    """Whose turn it is: where the current sequence's keys stand, and from where on they are new."""

    def __init__(self) -> None:
        self.position = 0
        self.places = torch.empty(0, dtype=torch.int64)


class _PagedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values (heads, places, features), of the current turn as a whole."""

    is_sliding = False

    def __init__(self, turn: _Turn, num_places: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._turn = turn
        self._num_places = num_places

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Not zeroed: pages that are never written cost no memory.
        self.keys, self.values = (
            states.new_empty(states.shape[1], self._num_places, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes the new rows' (1, heads, num_rows, features), gives those of all rows so far."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        places = self._turn.places
        new = places[self._turn.position :]
        self.keys[:, new], self.values[:, new] = key_states[0], value_states[0]
        return self.keys[None, :, places], self.values[None, :, places]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._turn.position + query_length, 0

    def get_seq_length(self) -> int:
        return self._turn.position

    def get_max_length(self) -> int:
        return -1


class PagedCache(Cache):
    """One sequence at a time, that of the last `turn_to`. Windows are in the masks: every layer
    gives all keys."""

    def __init__(self, num_pages: int) -> None:
        self._turn = _Turn()
        super().__init__(
            layer_class_to_replicate=partial(_PagedLayer, self._turn, num_pages * PAGE)  # type: ignore[arg-type]
        )

    def turn_to(self, segment: Segment, device: torch.device) -> None:
        end = segment.position + segment.end - segment.start
        pages = torch.tensor(segment.pages[: num_pages_of(end)], device=device)
        places = (pages[:, None] * PAGE + torch.arange(PAGE, device=device)).flatten()
        self._turn.places = places[:end]
        self._turn.position = segment.position
