"""Histories and targets for reinforcement, out of a file of training examples.

Every next-item event of a weight above 0 becomes a prompt, as the model is served, and the item
that really came next. An example carries its own target: two users with one history keep two."""

import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split.split import UserSequence
from sidtool.examples.example_file import encode_example, read_training_examples
from sidtool.examples.lineage import Lineage
from sidtool.model.prompt.encoder import PromptEncoder
from sidtool.model.prompt.tokens import SidTokens
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.index_spaces import ItemRows

TASKS = ("sequence", "next-item")
"""Tasks whose examples show a history as SIDs, in order of preference."""


@dataclass(frozen=True, eq=False)
class RlExamples:
    """n next-item events; items are rows of the bundle."""

    items: NDArray[np.int64]
    """all histories behind one another, -1 for a SID that no item has any more"""
    starts: NDArray[np.int64]
    """(n,): where each history starts in `items`"""
    stops: NDArray[np.int64]
    """(n,): where it stops"""
    targets: ItemRows
    """(n,): the first active item with the target's SID"""
    values: NDArray[np.float64] | None
    """(n,): the weight of each event; None if the examples have none"""
    users: tuple[str, ...]
    """(n,): the user of each event, "" if its example names none"""
    left_out: int
    """events whose target cannot be recommended: a retired item, or one of the history where seen
    items are excluded"""

    def __len__(self) -> int:
        return len(self.targets)

    def history(self, number: int) -> ItemRows:
        """(m,) rows of the items before an event, oldest first, without unknown ones."""
        rows = self.items[self.starts[number] : self.stops[number]]
        return ItemRows(rows[rows >= 0])

    def events(self, bundle: Bundle) -> list[UserSequence]:
        """The events that the examples show, by which targets are counted as frequent or rare."""
        return shown_events(self, [[target] for target in self.targets.tolist()], bundle)


def shown_events(
    examples: RlExamples, targets: Iterable[Sequence[int]], bundle: Bundle
) -> list[UserSequence]:
    """The training events that examples with these targets show: each item of a user once, since an
    event may be in several histories and lists. Of examples without a user the targets alone, since
    they may be windows of the same events."""
    shown: dict[str, set[int]] = {}
    anonymous: list[int] = []
    start = stop = -1
    spans = zip(examples.starts.tolist(), examples.stops.tolist(), strict=True)
    for user, rows, span in zip(examples.users, targets, spans, strict=True):
        if not user:
            anonymous += rows
            continue
        # the history of the example before may be a part of this one
        new = examples.items[stop if span[0] == start else span[0] : span[1]]
        start, stop = span
        shown.setdefault(user, set()).update(rows, new[new >= 0].tolist())
    ids = bundle.items.ids
    return [
        UserSequence(user, tuple(ids[row] for row in rows), tuple(range(len(rows))))
        for user, rows in (*shown.items(), ("", anonymous))
    ]


def history_task(lineage: Lineage, path: Path) -> str:
    """The task whose examples are used. Raises UsageError if there is none."""
    for task in TASKS:
        if task in lineage.tasks:
            return task
    raise UsageError(
        f"{path} has no task that shows histories as SIDs, only {', '.join(lineage.tasks)}",
        hint=f"make-sft --task {TASKS[0]}=1",
    )


def read_rl_examples(
    path: Path,
    task: str,
    encoder: PromptEncoder,
    tokens: SidTokens,
    bundle: Bundle,
    *,
    exclude_seen: bool = False,
) -> RlExamples:
    """Read the events of a task. With `exclude_seen`, an event of an item that is in its history is
    left out, since such items are never recommended then.

    Raises DataError for a malformed example, and if there is no event with a history."""
    codes = array("i")  # token ids of codes
    starts = array("q")
    stops = array("q")
    values = array("d")
    users = []
    is_weighted = False
    for example in read_training_examples(path):
        if example["task"] != task:
            continue
        first_item = len(codes) // tokens.space.levels
        encoded = encode_example(example, encoder, tokens, codes_only=True)
        is_code = tokens.is_code(encoded.ids)
        codes.frombytes(encoded.ids[is_code].tobytes())
        # what holds for the last code of a SID holds for its item
        last_codes = np.flatnonzero(is_code)[tokens.space.levels - 1 :: tokens.space.levels]
        weights = encoded.weights[last_codes]  # (items of the example,)
        is_target = encoded.targets[last_codes] & (weights > 0)
        is_target[:1] = False  # the first item has no history
        for position in np.flatnonzero(is_target).tolist():
            starts.append(first_item)
            stops.append(first_item + position)
            values.append(weights[position])
            users.append(sys.intern(example.get("user", "")))
        is_weighted |= "weight" in example
    rows, first_active = find_items(np.frombuffer(codes, dtype=np.int32), tokens, bundle, path)
    stop_array = np.frombuffer(stops, dtype=np.int64)
    start_array = np.frombuffer(starts, dtype=np.int64)
    # the target is the item right behind the history
    targets = first_active[stop_array]
    usable = targets >= 0
    if exclude_seen:
        usable &= ~_repeats(rows, start_array, stop_array)
    if not usable.any():
        raise DataError(f"{path} has no event with a history and a target that can be recommended")
    return RlExamples(
        items=rows,
        starts=start_array[usable],
        stops=stop_array[usable],
        targets=ItemRows(targets[usable]),
        values=np.frombuffer(values, dtype=np.float64)[usable] if is_weighted else None,
        users=tuple(compress(users, usable.tolist())),
        left_out=int((~usable).sum()),
    )


def find_items(
    ids: NDArray[np.int32], tokens: SidTokens, bundle: Bundle, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of m SIDs, given as m * levels token ids, the first row with that SID and the first
    active one, -1 if there is none."""
    if len(ids) % tokens.space.levels:
        raise DataError(f"{path} has an example with a SID that is not whole")
    by_item = ids.reshape(-1, tokens.space.levels).astype(np.int64)
    if (tokens.levels(by_item) != np.arange(tokens.space.levels)).any():
        raise DataError(f"{path} has an example whose codes are not in the order of the levels")
    first, stop = bundle.items.rows_at(tokens.codes(by_item))
    rows = np.where(first < stop, first, -1)
    places = np.searchsorted(bundle.active, first)
    active = np.append(bundle.active, len(bundle.items))[places]
    return rows, np.where(active < stop, active, -1)


def _repeats(
    rows: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(n,): whether the item at each stop is among those from its start on."""
    return np.array(
        [
            bool((rows[start:stop] == rows[stop]).any())
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ],
        dtype=np.bool_,
    )
