"""Whether a model can be decoded as a tree: found out once, by comparing with its ordinary forward.

Knows that some architectures ignore a 4-D mask, or scale each token's logit; knows none of them by
name."""

from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from sidtool.recommend.partial_head import Head
from sidtool.recommend.tree import TreeRun, attention_windows

Way = Literal["sliced", "full", "generate"]
"""Tree with a sliced head, tree with a full head, or no tree: plain `generate`."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
LOW_PRECISION_TOLERANCE = 0.1
PROBED_WINDOW = 64

_ways: WeakKeyDictionary[Any, Way] = WeakKeyDictionary()


def way(model: Any) -> Way:
    """How this model is decoded; the answer is kept as long as the model lives."""
    if model not in _ways:
        _ways[model] = _probe(model)
    return _ways[model]


@torch.no_grad()
def _probe(model: Any) -> Way:
    ways: tuple[Way, ...] = ("sliced", "full")
    for found in ways:
        try:
            if _agrees(model, Head(model, sliced=found == "sliced")):
                return found
        except (
            Exception
        ):  # whatever an unknown architecture does with a mask or a cache that it does not know
            continue
    return "generate"


def _agrees(model: Any, head: Head) -> bool:
    """Grow two small trees and compare each path's next logits with those of the path as an
    ordinary prompt."""
    low = torch.is_autocast_enabled(model.device.type)
    tolerance = (
        LOW_PRECISION_TOLERANCE if low else TOLERANCE.get(model.dtype, LOW_PRECISION_TOLERANCE)
    )
    windows = [
        window for window in attention_windows(model.config) if window and window <= PROBED_WINDOW
    ]
    length = 6 + min(windows, default=0)
    ids = (torch.arange(64 + 2 * length) * 7919 + 11).remainder(head.size).tolist()
    prompts = [ids[:length], ids[length : 2 * length - 2]]
    first, second = torch.tensor([ids[-8:-6], ids[-6:-4]]), torch.tensor([ids[-4:-1], ids[-3:]])
    parents = torch.tensor([[1, 0, 1], [0, 1, 1]])
    run = TreeRun(model, prompts, room=5, head=head)
    run.prefill()
    run.step(first.to(model.device), torch.zeros_like(first).to(model.device))
    hidden = run.step(second.to(model.device), parents.to(model.device))
    found = head.log_probs(hidden, 0, head.size, "vocabulary")  # (2, 3, vocabulary)
    for row, prompt in enumerate(prompts):
        tails = torch.stack([first[row][parents[row]], second[row]], dim=1)  # (3, 2)
        paths = torch.cat([torch.tensor([prompt]).expand(3, -1), tails], dim=1).to(model.device)
        want = model(input_ids=paths).logits[:, -1].float()
        spread = float(want.std())
        error = float((found[row] - want.log_softmax(-1)).abs().max())
        if not error <= tolerance * max(spread, 1e-3):
            return False
    return True
