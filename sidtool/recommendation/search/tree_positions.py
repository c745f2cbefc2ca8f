"""Positions of tree tokens in decoders that derive them from a token's place in the sequence.

T5 computes its relative position bias, and BART its learned positions, from the length of the
cache, so tokens of a tree that are at the same depth would get different ones. Here both follow
from the depth of a token in its tree."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch


class TreePositions:
    """What a decoder computes positions with: relative biases and position embeddings.

    A decoder that has neither (rotary embeddings) reads `position_ids` instead."""

    def __init__(self, decoder: Any) -> None:
        modules = list(decoder.named_modules())
        self._biases = [
            module for _, module in modules if getattr(module, "has_relative_attention_bias", False)
        ]
        self._embeddings = [
            module
            for name, module in modules
            if name.rpartition(".")[2] == "embed_positions"
            and "position_ids" in inspect.signature(module.forward).parameters
        ]

    @contextmanager
    def at(self, depths: Sequence[int], key_depths: Sequence[int]) -> Iterator[None]:
        """Run the decoder on q tokens at `depths`, which attend to k tokens at `key_depths`."""
        if not self._biases and not self._embeddings:
            yield
            return
        device = next((self._biases + self._embeddings)[0].parameters()).device
        size = max(key_depths) + 1
        queries = torch.tensor(depths, device=device)
        keys = torch.tensor(key_depths, device=device)
        for module in self._biases:
            module.compute_bias = partial(_bias, module.compute_bias, size, queries, keys)
        for module in self._embeddings:
            module.forward = partial(_embedded, module.forward, queries)
        try:
            yield
        finally:
            for module in self._biases:
                del module.compute_bias
            for module in self._embeddings:
                del module.forward

    @contextmanager
    def in_recomputation(self, network: Any, depths: Sequence[int]) -> Iterator[None]:
        """Let layers that the forward pass of `network` checkpoints run at these depths again when
        the backward pass recomputes them."""
        recompute = partial(self.at, depths, depths)
        layers = [
            layer
            for layer in network.modules()
            if getattr(layer, "gradient_checkpointing", False)
            and "_gradient_checkpointing_func" in layer.__dict__
        ]
        functions = [layer._gradient_checkpointing_func for layer in layers]
        for layer, function in zip(layers, functions, strict=True):
            layer._gradient_checkpointing_func = partial(
                function, context_fn=lambda: (nullcontext(), recompute())
            )
        try:
            yield
        finally:
            for layer, function in zip(layers, functions, strict=True):
                layer._gradient_checkpointing_func = function


def _bias(
    compute: Callable[..., torch.Tensor],
    size: int,
    depths: torch.Tensor,
    key_depths: torch.Tensor,
    *_: Any,
    **__: Any,
) -> torch.Tensor:
    """(1, heads, queries, keys): the bias between tokens at (q,) and (k,) depths below `size`, by
    the model's own function of a sequence, whatever sequence the model asked it for."""
    of_sequence = compute(size, size)  # (1, heads, size, size)
    return of_sequence[:, :, depths][..., key_depths]


def _embedded(
    embed: Callable[..., torch.Tensor], depths: torch.Tensor, *arguments: Any, **others: Any
) -> torch.Tensor:
    """The position embeddings of (q,) depths, in place of those the model asked for."""
    return embed(*arguments, **{**others, "position_ids": depths})
