"""The head of a causal language model, applied to some positions and some of the vocabulary only.

On a vocabulary of 150,000 tokens with a few targets a row, most of a plain step goes into logits that no loss reads.
The model's own forward still runs, with its head narrowed, so bias, scale, soft-capping and adapters stay in force.
Knows how to narrow a head; knows nothing of losses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Columns = tuple[int, int]
"""First and stop of a range of token ids."""


class NarrowHead:
    """Wraps a model's output embedding for good; it behaves as before outside of `narrowed`."""

    def __init__(self, model: Any) -> None:
        self._head = model.get_output_embeddings()
        self._forward = self._head.forward
        self._rows: torch.Tensor | None = None
        self._columns: Columns | None = None
        self._head.forward = self._narrow

    @contextmanager
    def narrowed(self, rows: torch.Tensor, columns: Columns | None) -> Iterator[None]:
        """Within, the head sees the hidden states at `rows` (n,) int64 of the flattened batch, in `columns` alone.

        The model's logits are then (1, n, columns) in place of (batch, length, vocabulary).
        """
        self._rows, self._columns = rows, columns
        try:
            yield
        finally:
            self._rows = self._columns = None

    def _narrow(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._rows is None:
            return self._forward(hidden)
        picked = hidden.reshape(-1, hidden.shape[-1])[self._rows][None]  # (1, rows, width)
        if self._columns is None:
            return self._forward(picked)
        if type(self._head) is not nn.Linear:  # an adapter, say: its own forward knows what it adds
            return self._forward(picked)[..., slice(*self._columns)]
        span = slice(*self._columns)
        bias = None if self._head.bias is None else self._head.bias[span]
        return nn.functional.linear(picked, self._head.weight[span], bias)


def narrows_exactly(model: Any, head: NarrowHead, columns: Columns | None) -> bool:
    """Whether the narrowed logits of this architecture are the full ones, tried on a few tokens.

    They are unless something after the head mixes positions or tokens, or the head is not called as a module.
    """
    device = next(model.parameters()).device
    ids = torch.arange(8, device=device).reshape(2, 4) % model.config.get_text_config().vocab_size
    rows, was_training = torch.tensor([1, 2, 6], device=device), model.training
    model.eval()
    with torch.no_grad():
        full = model(input_ids=ids, use_cache=False).logits.reshape(8, -1)[rows]
        with head.narrowed(rows, columns):
            narrow = model(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    if columns is not None:
        full = full[:, slice(*columns)]
    return narrow.shape == (1, *full.shape) and torch.allclose(narrow[0].float(), full.float(), atol=1e-3, rtol=1e-3)


def packs_exactly(model: Any) -> bool:
    """Whether rows packed into one line do not see each other, tried on a few tokens."""
    device = next(model.parameters()).device
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    ids, positions = (
        torch.arange(12, device=device) % model.config.get_text_config().vocab_size,
        torch.arange(6, device=device),
    )
    was_training = model.training
    model.eval()
    with torch.no_grad():
        apart = model(input_ids=ids.reshape(2, 6), use_cache=False).logits.reshape(12, -1)
        packed = model(input_ids=ids[None], position_ids=positions.repeat(2)[None], use_cache=False).logits[0]
    model.train(was_training)
    return torch.allclose(apart.float(), packed.float(), atol=1e-2, rtol=1e-2)
