"""Logits for some columns of the vocabulary and some positions, through everything that a model's
head does.

The model's forward runs with its output embedding narrowed to the requested parts, so bias,
soft-capping, logit scales and adapters apply as usual. Training uses `PartialHead`; beam search
uses `DecodingHead`, which turns hidden states into log-probabilities."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from sidtool.model.network import is_encoder_decoder
from sidtool.recommendation.search.architectures import PATCHING
from sidtool.recommendation.search.columns import Columns, part_of
from sidtool.recommendation.search.kernels import product
from sidtool.recommendation.search.results import Normalize

Part = tuple[torch.Tensor, Columns | None]
"""Positions (n,) int64 of the flattened batch, and the columns to compute there; None is all."""

SlicedPart = tuple[torch.Tensor | slice, Columns | None]
"""The same, or a slice of the flattened batch."""

CHUNK = 1 << 19
"""Logits computed together when a whole vocabulary is summed over: they fit a CPU's cache."""
CHUNK_FULL = 1 << 25
"""The same for a head that always computes the whole vocabulary."""

_BIAS = "final_logits_bias"


class PartialHead(nn.Module):
    """A model's output embedding, computed for the requested parts only.

    `column_logits(hidden, columns)` computes columns where that is not a product with part of the
    weight; `multiply` computes that product otherwise. A head that is not a plain linear layer (an
    adapter, a quantized layer) is computed whole and then sliced."""

    def __init__(
        self,
        model: Any,
        column_logits: Callable[[torch.Tensor, Columns], torch.Tensor] | None = None,
        *,
        multiply: Callable[..., torch.Tensor] = nn.functional.linear,
    ) -> None:
        super().__init__()
        self.head = model.get_output_embeddings()
        self._biased = [module for module in model.modules() if _BIAS in module._buffers]
        self._biases: list[torch.Tensor] = []  # outside of a list they would become buffers
        self._whole = self.head.forward
        # FSDP2 changes the class of the head later
        self.is_plain = type(self.head) is nn.Linear
        """whether columns cost no more than their share of the whole"""
        self._column_logits = column_logits
        self._multiply = multiply
        self._parts: Sequence[SlicedPart] | None = None
        self._shapes: list[torch.Size] = []

    def install(self) -> Self:
        """Narrow the model's own head, for good; outside of `blocks` it behaves as before."""
        self.head.forward = self.forward
        return self

    def blocks(
        self, run: Callable[[], torch.Tensor], parts: Sequence[SlicedPart]
    ) -> list[torch.Tensor]:
        """The logits of each part, (n, columns), by one call of `run`, the model's forward, which
        returns its logits."""
        self._parts = parts
        try:
            with self._adding_bias():
                numbers = run().flatten()
        finally:
            self._parts = None
        flat_blocks = numbers.split([shape.numel() for shape in self._shapes])
        return [block.view(shape) for block, shape in zip(flat_blocks, self._shapes, strict=True)]

    @contextmanager
    def _adding_bias(self) -> Iterator[None]:
        """Add the bias of a model that has one behind its head (BART) to the parts: the model
        would add that of the whole vocabulary."""
        if not self._biased:
            yield
            return
        with PATCHING:
            self._biases = [module._buffers[_BIAS] for module in self._biased]
            for module, bias in zip(self._biased, self._biases, strict=True):
                module._buffers[_BIAS] = bias.new_zeros(1, 1)
            try:
                yield
            finally:
                for module, bias in zip(self._biased, self._biases, strict=True):
                    module._buffers[_BIAS] = bias
                self._biases = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, length, dim) hidden states -> logits: of one part (1, n, columns), of several
        flattened behind one another, (1, 1, numbers)."""
        if self._parts is None:
            return self._whole(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])  # (positions, dim)
        blocks = []
        for positions, columns in self._parts:
            block = self._logits(flat[positions], columns)
            for bias in self._biases:  # (1, vocabulary)
                block = block + (bias if columns is None else bias[:, part_of(columns)])
            blocks.append(block)
        self._shapes = [block.shape for block in blocks]
        if len(blocks) == 1:
            return blocks[0][None]
        return torch.cat([block.flatten() for block in blocks])[None, None]

    def _logits(self, hidden: torch.Tensor, columns: Columns | None) -> torch.Tensor:
        """(n, dim) hidden states -> (n, columns) logits."""
        if columns is None:
            return self._whole(hidden)
        if self._column_logits is not None:
            return self._column_logits(hidden, columns)
        part = part_of(columns)
        if not self.is_plain:
            return self._whole(hidden)[..., part]
        bias = None if self.head.bias is None else self.head.bias[part]
        return self._multiply(hidden, self.head.weight[part], bias)


def full_blocks(logits: torch.Tensor, parts: Sequence[Part]) -> list[torch.Tensor]:
    """The logits of each part, (n, columns), out of (batch, length, vocabulary) logits: for a model
    whose head cannot be narrowed."""
    flat = logits.flatten(0, 1)  # (positions, vocabulary)
    blocks = []
    for positions, columns in parts:
        position_logits = flat[positions]
        blocks.append(position_logits if columns is None else position_logits[:, part_of(columns)])
    return blocks


class DecodingHead:
    """Log-probabilities from hidden states of a model's last layer.

    With `sliced` False every column is always computed: for a model whose logits are only right as
    a whole."""

    def __init__(self, model: Any, *, sliced: bool = True) -> None:
        self._head = PartialHead(model, multiply=product)
        self.is_sliced = sliced and self._head.is_plain
        """whether logits of some columns cost no more than their share"""
        self.vocab_size = int(self._head.head.weight.shape[0])
        self._has_encoder = is_encoder_decoder(model)
        base = model.get_decoder() if self._has_encoder else model.base_model
        fixed = _FixedOutput(base.config)
        self.given = fixed.given
        """Has the base model's last output, as `TokenTree` sets it: the rest expects its type."""
        # the model's forward without its layers: the base returns the given hidden states
        self._tail = swap_modules(model, {base: fixed, self._head.head: self._head})

    def log_probs(
        self, hidden: torch.Tensor, columns: Columns, normalize: Normalize
    ) -> torch.Tensor:
        """(..., dim) hidden states -> (..., columns) float32 log-probabilities of these token ids.

        "trie" returns the same as "level": the search normalizes over the children of each
        prefix."""
        if self.is_sliced:
            logits = self.logits(hidden, columns)
            if normalize == "vocabulary":
                return logits - self.normalizers(hidden)
            return logits.log_softmax(-1)
        parts = []
        states = hidden.reshape(-1, hidden.shape[-1])  # (n, dim)
        for chunk in states.split(max(1, CHUNK_FULL // self.vocab_size)):
            whole = self.logits(chunk, None)
            logits = whole[:, part_of(columns)]
            competing = whole if normalize == "vocabulary" else logits
            parts.append(logits - competing.logsumexp(-1, keepdim=True))
        return torch.cat(parts).view(*hidden.shape[:-1], -1)

    def normalizers(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., dim) hidden states -> (..., 1): the log of the sum over the whole vocabulary, in
        chunks of columns."""
        step = max(1 << 12, CHUNK // hidden.shape[:-1].numel())
        sums = []
        for first in range(0, self.vocab_size, step):
            part = (first, min(first + step, self.vocab_size))
            sums.append(self.logits(hidden, part).logsumexp(-1))
        return torch.stack(sums).logsumexp(0).unsqueeze(-1)

    def logits(self, hidden: torch.Tensor, columns: Columns | None) -> torch.Tensor:
        """(..., dim) hidden states -> (..., columns) float32."""
        states = hidden.reshape(-1, hidden.shape[-1])  # (n, dim)
        self.given.hidden = states.unsqueeze(0)
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._has_encoder:  # neither it nor the decoder runs
            inputs = {
                "decoder_input_ids": ids,
                "encoder_outputs": BaseModelOutput(self.given.hidden),
            }

        def run() -> torch.Tensor:
            return self._tail(**inputs, use_cache=False, return_dict=True).logits

        (block,) = self._head.blocks(run, [(slice(None), columns)])
        return block.float().view(*hidden.shape[:-1], -1)


class _FixedOutput(nn.Module):
    """Replaces a base model and returns hidden states computed elsewhere."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config  # T5Gemma's soft cap is in that of its decoder
        # setting attributes of a module takes as long as a small layer, as would copying the output
        self.given = SimpleNamespace(output=None, hidden=None)

    def forward(self, *_: Any, **__: Any) -> Any:
        self.given.output.last_hidden_state = self.given.hidden
        return self.given.output


def swap_modules(module: Any, replacements: Mapping[Any, nn.Module]) -> Any:
    """A copy of a module with some of its submodules replaced; all others, and all weights, are
    shared with the original."""
    if module in replacements:
        return replacements[module]
    if module is None or replacements.keys().isdisjoint(module.modules()):
        return module
    twin = copy.copy(module)
    twin._modules = {
        name: swap_modules(child, replacements) for name, child in module._modules.items()
    }
    return twin
