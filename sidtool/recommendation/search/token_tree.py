"""Tree attention: many continuations of a prompt in one row, over one cache that is never copied.

A step appends W tokens to the row of each prompt, all at the same position; a mask lets each attend
to the prompt and its own ancestors (tree attention of SpecInfer, Miao et al., 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

from sidtool.model.network import is_encoder_decoder
from sidtool.recommendation.search.architectures import (
    EncodedPrompts,
    additive_masks,
    attention_windows,
    cache_name,
)
from sidtool.recommendation.search.partial_head import DecodingHead, swap_modules

SHARED_MIN = 16
"""A start that all prompts of a batch share is prefilled once if it has this many tokens."""

_ONLY_AT_ENDS = ("q_proj", "o_proj", "mlp")
"""Modules of the last layer that a prefill runs at each prompt's end only: of that layer's result
nothing else is used, and later tokens attend to its keys and values, which no query changes."""


class TokenTree:
    """One batch of prompts, which a causal model reads, or the encoder of an encoder-decoder, and
    the trees that grow on them.

    Call `prefill` first, then `step` level by level; `rewind` drops the trees and keeps the
    prompts. `capacity` is the largest number of tree tokens per prompt."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, capacity: int, head: DecodingHead
    ) -> None:
        if is_encoder_decoder(model):
            model = EncodedPrompts(model, prompts)
            prompts = model.starts
        self._base = model.base_model
        self._head = head
        self._device = model.device
        self._dtype = model.dtype  # transformers looks it up among all parameters
        self._cache_name = cache_name(self._base)
        self._windows = attention_windows(model.config)
        self._prompts = prompts
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self._longest = max(len(prompt) for prompt in prompts)
        width = self._longest + capacity
        self._cache = Cache(layers=[_PreallocatedLayer(len(prompts), width) for _ in self._windows])
        positions = torch.arange(self._longest, device=self._device)
        self._key_positions = positions.expand(len(prompts), -1)  # (batch, keys)
        # (batch, beams, keys): what the token of each beam attends to
        self._visible = (positions < self._lengths[:, None]).unsqueeze(1)
        self._depth = 0

    def prefill(self) -> torch.Tensor:
        """(batch, 1, dim): the hidden state of each prompt's last token."""
        prefix_length = 0
        if len(self._prompts) > 1:
            # the lexicographically first and last prompt differ where any two do
            lowest, highest = min(map(tuple, self._prompts)), max(map(tuple, self._prompts))
            # the last token of each prompt is read with its suffix
            limit = min(len(prompt) for prompt in self._prompts) - 1
            pairs = enumerate(zip(lowest, highest, strict=False))
            prefix_length = next((place for place, (one, other) in pairs if one != other), limit)
            prefix_length = min(prefix_length, limit)
        if prefix_length < SHARED_MIN:
            prefix_length = 0
        else:
            prefix = torch.tensor([self._prompts[0][:prefix_length]], device=self._device)
            self._forward(prefix, None, None)
        suffixes = [list(prompt[prefix_length:]) for prompt in self._prompts]
        longest = self._longest - prefix_length
        # padded on the right, where causal attention hides the padding from every real token
        padded = [suffix + suffix[-1:] * (longest - len(suffix)) for suffix in suffixes]
        ids = torch.tensor(padded, device=self._device)
        positions = torch.arange(prefix_length, self._longest, device=self._device).unsqueeze(0)
        rows = torch.arange(len(ids), device=self._device)
        last = self._lengths - prefix_length - 1
        modules = self._base.named_modules() if longest > 1 else ()
        # the last of each name, which is that of the last layer
        inner = {name.rpartition(".")[2]: module for name, module in modules}
        at_ends = [inner[name] for name in _ONLY_AT_ENDS if name in inner]
        base = swap_modules(self._base, {module: _OnlyAt(module, rows, last) for module in at_ends})
        return self._forward(ids, positions, None, base)[rows, last].unsqueeze(1)

    def step(self, ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Append (batch, beams) token ids, or chains of n tokens (batch, beams, n) -> the hidden
        states of the last tokens, (batch, beams, dim).

        `parents` (batch, beams) is the index, within the step before, of the token (of a chain:
        the last one) that each extends; in the first step all extend the prompt, index 0."""
        batch, beams = parents.shape
        chain = 1 if ids.ndim == 2 else ids.shape[2]
        keys = self._visible.shape[-1]
        # (batch, beams, keys): what the parent of each token or chain attends to
        ancestors = self._visible.gather(1, parents.unsqueeze(-1).expand(-1, -1, keys))
        same_chain = torch.eye(beams, dtype=torch.bool, device=self._device)
        if chain > 1:
            ancestors = ancestors.repeat_interleave(chain, dim=1)
            not_later = torch.ones(chain, chain, dtype=torch.bool, device=self._device).tril()
            # (beams * chain, beams * chain): itself, and the tokens before it in its chain
            same_chain = torch.kron(same_chain, not_later)
        # (batch, beams * chain, keys + beams * chain)
        visible = torch.cat([ancestors, same_chain.expand(batch, -1, -1)], dim=-1)
        depths = self._depth + torch.arange(chain, device=self._device)
        positions = (self._lengths[:, None] + depths).repeat(1, beams)  # (batch, beams * chain)
        self._key_positions = torch.cat([self._key_positions, positions], dim=1)
        self._depth += chain
        # tokens that are all at one position share their distances
        distances = positions[:, :1] if chain == 1 else positions
        distances = distances.unsqueeze(2) - self._key_positions.unsqueeze(1)
        mask = additive_masks(self._windows, visible, distances, self._dtype)
        self._visible = visible[:, chain - 1 :: chain]  # what the next tokens attend to
        return self._forward(ids.reshape(batch, -1), positions, mask)[:, chain - 1 :: chain]

    def prune(self) -> None:
        """Drop the tokens that no beam of the last step attends to, so that later steps do not
        either. The keys of a row may then be of any depth, so only a causal model is pruned."""
        is_single = self._visible.shape[1] == 1  # it attends to every token
        if is_single or isinstance(self._base, EncodedPrompts):
            return
        is_used = self._visible[..., self._longest :].any(1)  # (batch, tree tokens)
        n_used = int(is_used.sum(1).max())
        used_positions = (
            is_used.int().argsort(dim=1, descending=True, stable=True)[:, :n_used] + self._longest
        )
        for layer in self._cache.layers:
            layer.select(used_positions, self._longest)
        prompt = torch.arange(self._longest, device=self._device).expand(len(used_positions), -1)
        used_positions = torch.cat([prompt, used_positions], dim=1)
        self._key_positions = self._key_positions.gather(1, used_positions)
        beams = self._visible.shape[1]
        self._visible = self._visible.gather(2, used_positions.unsqueeze(1).expand(-1, beams, -1))

    def rewind(self) -> None:
        """Drop the trees: the next step extends the prompts."""
        for layer in self._cache.layers:
            layer.length = self._longest
        self._key_positions = self._key_positions[:, : self._longest]
        self._visible = (self._key_positions < self._lengths[:, None]).unsqueeze(1)
        self._depth = 0

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor | None, mask: Any, base: Any = None
    ) -> torch.Tensor:
        output = (base or self._base)(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            return_dict=True,
            **{self._cache_name: self._cache},
        )
        self._head.given.output = output
        return output.last_hidden_state


class _OnlyAt(nn.Module):
    """A position-wise module that is run at one position per row; elsewhere the result is zero."""

    def __init__(self, inner: Any, rows: torch.Tensor, positions: torch.Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.rows = rows
        self.positions = positions

    def forward(self, hidden: torch.Tensor, *others: Any, **named: Any) -> Any:
        if hidden.ndim != 3 or others or named:  # not (batch, tokens, dim) alone
            return self.inner(hidden, *others, **named)
        result = self.inner(hidden[self.rows, self.positions].unsqueeze(1))
        if not isinstance(result, torch.Tensor):  # experts that return their routing too
            return self.inner(hidden)
        # under autocast the result's dtype differs from that of the input
        out = result.new_zeros(*hidden.shape[:-1], result.shape[-1])
        out[self.rows, self.positions] = result.squeeze(1)
        return out


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer with space for the trees to come: a step writes in place and
    copies nothing.

    Keys of a single row are written for all rows: the start that all prompts share."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = rows
        self.width = width
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype = key_states.dtype
        self.device = key_states.device
        self.keys, self.values = (
            states.new_empty(self.rows, states.shape[1], self.width, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = len(key_states)
        stop = self.length + key_states.shape[2]
        self.keys[:, :, self.length : stop] = key_states
        self.values[:, :, self.length : stop] = value_states
        self.length = stop
        return self.keys[:rows, :, :stop], self.values[:rows, :, :stop]

    def select(self, positions: torch.Tensor, start: int) -> None:
        """Of the tokens from `start` on, keep those at (rows, n) places."""
        stop = start + positions.shape[1]
        for states in (self.keys, self.values):
            _, heads, _, dim = states.shape
            places = positions[:, None, :, None].expand(-1, heads, -1, dim)
            states[:, :, start:stop] = states.gather(2, places)
        self.length = stop

    def get_seq_length(self, *_: Any) -> int:
        return self.length
