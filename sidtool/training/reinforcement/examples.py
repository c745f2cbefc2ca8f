"""Histories and targets for reinforcement, out of a file of training examples.

Every next-item event of a weight above 0 becomes a prompt, as the model is served, and the item
that really came next. An example carries its own target: two users with one history keep two. Of
examples of lists, a prompt has the whole list that followed."""

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data import NO_FIELDS, Fields
from sidtool.data.split import Split, UserSequence
from sidtool.examples import Lineage, encode_example, find_task, read_training_examples
from sidtool.model.prompt import PromptEncoder
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation import Query, QuerySession
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.reinforcement.rewards.reward import Groups

TASKS = ("sequence", "next-item")
"""Tasks whose examples `rl` takes events from, in order of preference."""


@dataclass(frozen=True, eq=False)
class RlExamples:
    """n next-item events; items are rows of the bundle."""

    items: NDArray[np.int64]
    """all histories behind one another, -1 for a SID that no item has any more"""
    bounds: NDArray[np.int64]
    """(n, 2): where each history starts in `items`, and where it stops"""
    targets: ItemRows
    """(n,): the first active item with the target's SID"""
    users: tuple[str, ...]
    """(n,): the user of each event, "" if its example names none"""
    left_out: int
    """events and lists that are not used, as `read_rl_examples` says"""
    fields: "EventFields | None" = None
    """those of the events; None if no prompt shows any"""
    exclude_seen: bool = False
    """whether queries exclude the items of the history"""
    list_targets: tuple[NDArray[np.int64], ...] | None = None
    """of lists n arrays of active items, each with at least one, the target first"""
    list_values: tuple[NDArray[np.float64], ...] | None = None
    """the weight of each of these; None if the examples have no weights"""

    def __len__(self) -> int:
        return len(self.targets)

    def history(self, number: int) -> ItemRows:
        """(m,) rows of the items before an event, oldest first, without unknown ones."""
        start, stop = self.bounds[number]
        rows = self.items[start:stop]
        return ItemRows(rows[rows >= 0])

    def groups(self, numbers: Sequence[int], answers: NDArray[np.int64]) -> Groups:
        """What rewards judge: the answers, (n, G) items or (n, G, m) lists, to n events."""
        values, targets = self.list_values, self.list_targets
        return Groups(
            [self.history(number) for number in numbers],
            answers,
            self.targets[numbers] if targets is None else [targets[number] for number in numbers],
            [self.fields_before(number) for number in numbers],
            None if values is None else [values[number] for number in numbers],
        )

    def fields_before(self, number: int) -> Fields:
        """What is known before an event: the fields of the user, of the events up to the last one
        of the history, and the context of the target, of a list that of its earliest event."""
        if self.fields is None:
            return NO_FIELDS
        lists = self.list_targets
        targets = self.targets[number : number + 1] if lists is None else lists[number]
        return self.fields.before(self.users[number], self.history(number), targets)

    def query(self, session: QuerySession, number: int) -> Query:
        """The query that a model gets in serving, before the event that followed the history of an
        example."""
        user = self.users[number] or None
        history = self.history(number)
        prompt = session.from_history(history, self.fields_before(number), user=user)
        return Query(prompt, session.leaf_filter(None, [history] if self.exclude_seen else []))

    def events(self, bundle: Bundle) -> list[UserSequence]:
        """The training events that the examples show, by which targets are counted as frequent or
        rare: each item of a user once, since an event may be in several histories and lists. Of
        examples without a user the targets alone, since they may be windows of the same events."""
        shown: dict[str, set[int]] = {}
        anonymous: list[int] = []
        start = stop = -1
        shown_targets = self.list_targets or self.targets[:, None]
        spans = self.bounds.tolist()
        for user, targets, span in zip(self.users, shown_targets, spans, strict=True):
            rows = targets.tolist()
            if not user:
                anonymous += rows
                continue
            # the history of the example before may be a part of this one
            new = self.items[stop if span[0] == start else span[0] : span[1]]
            start, stop = span
            shown.setdefault(user, set()).update(rows, new[new >= 0].tolist())
        ids = bundle.items.ids
        return [
            UserSequence(user, tuple(ids[row] for row in rows), tuple(range(len(rows))))
            for user, rows in (*shown.items(), ("", anonymous))
        ]


