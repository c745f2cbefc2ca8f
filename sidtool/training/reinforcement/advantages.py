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


def sampled_advantages(
    rewards: Matrix, probabilities: Matrix, inclusion: Matrix, valid: Flags, *, scale: bool = False
) -> Matrix:
    """(n, G): advantages of items that were drawn without replacement, 0 where not valid.

    `probabilities` are those of the policy, given that an item may be recommended: over all such
    items they sum to 1, without which the baseline would add a bias. `inclusion` is as in
    `LeafSample`, and 1 for an item that is in every group. The mean over the group of `advantage *
    gradient of log p` is an unbiased estimate of the gradient of the expected reward under these
    probabilities, if an item's reward does not depend on the other items: the estimate of W. Kool
    et al., "Buy 4 REINFORCE samples, get a baseline for free" (2019), whose baseline is the
    estimated mean reward. p may be the policy's probability among all items: it differs by a factor
    that items have in common, whose gradient cancels.

    With `scale`, the weights of a group sum to 1 (the normalized estimate of the same paper), and
    what a reward exceeds the group's mean by is divided by the estimated standard deviation: no
    longer unbiased, and unchanged if a constant is added to the rewards."""
    weights = np.where(valid, probabilities / np.where(valid, inclusion, 1.0), 0.0)
    if scale:
        shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        excess = rewards - (shares * rewards).sum(axis=1, keepdims=True)
        variance = (shares * excess**2).sum(axis=1, keepdims=True)
        advantages = shares * excess / (np.sqrt(variance) + STABILIZER)
    else:
        baseline = (weights * rewards).sum(axis=1, keepdims=True)
        # the baseline contains the item's own reward: this term corrects for it
        correction = 1 + weights - probabilities
        advantages = weights * (rewards * correction - baseline)
    # TRL takes the mean over the G items of a group
    return np.where(valid, advantages, 0.0) * rewards.shape[1]


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
