"""The part `shares` of decoder.py: where the CPU time of a search goes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from decoder_cases import catalog, prompts_of, trie_and_tokens
from decoder_sides import run_beam


def shares(model: Any, n_items: int, batch: tuple[int, int], repeats: int) -> dict[str, Any]:
    """The shares of a search's CPU seconds that linear layers and attention take, and how fast the
    layers are beside one product of 2048 x 2048 matrices."""
    import torch

    from sidtool.recommendation.search import kernels

    trie, tokens = trie_and_tokens(catalog(n_items))
    prompts, width = prompts_of(batch[0]), batch[1]
    square = torch.randn(2048, 2048)
    product, functional = kernels.product, torch.nn.functional
    attention = functional.scaled_dot_product_attention
    spent: dict[Any, float] = {}
    multiplications = 0

    def timed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal multiplications
        start = time.process_time()
        result = function(*args, **kwargs)
        spent[function] += time.process_time() - start
        if function is product:
            multiplications += args[0].numel() * len(args[1])
        return result

    turns = []
    for turn in range(2 * repeats + 1):
        spent, multiplications = {product: 0.0, attention: 0.0}, 0
        kernels.product = partial(timed, product)
        functional.scaled_dot_product_attention = partial(timed, attention)
        start = time.process_time()
        run_beam(model, prompts, width, trie, tokens, "level")
        seconds = time.process_time() - start
        kernels.product, functional.scaled_dot_product_attention = product, attention
        with torch.no_grad():
            start = time.process_time()
            product(square, square, None)
            product_seconds = time.process_time() - start
        ideal = multiplications * product_seconds / 2048**3
        if turn:
            turns.append((spent[product] / seconds, spent[attention] / seconds, ideal / seconds))
    linear_share, attention_share, best_share = np.median(turns, axis=0).tolist()
    return {
        "share_linear": linear_share,
        "share_attention": attention_share,
        "share_other": 1 - linear_share - attention_share,
        "share_linear_at_best": best_share,
        "repeats": 2 * repeats,
    }
