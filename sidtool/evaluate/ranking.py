"""A model's answers to test examples, and where the right ones stand in them.

Knows how SIDs in rank order become ranked items: a SID stands for all active items that share it,
less those that may not be given. Knows nothing of averages or baselines. Only `rank_sids` needs the
model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.data.splits import Example
from sidtool.errors import DataError
from sidtool.evaluate.metrics import Places, find_targets
from sidtool.model.load import LoadedModel
from sidtool.prompt.assemble import history_prompt_ids
from sidtool.recommend.filters import LeafFilter

CHUNK = 512
"""Examples between two steps of progress."""


@dataclass(frozen=True, eq=False)
class Asked:
    """n examples as rows of a bundle: histories, items that the bundle lacks left out, and (n,)
    int64 targets, -1 where the bundle lacks the item or has retired it."""

    bundle: Bundle
    histories: tuple[NDArray[np.int64], ...]
    targets: NDArray[np.int64]
    exclude_seen: bool

    @classmethod
    def of(cls, bundle: Bundle, examples: Sequence[Example], *, exclude_seen: bool) -> "Asked":
        """Look every item up, each one once."""
        ids = list(
            dict.fromkeys(item for example in examples for item in (*example.history, example.item))
        )
        row = dict(zip(ids, bundle.items.rows(ids).tolist(), strict=True))
        histories = (
            np.array([row[item] for item in one.history], dtype=np.int64) for one in examples
        )
        targets = np.array([row[example.item] for example in examples], dtype=np.int64)
        # retired items keep their SID, so they stay in a history; but they are never recommended
        targets[(targets >= 0) & bundle.items.retired[targets]] = -1
        return cls(bundle, tuple(rows[rows >= 0] for rows in histories), targets, exclude_seen)

    @property
    def answerable(self) -> NDArray[np.int64]:
        """(n,) int64: the target's place in SID order, -1 where no recommendation may be right."""
        places = np.full(
            len(self.bundle.items) + 1, -1, dtype=np.int64
        )  # the last one is that of row -1
        places[self.bundle.active] = np.arange(len(self.bundle.active))
        found = places[self.targets]
        if self.exclude_seen:
            found[
                [target in rows for target, rows in zip(self.targets, self.histories, strict=True)]
            ] = -1
        return found

    @property
    def target_leaves(self) -> NDArray[np.int64]:
        """(n,) int64: the leaf of each target's SID, -1 where no recommendation may be right."""
        return self.bundle.trie().leaves(self.answerable)

    def denied(self, example: int) -> NDArray[np.int64]:
        """Places in SID order that may not be given to an example."""
        rows = self.histories[example] if self.exclude_seen else self.targets[:0]
        return self.bundle.trie().positions(rows)


def rank_sids(
    served: LoadedModel,
    asked: Asked,
    *,
    k: int,
    width: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """(n, k) int64: the k best SIDs of each example as leaves of the trie, best first; -1 where
    there are no more.

    Raises DataError if the model has not been taught to recommend.
    """
    from sidtool.recommend.beam import beam_search

    bundle, trie, history_prompt = asked.bundle, asked.bundle.trie(), served.contract.history_prompt
    if history_prompt is None:
        raise DataError(
            "the model does not say how it is served",
            hint="`sidtool train` teaches it, and notes it",
        )
    ranked = np.full((len(asked.targets), k), -1, dtype=np.int64)
    for start in range(0, len(ranked), CHUNK):
        prompts, filters = [], []
        for rows in asked.histories[start : start + CHUNK]:
            titles = (
                [bundle.items.title(row) for row in rows.tolist()]
                if history_prompt.history_as == "title"
                else None
            )
            prompts.append(
                history_prompt_ids(
                    history_prompt,
                    served.tokenizer,
                    served.tokens,
                    bundle.items.codes[rows],
                    titles,
                )
            )
            filters.append(
                LeafFilter.of(trie, None, rows) if asked.exclude_seen and len(rows) else None
            )
        how = {"width": width, "k": k, "normalize": served.contract.normalize, "filters": filters}
        found = beam_search(served.model, prompts, trie, served.tokens, **how)
        for row, (leaves, _) in enumerate(found, start):
            ranked[row, : len(leaves)] = leaves
        if progress is not None:
            progress(start + len(found), len(ranked))
    return ranked


def item_places(asked: Asked, leaves: NDArray[np.int64]) -> Places:
    """The targets' places among items, from (n, k) leaves in rank order: items that share a SID
    share a place."""
    return find_targets(leaves, asked.target_leaves, _sizes(asked, leaves))


def sid_places(asked: Asked, leaves: NDArray[np.int64]) -> Places:
    """The places of the targets' SIDs among SIDs: what counts a hit on any item of a shared SID as
    right."""
    return find_targets(leaves, asked.target_leaves)


def first_items(asked: Asked, leaves: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(n, count) int64: the first items, by place in SID order, that (n, k) leaves give; -1 where
    there are no more."""
    trie = asked.bundle.trie()
    if trie.leaf_start is None:
        return leaves[:, :count]
    items = np.full((len(leaves), count), -1, dtype=np.int64)
    for row, ranked in enumerate(leaves):
        denied = asked.denied(row)
        enough = [leaf for leaf in ranked[: count + len(denied)].tolist() if leaf >= 0]
        groups = [np.arange(*trie.leaf_start[leaf : leaf + 2], dtype=np.int64) for leaf in enough]
        given = np.concatenate([ranked[:0], *groups])
        given = given[~np.isin(given, denied)][:count]
        items[row, : len(given)] = given
    return items


def _sizes(asked: Asked, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, k): how many items that may be given each leaf stands for."""
    trie = asked.bundle.trie()
    if trie.leaf_start is None:
        return (leaves >= 0).astype(np.int64)
    sizes = np.where(leaves >= 0, np.diff(trie.leaf_start)[leaves], 0).astype(np.int64)
    if asked.exclude_seen:
        for row, ranked in enumerate(leaves):
            taken = trie.leaves(asked.denied(row))
            sizes[row] -= (ranked[:, None] == taken).sum(axis=1)
    return sizes
