"""What a token tree has to know of a model's architecture: the windows of its layers, the name of
its cache, and how its positions are computed. To a tree, the decoder of an encoder-decoder is a
causal model whose prompts are one token long.

`driver.decoding_method` compares a small tree with the model's own forward, and refuses a model for
which they differ: what it lacks belongs here, behind its head in `partial_head`, and in the masks
and cache layers of `token_tree`."""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from sidtool.model.network import decoder_start_id


def attention_windows(config: Any) -> list[int | None]:
    """The sliding window of each layer, None for full attention. Raises NotImplementedError for
    other kinds of layer, which a mask cannot steer."""
    config = config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    # GPT-Neo's local layers see the last tokens of the cache, wherever in the tree these are
    kinds = getattr(config, "layer_types", getattr(config, "attention_layers", None))
    if kinds is None:
        kind = "full_attention" if window is None else "sliding_attention"
        kinds = [kind] * config.num_hidden_layers
    supported = set(kinds) <= {"full_attention", "sliding_attention"}
    if not supported or getattr(config, "attention_chunk_size", None):
        raise NotImplementedError(f"layers of kind {sorted(set(kinds))}")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def additive_masks(
    windows: Sequence[int | None],
    visible: torch.Tensor,
    distances: torch.Tensor,
    dtype: torch.dtype,
) -> Any:
    """The additive mask of a forward pass, (batch, 1, queries, keys): one for all layers, or one
    per kind of layer.

    `visible` (batch, queries, keys) says which tokens attend to which, `distances` how many
    positions the key is before the query (it broadcasts), `windows` are those of the layers
    (`attention_windows`)."""
    masks = {}
    for window in set(windows):
        in_reach = visible if window is None else visible & (distances < window)
        kind = "full_attention" if window is None else "sliding_attention"
        zero = torch.zeros((), dtype=dtype, device=visible.device)
        masks[kind] = torch.where(in_reach, zero, torch.finfo(dtype).min).unsqueeze(1)
    return masks if len(masks) > 1 else next(iter(masks.values()))


PATCHING = threading.RLock()
"""Held while modules that threads may share have other functions, or must have their own."""


class TreePositions:
    """What a decoder is given of the tokens of a tree: their positions, and what they attend to.

    T5 computes its relative position bias, and BART its learned positions, from the length of the
    cache, so tokens of a tree that are at the same depth would get different ones. Here both follow
    from the depth. A decoder that has neither (rotary embeddings) reads `position_ids` instead."""

    def __init__(self, decoder: Any) -> None:
        self._windows = attention_windows(decoder.config)
        self._dtype = decoder.dtype
        modules = list(decoder.named_modules())
        self._biases = [
            module for _, module in modules if getattr(module, "has_relative_attention_bias", False)
        ]
        self._embeddings = [
            module
            for name, module in modules
            if name.rpartition(".")[2] == "embed_positions"
            and "position_ids" in inspect.signature(type(module).forward).parameters
        ]

    def mask(self, visible: torch.Tensor, distances: torch.Tensor) -> Any:
        """The mask of a forward pass. Arguments as `additive_masks`."""
        return additive_masks(self._windows, visible, distances, self._dtype)

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
        with PATCHING:
            for module in self._biases:
                module.compute_bias = partial(_bias, module.compute_bias, size, queries, keys)
            # the position embeddings of these depths, in place of those the model asked for
            for module in self._embeddings:
                embed = module.forward
                module.forward = lambda *args, embed=embed, **kwargs: embed(
                    *args, **{**kwargs, "position_ids": queries}
                )
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
    sequence_bias = compute(size, size)  # (1, heads, size, size)
    return sequence_bias[:, :, depths][..., key_depths]


class EncodedPrompts(nn.Module):
    """The decoder of an encoder-decoder model behind a batch of prompts.

    The prompts are encoded once, padded on the right. Keys and values of cross-attention are
    computed in the first forward pass, and all tokens of a prompt's tree share them."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.decoder = model.get_decoder()
        self.config = self.decoder.config
        self.device = model.device
        self.dtype = model.dtype
        self.starts = [[decoder_start_id(model)] for _ in prompts]
        ids, self._prompt_mask = padded(prompts, self.device)
        encoder = model.get_encoder()
        output = encoder(input_ids=ids, attention_mask=self._prompt_mask, return_dict=True)
        self._encoded = output.last_hidden_state  # (batch, longest, dim)
        self._positions = TreePositions(self.decoder)
        self._reads_positions = "position_ids" in _parameters(self.decoder)
        self._key_depths: list[int] = []
        self._both_caches: EncoderDecoderCache | None = None

    @property
    def base_model(self) -> Self:
        """Itself: there is no head."""
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: Any,
        cache: Cache,
        **options: Any,
    ) -> Any:
        """The decoder's output for (batch, n) token ids, whose depths are their positions, the same
        in each row; `cache` is that of the decoder's own keys and values."""
        if self._both_caches is None:
            self._both_caches = EncoderDecoderCache(cache, DynamicCache())
        # a cache that was cut has lost its deepest tokens
        del self._key_depths[cache.get_seq_length() :]
        depths = position_ids[0].tolist()
        self._key_depths += depths
        if self._reads_positions:
            options["position_ids"] = position_ids
        with self._positions.at(depths, self._key_depths):
            return self.decoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                encoder_hidden_states=self._encoded,
                encoder_attention_mask=self._prompt_mask,
                **{cache_name(self.decoder): self._both_caches},
                **options,
            )


def padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, longest) ids of prompts padded on the right with 0, where absolute positions stay
    right, and 1 for a token, 0 for padding."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
    mask = [[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def cache_name(base: Any) -> str:
    """The name of a model's cache argument: transformers renamed `past_key_values` to `cache` in
    5.x."""
    return "cache" if "cache" in _parameters(base) else "past_key_values"


def _parameters(module: Any) -> Mapping[str, Any]:
    return inspect.signature(module.forward).parameters
