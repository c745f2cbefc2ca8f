"""The head of a causal language model, applied to some positions and some of the vocabulary only.

On a vocabulary of 150,000 tokens with a few targets a row, most of a plain step goes into logits
that no loss reads. The model's own forward still runs, with its head narrowed, so bias, scale,
soft-capping and adapters stay in force. Knows how to narrow a head; knows nothing of losses."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Columns = tuple[int, int]
"""First and stop of a range of token ids."""

Part = tuple[torch.Tensor, Columns | None]
"""What is asked of a head: places (n,) int64 of the flattened batch, and the columns there; None
for all."""


class NarrowHead:
    """Wraps a model's output embedding for good; it behaves as before outside of `blocks`.

    `logits(hidden, first, stop)` computes a range of columns, where that is not a product with a
    slice of the weight."""

    def __init__(
        self, model: Any, logits: Callable[[torch.Tensor, int, int], torch.Tensor] | None = None
    ) -> None:
        self._head, self._logits = model.get_output_embeddings(), logits
        self._forward = self._head.forward
        self._parts: Sequence[Part] | None = None
        self._sizes: list[int] = []
        self._head.forward = self._narrow

    def blocks(self, run: Callable[[], torch.Tensor], parts: Sequence[Part]) -> list[torch.Tensor]:
        """The logits of each part, (n, columns): `run` is the model's forward, which is run once
        and gives its logits.

        All parts go through what follows the head as one line of numbers.
        """
        self._parts = parts
        try:
            line = run().flatten()
        finally:
            self._parts = None
        pairs = zip(line.split(self._sizes), parts, strict=True)
        return [
            block.view(len(rows), len(block) // max(len(rows), 1)) for block, (rows, _) in pairs
        ]

    def _narrow(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._parts is None:
            return self._forward(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        found = [self._columns(flat[rows], columns).flatten() for rows, columns in self._parts]
        self._sizes = [len(block) for block in found]
        return (found[0] if len(found) == 1 else torch.cat(found))[None, None]  # (1, 1, numbers)

    def _columns(self, picked: torch.Tensor, columns: Columns | None) -> torch.Tensor:
        """(n, width) hidden states -> (n, columns) logits."""
        if columns is None:
            return self._forward(picked)
        if self._logits:
            return self._logits(picked, *columns)
        if type(self._head) is not nn.Linear:  # an adapter, say: its own forward knows what it adds
            return self._forward(picked)[..., slice(*columns)]
        span = slice(*columns)
        bias = None if self._head.bias is None else self._head.bias[span]
        return nn.functional.linear(picked, self._head.weight[span], bias)


def full_blocks(logits: torch.Tensor, parts: Sequence[Part]) -> list[torch.Tensor]:
    """The same from (batch, length, vocabulary) logits: for a model whose head cannot be narrowed."""
    flat = logits.flatten(0, 1)
    return [
        flat[rows] if columns is None else flat[rows, slice(*columns)] for rows, columns in parts
    ]


def narrows_exactly(model: Any, head: NarrowHead, columns: Columns | None) -> bool:
    """Whether the narrowed logits of this architecture are the full ones, tried on a few tokens.

    They are unless something after the head mixes positions or tokens, or the head is not called as
    a module."""
    device = next(model.parameters()).device
    ids = torch.arange(8, device=device).reshape(2, 4) % model.config.get_text_config().vocab_size
    parts = [(torch.tensor(rows, device=device), columns) for rows in ([1, 2, 6], [5])]
    with _probing(model) as low:
        wanted = full_blocks(model(input_ids=ids, use_cache=False).logits, parts)
        try:
            found = head.blocks(lambda: model(input_ids=ids, use_cache=False).logits, parts)
        except (
            RuntimeError
        ):  # a line of another length: the head was not called, or something follows it
            return False
    tolerance = 5e-2 if low else 1e-3
    return all(
        one.shape == other.shape and _close(one, other, tolerance)
        for one, other in zip(found, wanted, strict=True)
    )


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
        packed = model(
            input_ids=ids[None], position_ids=positions.repeat(2)[None], use_cache=False
        ).logits[0]
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
