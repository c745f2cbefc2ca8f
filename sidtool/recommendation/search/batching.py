"""Batches of prompts of similar length, and the eval mode of a model that runs them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sidtool.recommendation.search.kernels import fast_linear


def batches(lengths: Sequence[int], tree_tokens: int, token_budget: int) -> Iterator[list[int]]:
    """Group prompts of similar length, given by index, longest first; empty prompts are left out.

    A batch holds as many prompts as fit: its longest prompt plus `tree_tokens`, times the number of
    prompts, is at most `token_budget`. A single prompt may exceed it."""
    nonempty = [index for index in range(len(lengths)) if lengths[index]]
    batch: list[int] = []
    for index in sorted(nonempty, key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * (lengths[batch[0]] + tree_tokens) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@contextmanager
def evaluation_mode(model: Any) -> Iterator[Any]:
    """Yield the bare model in eval mode; afterwards every module's mode is restored.

    The wrapper of an adapter is removed (its layers stay). Linear layers run on the faster of this
    machine's libraries."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    training_modules = [module for module in bare.modules() if module.training]
    if training_modules:
        bare.eval()
    try:
        with fast_linear(bare):
            yield bare
    finally:
        for module in training_modules:
            module.training = True
