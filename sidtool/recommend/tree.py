"""Tree attention: many continuations of a prompt in one row, over one cache that is never copied.

Knows prompts, token trees and what a transformer's forward needs to run them; knows nothing of
semantic IDs, tries or scores. A step appends W tokens to the row of each prompt, all at the same
position; a mask lets each see the prompt and its own ancestors. The method is the tree attention of
SpecInfer (Miao et al., 2023)."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

from sidtool.recommend.partial_head import Head, swap

SHARED_MIN = 16
"""A start that all prompts of a batch share is prefilled once if it has this many tokens."""


class Unsupported(Exception):
    """The model's layers are not plain or sliding attention, so a mask cannot steer them."""


class TreeRun:
    """One batch of prompts and the trees that grow on them.

    `prefill` first, then `step` level by level; `rewind` drops the trees and keeps the prompts.
    `room` is the number of tree tokens a prompt that will be appended at most."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, room: int, head: Head
    ) -> None:
        self._base, self._head, self._device = model.base_model, head, model.device
        self._cache_name = cache_name(self._base)
        self._windows = attention_windows(model.config)
        self._prompts = prompts
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self._longest = max(len(prompt) for prompt in prompts)
        self._cache = Cache(
            layers=[_RoomyLayer(len(prompts), self._longest + room) for _ in self._windows]
        )
        at = torch.arange(self._longest, device=self._device)
        self._key_positions = at.expand(len(prompts), -1)  # (batch, keys)
        self._visible = (at < self._lengths[:, None]).unsqueeze(
            1
        )  # (batch, beams, keys): what each beam's token sees
        self._depth = 0

    def prefill(self) -> torch.Tensor:
        """(batch, 1, dim): the hidden state of each prompt's last token."""
        shared = _shared_start(self._prompts)
        if shared:
            self._forward(
                torch.tensor([self._prompts[0][:shared]], device=self._device), None, None
            )
        rest = [list(prompt[shared:]) for prompt in self._prompts]
        longest = self._longest - shared
        # padded on the right, where causal attention hides it from every real token
        ids = torch.tensor(
            [row + row[-1:] * (longest - len(row)) for row in rest], device=self._device
        )
        positions = torch.arange(shared, self._longest, device=self._device).unsqueeze(0)
        rows = torch.arange(len(ids), device=self._device)
        last = self._lengths - shared - 1
        base = _only_last_in_last_mlp(self._base, rows, last)
        return self._forward(ids, positions, None, base)[rows, last].unsqueeze(1)

    def step(self, ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Append (batch, beams) token ids, each below the token at `parents` of the step before ->
        (batch, beams, dim).

        On the first step the parent of all is the prompt, at place 0.
        """
        batch, beams = ids.shape
        seen = self._visible.gather(
            1, parents.unsqueeze(-1).expand(-1, -1, self._visible.shape[-1])
        )
        itself = torch.eye(beams, dtype=torch.bool, device=self._device).expand(batch, -1, -1)
        self._visible = torch.cat([seen, itself], dim=-1)  # (batch, beams, keys + beams)
        here = (self._lengths + self._depth).unsqueeze(1)  # (batch, 1)
        self._key_positions = torch.cat([self._key_positions, here.expand(-1, beams)], dim=1)
        self._depth += 1
        return self._forward(ids, here.expand(-1, beams), self._masks(here))

    def rewind(self) -> None:
        """Forget the trees: the next step continues the prompts."""
        for layer in self._cache.layers:
            layer.length = self._longest
        self._visible = (
            self._key_positions[:, : self._longest] < self._lengths[:, None]
        ).unsqueeze(1)
        self._key_positions = self._key_positions[:, : self._longest]
        self._depth = 0

    def _masks(self, here: torch.Tensor) -> Any:
        """The mask of this step, (batch, 1, beams, keys) additive: one for all layers, or one per
        kind of layer."""
        masks = {}
        for window in set(self._windows):
            seen = self._visible
            if window is not None:
                seen = seen & (here - self._key_positions < window).unsqueeze(1)
            kind = "full_attention" if window is None else "sliding_attention"
            zero = torch.zeros((), dtype=self._base.dtype, device=self._device)
            masks[kind] = torch.where(seen, zero, torch.finfo(zero.dtype).min).unsqueeze(1)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor | None, mask: Any, base: Any = None
    ) -> torch.Tensor:
        kwargs = {self._cache_name: self._cache, "use_cache": True, "return_dict": True}
        output = (base or self._base)(
            input_ids=ids, position_ids=positions, attention_mask=mask, **kwargs
        )
        self._head.attach(output)
        return output.last_hidden_state


class _OnlyAt(nn.Module):
    """A module that works position by position, run at one position a row; everywhere else the
    result is zero."""

    def __init__(self, inner: Any, rows: torch.Tensor, at: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.rows, self.at = inner, rows, at

    def forward(self, hidden: torch.Tensor) -> Any:
        found = self.inner(hidden[self.rows, self.at].unsqueeze(1))
        if not isinstance(found, torch.Tensor):  # experts that return their routing too
            return self.inner(hidden)
        out = found.new_zeros(
            *hidden.shape[:-1], found.shape[-1]
        )  # under autocast its type is not that of what came in
        out[self.rows, self.at] = found.squeeze(1)
        return out


def _only_last_in_last_mlp(base: Any, rows: torch.Tensor, last: torch.Tensor) -> Any:
    """The base model, with the last layer's feed-forward run only where its result is used: at each
    prompt's end.

    That spares a prefill about three quarters of a layer. A model without one that is called `mlp`
    stays as it is."""
    found = [module for name, module in base.named_modules() if name.rpartition(".")[2] == "mlp"]
    return swap(base, found[-1], _OnlyAt(found[-1], rows, last)) if found else base


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer with room for the trees to come: appending writes in place,
    nothing is copied.

    A row of one is written for all rows: that is the start that all prompts share.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows, self.capacity, self.length = rows, capacity, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_empty(self.rows, states.shape[1], self.capacity, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, new = len(key_states), slice(self.length, self.length + key_states.shape[2])
        self.keys[:, :, new], self.values[:, :, new] = key_states, value_states
        self.length = new.stop
        return self.keys[:rows, :, : self.length], self.values[:rows, :, : self.length]

    def get_seq_length(self, *_: Any) -> int:
        return self.length


def attention_windows(config: Any) -> list[int | None]:
    """The sliding window of each layer, None where it sees everything. Raises Unsupported on other
    kinds of layer."""
    config = config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = [
            "full_attention" if window is None else "sliding_attention"
        ] * config.num_hidden_layers
    if not set(kinds) <= {"full_attention", "sliding_attention"} or getattr(
        config, "attention_chunk_size", None
    ):
        raise Unsupported(f"layers of kind {sorted(set(kinds))}")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def cache_name(base: Any) -> str:
    """What a model's forward calls its cache: transformers renamed `past_key_values` to `cache` in
    5.x."""
    return "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"


def _shared_start(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts start with, at most all but one of the shortest; 0 where it
    does not pay."""
    if len(prompts) == 1:
        return 0
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), limit)
    return min(shared, limit) if min(shared, limit) >= SHARED_MIN else 0
