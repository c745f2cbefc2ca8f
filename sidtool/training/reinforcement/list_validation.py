"""Validation of a model's lists: the share of the held-out session that they have, and their
reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Fields
from sidtool.data.split import Example
from sidtool.recommendation import Query, QuerySession
from sidtool.recommendation.search import ListOptions
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.reinforcement.pairs import ListRewardFunction
from sidtool.training.reinforcement.rewards.hits import list_recall
from sidtool.training.reinforcement.rewards.reward import ListGroups, Matrix, RewardContext


@dataclass(frozen=True, eq=False)
class ListValidation:
    """The validation users whose held-out items a list can have."""

    session: QuerySession
    """of lists"""
    users: tuple[str, ...]
    histories: tuple[ItemRows, ...]
    targets: tuple[NDArray[np.int64], ...]
    """the items of each user's held-out session, as bundle rows"""
    fields: tuple[Fields, ...]
    """what is known before each session"""
    reward: ListRewardFunction
    length: int
    num_beams: int
    exclude_seen: bool

    @classmethod
    def of(
        cls,
        session: QuerySession,
        examples: Sequence[Example],
        reward: ListRewardFunction,
        *,
        length: int,
        num_beams: int,
        exclude_seen: bool,
    ) -> Self:
        """Look up the items of examples; those without an active one of the bundle are left out.

        Raises DataError if none is left."""
        items = session.bundle.items
        is_active = session.bundle.is_active
        users = []
        histories = []
        targets = []
        fields = []
        for example in examples:
            rows = items.rows(example.history)
            in_bundle = np.flatnonzero(rows >= 0)
            history = ItemRows(rows[in_bundle])
            named = items.rows(example.items)
            following = named[named >= 0]
            following = following[is_active[following]]
            if exclude_seen:
                following = following[~np.isin(following, history)]
            if len(following):
                users.append(example.user)
                histories.append(history)
                fields.append(example.fields.take(in_bundle.tolist()))
                targets.append(np.array(list(dict.fromkeys(following.tolist())), dtype=np.int64))
        if not users:
            raise DataError("no validation user has a held-out item that a list may have")
        columns = (tuple(users), tuple(histories), tuple(targets), tuple(fields))
        return cls(session, *columns, reward, length, num_beams, exclude_seen)

    @cached_property
    def _queries(self) -> list[Query]:
        seen = [[history] if self.exclude_seen else [] for history in self.histories]
        return [
            Query(
                self.session.from_history(history, fields, user=user),
                self.session.leaf_filter(None, denied),
            )
            for user, history, fields, denied in zip(
                self.users, self.histories, self.fields, seen, strict=True
            )
        ]

    def lists(self, model: Any, process: int = 0, processes: int = 1) -> NDArray[np.int64]:
        """(n, m) bundle rows: the lists of every `processes`-th user from `process` on."""
        trie = self.session.trie
        found = self.session.search_lists(
            model,
            self._queries[process::processes],
            length=self.length,
            num_beams=self.num_beams,
            options=ListOptions("beam"),
        )
        lists = np.full((len(found), self.length), -1, dtype=np.int64)
        for row, best in enumerate(found):
            for one in best:
                rows = trie.item_rows(one.positions)
                lists[row, : len(rows)] = rows
        return lists

    def values(self, shares: Sequence[NDArray[np.int64]]) -> Matrix:
        """(n, 2): recall and reward of what `lists` returned on each process, in their order."""
        lists = np.empty((len(self.users), 1, self.length), dtype=np.int64)
        for process, share in enumerate(shares):
            lists[process :: len(shares), 0] = share
        # the weights of held-out items are not known: each counts alike
        values = [np.ones(len(rows)) for rows in self.targets]
        groups = ListGroups(self.histories, lists, self.targets, values, self.fields)
        recall = list_recall(groups, RewardContext(self.session.bundle))
        return np.concatenate([recall, self.reward(groups)], axis=1)
