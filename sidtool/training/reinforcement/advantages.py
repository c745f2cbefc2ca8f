"""How much better each item of a group is than the others: what a policy gradient is weighted by.

A group is the G items drawn for one prompt; places beyond the items that could be drawn are not
valid."""

import numpy as np
from numpy.typing import NDArray

from sidtool.tokenizer.sid import Codes

Matrix = NDArray[np.float64]
"""(n, G): one number for each item of n groups."""
Flags = NDArray[np.bool_]

NO_SPREAD = 1e-8
"""Rewards of a group that differ by less give no signal."""
STABILIZER = 1e-4
"""Added to a standard deviation before dividing by it, as in TRL and MiniOneRec."""


def lacks_signal(rewards: Matrix, valid: Flags) -> Flags:
    """(n,): whether all valid items of a group have the same reward, so that none is better."""
    highest = np.where(valid, rewards, -np.inf).max(axis=1)
    lowest = np.where(valid, rewards, np.inf).min(axis=1)
    flat: Flags = ~(highest - lowest > NO_SPREAD)
    return flat


def first_difference(items: Codes, targets: Codes, valid: Flags) -> NDArray[np.float64]:
    """(n, G, levels): advantages of single codes, by the first code that differs from the target.

    `items` are (n, G, levels) codes, `targets` (n, levels). A code of the common prefix has +1, the
    first that differs -1, and each level is standardized over the group; codes behind the first
    difference, which the target says nothing about, and places that are not valid have 0
    (uhulahu/NanoOneRec)."""
    equal = items == targets[:, None]
    in_prefix = np.cumprod(equal, axis=-1).astype(np.bool_)
    # True up to and including the first difference
    judged = np.concatenate([np.ones_like(in_prefix[..., :1]), in_prefix[..., :-1]], axis=-1)
    judged &= valid[..., None]
    values = np.where(in_prefix, 1.0, -1.0)
    count = np.maximum(judged.sum(axis=1, keepdims=True), 1)
    mean = np.where(judged, values, 0.0).sum(axis=1, keepdims=True) / count
    centered = np.where(judged, values - mean, 0.0)
    deviation = np.sqrt((centered**2).sum(axis=1, keepdims=True) / count)
    return centered / (deviation + STABILIZER)