@dataclass(frozen=True, eq=False)
class EventFields:
    """The fields of training examples' events, which their file does not repeat: looked up in the
    training events of the split that they were made from."""

    bundle: Bundle
    context: tuple[str, ...]
    """names of the fields that are known before an event"""
    users: Mapping[str, UserSequence]

    @classmethod
    def of(cls, users: Iterable[str], split: Split, bundle: Bundle) -> "EventFields":
        """Of some users of a split."""
        named = set(users)
        sequences = {user.user: user for user in split.train if user.user in named}
        return cls(bundle, tuple(split.fields.context), sequences)

    def before(self, user: str, history: NDArray[np.int64], targets: NDArray[np.int64]) -> Fields:
        """As `RlExamples.fields_before`. Raises DataError if the user has no such events."""
        sequence = self.users.get(user)
        if sequence is not None:
            rows = self.bundle.items.rows(sequence.items)
            in_bundle = np.flatnonzero(rows >= 0)
            items = self.bundle.items
            # examples show the first row with a SID
            user_rows, history_rows, target_rows = (
                items.rows_at(items.codes[part])[0] for part in (rows[in_bundle], history, targets)
            )
            places = _places(user_rows, history_rows, target_rows)
            if places is not None:
                stop, place = places
                up_to_target = sequence.fields.take(in_bundle[: place + 1].tolist())
                return up_to_target.before(place, self.context).until(stop)
        raise DataError(
            f"a training example shows events that user {user!r} has not in the split",
            hint="give the split that make-sft used",
        )


def _places(
    rows: NDArray[np.int64], history: NDArray[np.int64], targets: NDArray[np.int64]
) -> tuple[int, int] | None:
    """Where among a user's rows a history ends and the first of its targets is; None if they do not
    contain it. Of several places, the one with a target soonest behind the history."""
    if len(rows) <= len(history):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(rows[:-1], len(history))
    stops = np.flatnonzero((windows == history).all(axis=1)) + len(history)
    target_places = np.flatnonzero(np.isin(rows, targets))
    places = np.searchsorted(target_places, stops)  # of the first target from each stop on
    has_target = places < len(target_places)
    if not has_target.any():
        return None
    stops = stops[has_target]
    firsts = target_places[places[has_target]]
    soonest = (firsts - stops).argmin()
    return int(stops[soonest]), int(firsts[soonest])


def history_task(lineage: Lineage, path: Path) -> str:
    """The task whose examples are used. Raises UsageError if there is none."""
    for task in TASKS:
        if task in lineage.tasks:
            return task
    raise UsageError(
        f"rl needs examples of task {' or '.join(TASKS)}, {path} has {', '.join(lineage.tasks)}",
        hint=f"make-sft --task {TASKS[0]}=1",
    )


def read_rl_examples(
    path: Path,
    task: str | None,
    encoder: PromptEncoder,
    bundle: Bundle,
    *,
    exclude_seen: bool = False,
) -> RlExamples:
    """Read the events of a task, or without one the lists of a file. Retired items and, with
    `exclude_seen`, those of the history are no targets, since they are never recommended then; an
    event or a list without a target is left out, and so is a list without a history.

    Raises DataError for a malformed example, and if nothing is left."""
    events = _FileEvents.read(path, task, encoder)
    stops = events.bounds[:, 1]
    rows, first_active = find_items(events.codes, encoder.tokens, bundle, path)
    can_be_target = (first_active >= 0) & (events.values > 0)
    numbers = []  # of the events that are used
    list_targets, list_values = [], []
    bounds = events.bounds
    if task is not None and not exclude_seen:  # no event depends on its history
        numbers = np.flatnonzero(can_be_target[stops]).tolist()
        bounds = bounds[:0]
    for number, (start, stop, end) in enumerate(bounds.tolist()):
        history = rows[start:stop]
        usable = can_be_target[stop:end]
        if exclude_seen:
            usable = usable & ~(history[:, None] == rows[stop:end]).any(axis=0)
        if not usable.any() or (task is None and not (history >= 0).any()):
            continue
        numbers.append(number)
        if task is None:
            items, exist = _items_of_list(first_active[stop:end][usable], bundle)
            list_targets.append(items[exist])
            list_values.append(events.values[stop:end][usable][exist])
    if not numbers:
        missing = "event with a history and a target" if task else "list with a history and an item"
        raise DataError(f"{path} has no {missing} that can be recommended")
    targets = [items[0] for items in list_targets] if task is None else first_active[stops[numbers]]
    return RlExamples(
        items=rows,
        bounds=events.bounds[numbers, :2],
        targets=ItemRows(np.array(targets, dtype=np.int64)),
        users=tuple(events.users[number] for number in numbers),
        left_out=len(events.users) - len(numbers),
        exclude_seen=exclude_seen,
        list_targets=tuple(list_targets) if task is None else None,
        list_values=tuple(list_values) if events.are_weighted else None,
    )


