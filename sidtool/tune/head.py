"""The head of a causal language model, applied to some positions and some of the vocabulary only.

On a vocabulary of 150,000 tokens with a few targets a row, most of a plain step goes into logits that no loss reads.
The model's own forward still runs, with its head narrowed, so bias, scale, soft-capping and adapters stay in force.
Knows how to narrow a head; knows nothing of losses.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Columns = tuple[int, int]
"""First and stop of a range of token ids."""


class NarrowHead:
    """Wraps a model's output embedding for good; it behaves as before outside of `narrowed`.

    `logits(hidden, first, stop)` computes a range of columns, where that is not a product with a slice of the weight.
    """

    def __init__(self, model: Any, logits: Callable[[torch.Tensor, int, int], torch.Tensor] | None = None) -> None:
        self._head, self._logits = model.get_output_embeddings(), logits
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
        if self._logits:
            return self._logits(picked, *self._columns)
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
    rows = torch.tensor([1, 2, 6], device=device)
    with _probing(model) as low:
        full = model(input_ids=ids, use_cache=False).logits.reshape(8, -1)[rows]
        with head.narrowed(rows, columns):
            narrow = model(input_ids=ids, use_cache=False).logits
    if columns is not None:
        full = full[:, slice(*columns)]
    return narrow.shape == (1, *full.shape) and _close(narrow[0], full, 5e-2 if low else 1e-3)


def packs_exactly(model: Any) -> bool:
    """Whether rows packed into one line do not see each other, tried on a few tokens."""
    device = next(model.parameters()).device
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    ids, positions = (
        torch.arange(12, device=device) % model.config.get_text_config().vocab_size,
        torch.arange(6, device=device),
    )
    with _probing(model) as low:
        apart = model(input_ids=ids.reshape(2, 6), use_cache=False).logits.reshape(12, -1)
        packed = model(input_ids=ids[None], position_ids=positions.repeat(2)[None], use_cache=False).logits[0]
    return _close(apart, packed, 5e-2 if low else 1e-2)


@contextmanager
def _probing(model: Any) -> Iterator[bool]:
    """Within, the model is in eval mode, without gradients, in the precision that it trains in.

    Gives whether that is a low one: weights of mixed precision only run under autocast.
    """
    low = any(weight.dtype is torch.bfloat16 for weight in model.parameters())
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            yield low
    finally:
        model.train(was_training)


def _close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    return torch.allclose(found.float(), wanted.float(), atol=tolerance, rtol=tolerance)
