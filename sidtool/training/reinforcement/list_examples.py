"""Histories and the lists that followed them, out of a file of training examples of task list."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.split.split import UserSequence
from sidtool.examples.example_file import TokenizedExample, encode_example, read_training_examples
from sidtool.examples.tasks import LIST_TASK
from sidtool.model.prompt.encoder import PromptEncoder
from sidtool.model.prompt.tokens import SidTokens
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.index_spaces import ItemRows
from sidtool.training.reinforcement.examples import RlExamples, find_items, shown_events


@dataclass(frozen=True, eq=False)
class ListExamples(RlExamples):
    """n histories with the lists that followed them; `targets` are their first items."""

    list_targets: tuple[NDArray[np.int64], ...] = ()
    """n lists of bundle rows, of active items, each with at least one"""
    list_values: tuple[NDArray[np.float64], ...] | None = None
    """the weight of each target; None if the examples have no weights"""

    def events(self, bundle: Bundle) -> list[UserSequence]:
        """As the parent class, with all items of each list as targets."""
        return shown_events(self, [targets.tolist() for targets in self.list_targets], bundle)


def read_list_examples(
    path: Path,
    encoder: PromptEncoder,
    tokens: SidTokens,
    bundle: Bundle,
    *,
    exclude_seen: bool = False,
) -> ListExamples:
    """Read the lists of a file. Items that are retired and, with `exclude_seen`, those of the
    history are no targets; a list without a target is left out.

    Raises DataError for a malformed example, and if no list is left."""
    histories = []
    targets = []
    values = []
    users = []
    left_out = 0
    is_weighted = False
    for example in read_training_examples(path):
        if example["task"] != LIST_TASK:
            continue
        encoded = encode_example(example, encoder, tokens, codes_only=True)
        history, following, weights = _items(encoded, tokens, bundle, path)
        usable = (following >= 0) & (weights > 0)
        if exclude_seen:
            usable &= ~np.isin(following, history)
        is_weighted |= "weight" in example
        if not len(history) or not usable.any():
            left_out += 1
            continue
        histories.append(history)
        targets.append(following[usable])
        values.append(weights[usable])
        users.append(sys.intern(example.get("user", "")))
    if not histories:
        raise DataError(f"{path} has no list with a history and an item that can be recommended")
    stops = np.cumsum([len(history) for history in histories])
    return ListExamples(
        items=np.concatenate(histories),
        starts=np.concatenate([[0], stops[:-1]]).astype(np.int64),
        stops=stops.astype(np.int64),
        targets=ItemRows(np.array([rows[0] for rows in targets], dtype=np.int64)),
        values=None,
        users=tuple(users),
        left_out=left_out,
        list_targets=tuple(targets),
        list_values=tuple(values) if is_weighted else None,
    )


def _items(
    encoded: TokenizedExample, tokens: SidTokens, bundle: Bundle, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The rows of the history, the first active row of each target's SID, -1 if there is none, and
    the targets' weights."""
    is_code = tokens.is_code(encoded.ids)
    rows, first_active = find_items(encoded.ids[is_code], tokens, bundle, path)
    # what holds for the last code of a SID holds for its item
    last_codes = np.flatnonzero(is_code)[tokens.space.levels - 1 :: tokens.space.levels]
    is_target = encoded.targets[last_codes]
    history = rows[~is_target]
    weights = encoded.weights[last_codes[is_target]].astype(np.float64)
    return history[history >= 0], first_active[is_target], weights