@dataclass(frozen=True, eq=False)
class _FileEvents:
    """The SIDs of a file's examples, one behind the other, and the n events or lists among them."""

    codes: NDArray[np.int32]
    """(items * levels,) token ids"""
    values: NDArray[np.float64]
    """(items,): the weight that each has as a target"""
    bounds: NDArray[np.int64]
    """(n, 3): where each history starts; where it stops, and what followed it starts; where that
    ends"""
    users: list[str]
    are_weighted: bool
    """whether lists have weights"""

    @classmethod
    def read(cls, path: Path, task: str | None, encoder: PromptEncoder) -> "_FileEvents":
        """The events of a task, or without one the lists."""
        codes, values, bounds = array("i"), array("f"), array("q")
        users: list[str] = []
        are_weighted = False
        for example in read_training_examples(path):
            kind = find_task(example["task"])
            is_list = kind is not None and kind.target == "list"
            if not (is_list if task is None else example["task"] == task):
                continue
            first = len(values)
            ids, is_target, weights = _codes_of(example, encoder)
            codes.frombytes(ids.tobytes())
            values.frombytes(np.where(is_target, weights, 0).astype(np.float32).tobytes())
            spans = [(int((~is_target).sum()), len(is_target))]  # the targets are at the end
            if task is not None:
                is_target[:1] = False  # the first item has no history
                places = np.flatnonzero(is_target & (weights > 0)).tolist()
                spans = [(place, place + 1) for place in places]
            are_weighted |= is_list and "weight" in example
            for stop, end in spans:
                bounds.extend((first, first + stop, first + end))
                users.append(sys.intern(example.get("user", "")))
        return cls(
            np.frombuffer(codes, dtype=np.int32),
            np.frombuffer(values, dtype=np.float32).astype(np.float64),
            np.frombuffer(bounds, dtype=np.int64).reshape(-1, 3),
            users,
            are_weighted,
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
    # the first active row from `first` on, which has another SID if it is not before `stop`
    places = np.searchsorted(bundle.active, first)
    next_active = np.append(bundle.active, len(bundle.items))[places]
    return rows, np.where(next_active < stop, next_active, -1)


def _items_of_list(
    first_active: NDArray[np.int64], bundle: Bundle
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The items of a list of m SIDs, given by the first active item of each: a SID that is there
    for the i-th time stands for the i-th of its active items, as in lists that a model writes. (m,)
    rows, and (m,) whether there is one."""
    is_same_sid = first_active[:, None] == first_active  # (m, m)
    n_before = np.tril(is_same_sid, -1).sum(axis=1)
    # active items are ordered by SID: those of one SID stand behind its first
    places = np.searchsorted(bundle.active, first_active) + n_before
    is_inside = places < len(bundle.active)
    rows = bundle.active[np.where(is_inside, places, -1)]
    codes = bundle.items.codes
    has_sid = (codes[rows] == codes[first_active]).all(axis=1)
    return rows, has_sid & is_inside


def _codes_of(
    example: Mapping[str, Any], encoder: PromptEncoder
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.float32]]:
    """Of m SIDs in an example: (m * levels,) token ids of their codes, (m,) which of them are
    targets, and (m,) weights."""
    tokens = encoder.tokens
    encoded = encode_example(example, encoder, codes_only=True)
    is_code = tokens.is_code(encoded.ids)
    # what holds for the last code of a SID holds for its item
    last_codes = np.flatnonzero(is_code)[tokens.space.levels - 1 :: tokens.space.levels]
    return encoded.ids[is_code], encoded.targets[last_codes], encoded.weights[last_codes]
