"""Fits a re-ranker to validation users by a smooth NDCG and a listwise cross-entropy, and decides
whether it is used.

It is fitted to lists without new items: fitted to new targets too, it finds more of them, and for
that loses more users whose target has training events than the same number of new ones is worth.
Each half of the users judges what was fitted to the other half, as for the gate. A re-ranker is
used if NDCG@10 of these users is above that of the mixture beyond noise, and no fewer of them find
a rare target or one without training events. docs/ranking.md gives loss and rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.bootstrap import paired_differences
from sidtool.evaluation.ranking import IndexedExamples
from sidtool.evaluation.tuning.mixture_candidates import Candidates, K, gains, target_ranks
from sidtool.evaluation.tuning.mixture_choice import MixtureChoice
from sidtool.memory import MemoryManifest
from sidtool.memory.mixture import (
    HIDDEN,
    LIMIT,
    N_FEATURES,
    RERANKED,
    TRAINING_EVENTS,
    FeatureIndex,
    Network,
    Reranker,
    standardized_features,
)

RERANK_USERS = 100
"""Users with their target among the items that each half has at least."""
NETWORKS = 3
"""Networks of a re-ranker, of as many seeds; one is fitted to each half."""
SCALES = (1.0, 0.5)
"""Of the networks' scores, that are tried."""
BONUSES = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Of items without training events, that are tried, in units of log-probability."""
METRIC = "ndcg@10"
FEATURE_BLOCK = 1024
"""Users whose features are made at a time."""

BATCH_USERS = 128
EPOCHS = 12
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
DROPOUT = 0.1
TEMPERATURE = 0.5
"""Of the smooth ranks, in units of log-probability."""
NDCG_WEIGHT = 3.0
ENTROPY_WEIGHT = 0.3


RARITY_WEIGHTS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "twice": lambda events: np.where(events <= 5, 2.0, 1.0),
    "logarithm": lambda events: 1 / np.log2(2.0 + events),
}
"""How much a user counts in the loss, by the training events of the target."""


@dataclass(frozen=True, eq=False)
class RankedUsers:
    """The first c items of the mixture for each of n users, in its order."""

    features: NDArray[np.float32]
    """(n, c, N_FEATURES)"""
    log_mixture: NDArray[np.float64]
    """(n, c) logs of the mixed probabilities; minus infinity where there are fewer items"""
    targets: NDArray[np.int64]
    """(n,) the target's column, -1 if it is not among the items"""
    is_mixed: NDArray[np.bool_]
    """(n,) whether the memory has a share: only then is a request ranked again"""
    target_events: NDArray[np.int64]
    """(n,) training events of the target; -1 for one that cannot be recommended"""
    in_first_half: NDArray[np.bool_]
    users: tuple[str, ...]

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        choice: MixtureChoice,
        examples: IndexedExamples,
        index: FeatureIndex,
    ) -> "RankedUsers":
        """Rank the candidates of each user by a mixture, and make their features."""
        raised = candidates.raised(choice.power)
        log_mixture = candidates.mixed(raised, choice.weights(candidates))
        positions = candidates.positions
        order = np.lexsort((positions, np.where(positions < 0, np.inf, -log_mixture)))[:, :RERANKED]
        ranked = (np.arange(len(order))[:, None], order)
        log_mixture, raised = log_mixture[ranked], raised[ranked]
        model_scores = candidates.model_scores[ranked]
        is_item = ~np.isneginf(log_mixture)
        positions = np.where(is_item, positions[ranked], -1)
        target_columns = candidates.targets[:, None]
        is_target = (order == target_columns) & (target_columns >= 0) & is_item
        features = np.empty((*positions.shape, N_FEATURES), dtype=np.float32)
        for start in range(0, len(features), FEATURE_BLOCK):
            block = slice(start, start + FEATURE_BLOCK)
            features[block] = index.features(
                examples.histories[block],
                positions[block],
                model_scores[block],
                raised[block],
                log_mixture[block],
            )
        return cls(
            features,
            log_mixture,
            np.where(is_target.any(axis=1), is_target.argmax(axis=1), -1),
            candidates.has_memory,
            np.where(examples.targets < 0, -1, candidates.target_events),
            candidates.in_first_half,
            tuple(example.user for example in examples.examples),
        )

    @property
    def is_informative(self) -> NDArray[np.bool_]:
        """(n,) whether a user can be fitted to: the target is among the items."""
        return self.is_mixed & (self.targets >= 0)

    @property
    def is_new(self) -> NDArray[np.bool_]:
        """(n, c) whether an item has no training events."""
        return np.isfinite(self.log_mixture) & (self.features[..., TRAINING_EVENTS] == 0)

    def added(self, reranker: Reranker, users: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(n, c) scores of a re-ranker for a part of the users, 0 for the others."""
        added = np.zeros(self.log_mixture.shape, dtype=np.float32)
        present = np.isfinite(self.log_mixture) & users[:, None]
        added[present] = reranker.scores(reranker.standardized(self.features[present]))
        return added

    def ranks(self, added: NDArray[np.floating[Any]] | float) -> NDArray[np.int64]:
        """(n,) ranks of the targets from 0, at most K, where (n, c) scores are added."""
        scores = self.log_mixture + np.where(self.is_mixed[:, None], added, 0.0)
        # equal items stay in the order of the mixture
        places = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        return target_ranks(scores, self.targets, places)


def fit_part(
    ranked: RankedUsers,
    users: NDArray[np.bool_],
    rarity: str,
    seeds: Sequence[int],
    manifest: MemoryManifest,
    *,
    exclude_seen: bool,
    scale: float = 1.0,
    new_item_bonus: float = 0.0,
) -> Reranker:
    """Fit a network of each seed to a part of the users."""
    rows = np.flatnonzero(users & ranked.is_informative)
    features = ranked.features[rows]  # (m, c, N_FEATURES)
    present = np.isfinite(ranked.log_mixture[rows])
    means = features[present].mean(axis=0, dtype=np.float64).tolist()
    # a feature that is the same for all items has no effect
    deviations = features[present].std(axis=0, dtype=np.float64)
    scales = np.maximum(deviations, 1 / LIMIT).tolist()
    inputs = standardized_features(features, means, scales)
    inputs[~present] = 0
    importance = RARITY_WEIGHTS[rarity](ranked.target_events[rows])
    batch = (inputs, ranked.log_mixture[rows], ranked.targets[rows], importance / importance.mean())
    return Reranker.of(
        means,
        scales,
        [fit_network(*batch, seed=seed) for seed in seeds],
        manifest,
        scale=scale,
        exclude_seen=exclude_seen,
        new_item_bonus=new_item_bonus,
    )


def choose_reranker(
    candidates: Candidates,
    choice: MixtureChoice,
    examples: IndexedExamples,
    index: FeatureIndex,
    manifest: MemoryManifest,
    *,
    seed: int = 0,
) -> tuple[Reranker | None, dict[str, float]]:
    """A re-ranker for a mixture with the memory of a manifest, and what judged it; None if it is
    not used."""
    served = RankedUsers.of(candidates, choice, examples, index)
    fitted_to = served
    if candidates.lists_new_items:
        fitted_to = RankedUsers.of(candidates.without_new_items(), choice, examples, index)
    return fit_reranker(fitted_to, served, manifest, exclude_seen=examples.exclude_seen, seed=seed)


def fit_reranker(
    fitted_to: RankedUsers,
    served: RankedUsers,
    manifest: MemoryManifest,
    *,
    exclude_seen: bool,
    seed: int = 0,
) -> tuple[Reranker | None, dict[str, float]]:
    """As `choose_reranker`: fitted to lists without new items, judged on the lists of the mixture.
    The networks have the seeds from NETWORKS times `seed` on."""
    seeds = range(seed * NETWORKS, (seed + 1) * NETWORKS)
    halves = (served.in_first_half, ~served.in_first_half)
    if any((half & fitted_to.is_informative).sum() < RERANK_USERS for half in halves):
        return None, {}
    fit = partial(fit_part, fitted_to, manifest=manifest, exclude_seen=exclude_seen)
    before = served.ranks(0.0)
    events = served.target_events
    rare_and_new = [(events >= 1) & (events <= 5), events == 0]
    bonuses = BONUSES if served.is_new.any() else BONUSES[:1]
    best: tuple[str, float, float, NDArray[np.int64]] | None = None
    best_ndcg = highest = -1.0
    for rarity in RARITY_WEIGHTS:
        added = np.zeros(served.log_mixture.shape, dtype=np.float32)
        for half in halves:
            added += served.added(fit(~half, rarity, seeds[:1]), half)
        for scale, bonus in product(SCALES, bonuses):
            after = served.ranks(added * np.float32(scale) + np.float32(bonus) * served.is_new)
            ndcg = float(gains(after).mean())
            highest = max(highest, ndcg)
            # of these targets no fewer are among the first K than before
            groups = [*rare_and_new, events >= 1] if bonus else rare_and_new
            keeps = all((after[users] < K).sum() >= (before[users] < K).sum() for users in groups)
            if keeps and ndcg > best_ndcg:
                best_ndcg = ndcg
                best = (rarity, scale, bonus, after)
    record = {"ndcg@10 mixture, judged": float(gains(before).mean())}
    if best is None:
        return None, {**record, "ndcg@10 re-ranked, judged": highest}
    record["ndcg@10 re-ranked, judged"] = best_ndcg
    rarity, scale, bonus, after = best
    columns = gains(after)[:, None], gains(before)[:, None]
    difference = paired_differences([METRIC], *columns, served.users)["all"][METRIC]
    record |= {"ndcg@10 gain, low": difference.low, "ndcg@10 gain, high": difference.high}
    if difference.low <= 0:
        return None, record
    everyone = np.ones(len(before), dtype=np.bool_)
    return fit(everyone, rarity, seeds, scale=scale, new_item_bonus=bonus), record


def fit_network(
    inputs: NDArray[np.float32],
    log_mixture: NDArray[np.float64],
    targets: NDArray[np.int64],
    importance: NDArray[np.float64],
    *,
    seed: int,
) -> Network:
    """(m, c, N_FEATURES) standardized features, (m, c) logs of mixed probabilities, minus infinity
    where there is no item, (m,) columns of the targets, (m,) weights of users -> a network whose
    scores, 0 before it is fitted, are added to these logs."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module()
        n_users = len(inputs)
        steps = EPOCHS * -(-n_users // BATCH_USERS)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        tensors = (
            torch.from_numpy(inputs),
            torch.from_numpy(log_mixture.astype(np.float32)),
            torch.from_numpy(targets),
            torch.from_numpy(importance.astype(np.float32)),
        )
        module.train()
        for _ in range(EPOCHS):
            for batch in torch.randperm(n_users).split(BATCH_USERS):
                features, log_probs, target_columns, weights = (tensor[batch] for tensor in tensors)
                added = module["linear"](features) + module["deep"](features)  # (b, c, 1)
                loss = (weights * _losses(log_probs + added[..., 0], target_columns)).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
    first, second, output = (layer for layer in module["deep"] if isinstance(layer, nn.Linear))

    def array(weight: torch.Tensor) -> Any:
        return weight.detach().numpy().copy()

    return Network(
        first=array(first.weight.T),
        first_bias=array(first.bias),
        second=array(second.weight.T),
        second_bias=array(second.bias),
        output=array(output.weight[0]),
        linear=array(module["linear"].weight[0]),
    )


def _module() -> Any:
    """The layers of a `Network`, of which the last ones are zero. All items of a user lose the same
    units to dropout: a third of the time of fitting would go to drawing other ones for each."""
    import torch
    from torch import nn

    class ListDropout(nn.Dropout):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            units = hidden.new_ones(len(hidden), 1, hidden.shape[-1])  # (b, 1, units)
            return hidden * super().forward(units)

    deep = nn.Sequential(
        nn.Linear(N_FEATURES, HIDDEN),
        nn.GELU(approximate="tanh"),
        ListDropout(DROPOUT),
        nn.Linear(HIDDEN, HIDDEN),
        nn.GELU(approximate="tanh"),
        ListDropout(DROPOUT),
        nn.Linear(HIDDEN, 1, bias=False),
    )
    linear = nn.Linear(N_FEATURES, 1, bias=False)
    nn.init.zeros_(deep[-1].weight)
    nn.init.zeros_(linear.weight)
    return nn.ModuleDict({"deep": deep, "linear": linear})


def _losses(scores: Any, targets: Any) -> Any:
    """(b,) losses of (b, c) scores: 1 less a smooth NDCG (ApproxNDCG, Qin et al., 2010), and the
    listwise cross-entropy."""
    import torch

    target_scores = scores.gather(1, targets[:, None])  # (b, 1)
    # minus infinity adds 0; the target itself adds a half
    ranks = 0.5 + torch.sigmoid((scores - target_scores) / TEMPERATURE).sum(dim=1)
    ndcg = 1 / torch.log2(1 + ranks)
    entropy = torch.logsumexp(scores, dim=1) - target_scores[:, 0]
    return NDCG_WEIGHT * (1 - ndcg) + ENTROPY_WEIGHT * entropy
