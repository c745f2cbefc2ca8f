"""The logits that a loss needs, and the shortcuts that a model allows for them, found out by
running it on a few tokens."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sidtool.model.network import is_encoder_decoder
from sidtool.recommendation.search import Columns, Part, PartialHead, full_blocks


def part_logits(
    model: Any,
    head: PartialHead,
    inputs: Mapping[str, torch.Tensor],
    parts: Sequence[Part],
    *,
    narrow: bool,
) -> list[torch.Tensor]:
    """The logits of each part, (n, columns), on a batch; `narrow` says that `head`, which is
    installed in the model, gives them exactly."""

    def forward() -> torch.Tensor:
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits

    return head.blocks(forward, parts) if narrow else full_blocks(forward(), parts)


def narrows_exactly(model: Any, head: PartialHead, columns: Columns | None) -> bool:
    """Whether the logits of a model's installed partial head equal its full ones.

    They do unless something after the head mixes positions or tokens, or the head is not called as
    a module."""
    device = next(model.parameters()).device
    ids = torch.arange(8, device=device).reshape(2, 4) % model.config.get_text_config().vocab_size
    parts = [(torch.tensor(positions, device=device), columns) for positions in ([1, 2, 6], [5])]

    inputs = {"input_ids": ids}
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = ids
    with _probing(model) as low_precision:
        expected = part_logits(model, head, inputs, parts, narrow=False)
        try:
            blocks = part_logits(model, head, inputs, parts, narrow=True)
        except RuntimeError:
            # logits of another size: the head was not called, or something follows it
            return False
    tolerance = 5e-2 if low_precision else 1e-3
    return all(
        block.shape == full.shape and _close(block, full, tolerance)
        for block, full in zip(blocks, expected, strict=True)
    )


def packs_exactly(model: Any) -> bool:
    """Whether training examples that are packed into one line do not attend to each other."""
    device = next(model.parameters()).device
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return False
    ids = torch.arange(12, device=device) % model.config.get_text_config().vocab_size
    positions = torch.arange(6, device=device).repeat(2)
    with _probing(model) as low_precision:
        separate = model(input_ids=ids.reshape(2, 6), use_cache=False).logits.reshape(12, -1)
        line = model(input_ids=ids[None], position_ids=positions[None], use_cache=False)
    return _close(separate, line.logits[0], 5e-2 if low_precision else 1e-2)


@contextmanager
def _probing(model: Any) -> Iterator[bool]:
    """Eval mode, no gradients, and autocast for weights of low precision; yields whether these
    are."""
    low_precision = any(weight.dtype is torch.bfloat16 for weight in model.parameters())
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
            yield low_precision
    finally:
        model.train(was_training)


def _close(values: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return torch.allclose(values.float(), expected.float(), atol=tolerance, rtol=tolerance)
