"""A model's logits for a range of token ids, through everything that its head does.

Knows how to ask a causal language model for a few columns of its logits, given hidden states; knows
nothing of semantic IDs. The columns go through the model's own forward, with the base model
replaced by the hidden states and the head by a slice of it, so that bias, soft-capping and logit
scales are the model's and not a copy of them here. A head that is not a plain linear layer (an
adapter, a quantized layer) is computed in full and then sliced."""

import copy
import dataclasses
from typing import Any, Literal

import torch
from torch import nn

from sidtool.recommend.kernels import product

Normalize = Literal["level", "vocabulary", "trie"]
"""What log-probabilities are normalized over: the codes of the level, every token (as `generate`
does), or the codes by which the prefix goes on to an item of the catalog."""

CHUNK = 1 << 19
"""Logits computed together when a whole vocabulary is summed over: these stay in the cache of a
CPU."""
CHUNK_FULL = 1 << 25
"""The same for a head that computes nothing less than the whole vocabulary."""


class Head:
    """The head of one model. `sliced` False computes all columns always: for a head whose result
    cannot be cut."""

    def __init__(self, model: Any, *, sliced: bool = True) -> None:
        head = model.get_output_embeddings()
        self.sliced = sliced and type(head) is nn.Linear
        self.size = int(head.weight.shape[0])
        self._given, self._columns = _Given(), _Columns(head, sliced=self.sliced)
        self._tail = swap(swap(model, model.base_model, self._given), head, self._columns)

    def attach(self, output: Any) -> None:
        """Take note of what the base model returned, as what follows it expects the same."""
        self._given.output = output

    def log_probs(
        self, hidden: torch.Tensor, start: int, stop: int, normalize: Normalize
    ) -> torch.Tensor:
        """(..., dim) hidden states -> (..., stop - start) float32 log-probabilities of the ids
        start..stop-1.

        "trie" is "level" here: who knows the prefixes makes them `over_children`.
        """
        rows = hidden.reshape(-1, hidden.shape[-1])
        if self.sliced:
            found = self._sliced(rows, start, stop, normalize)
        else:
            parts = rows.split(max(1, CHUNK_FULL // self.size))
            found = torch.cat([self._full(part, start, stop, normalize) for part in parts])
        return found.view(*hidden.shape[:-1], stop - start)

    def _sliced(
        self, rows: torch.Tensor, start: int, stop: int, normalize: Normalize
    ) -> torch.Tensor:
        columns = self._logits(rows, start, stop)
        if normalize != "vocabulary":
            return columns.log_softmax(-1)
        step = max(1 << 12, CHUNK // len(rows))
        sums = [
            self._logits(rows, first, min(first + step, self.size)).logsumexp(-1)
            for first in range(0, self.size, step)
        ]
        return columns - torch.stack(sums).logsumexp(0).unsqueeze(-1)

    def _full(
        self, rows: torch.Tensor, start: int, stop: int, normalize: Normalize
    ) -> torch.Tensor:
        logits = self._logits(rows, 0, self.size)
        columns = logits[:, start:stop]
        return columns - (logits if normalize == "vocabulary" else columns).logsumexp(
            -1, keepdim=True
        )

    def _logits(self, rows: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """(n, dim) -> (n, stop - start) float32."""
        self._given.hidden, self._columns.range = rows.unsqueeze(0), (start, stop)
        placeholder = torch.zeros(1, len(rows), dtype=torch.long, device=rows.device)
        return (
            self._tail(input_ids=placeholder, use_cache=False, return_dict=True).logits[0].float()
        )


class _Given(nn.Module):
    """Stands where the base model was, and returns hidden states that it is given."""

    output: Any = None
    hidden: Any = None

    def forward(self, *_: Any, **__: Any) -> Any:
        return dataclasses.replace(self.output, last_hidden_state=self.hidden)


class _Columns(nn.Module):
    """A head that computes a range of its columns, where it is a plain linear layer."""

    range: tuple[int, int] = (0, 0)

    def __init__(self, head: Any, *, sliced: bool) -> None:
        super().__init__()
        self.head, self.sliced = head, sliced

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.sliced:
            return self.head(hidden)
        start, stop = self.range
        bias = None if self.head.bias is None else self.head.bias[start:stop]
        return product(hidden, self.head.weight[start:stop], bias)


def swap(module: Any, old: Any, new: nn.Module) -> Any:
    """A copy of a module in which one of its parts is another; all other parts, and all weights,
    are shared."""
    if module is old:
        return new
    twin = copy.copy(module)
    twin._modules = {
        name: part
        if part is None or all(inner is not old for inner in part.modules())
        else swap(part, old, new)
        for name, part in module._modules.items()
    }
    return twin
