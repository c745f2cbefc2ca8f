from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split.split import Split
from sidtool.examples.lineage import read_lineage
from sidtool.model.prompt.segments import prompt_encoder
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.reinforcement.examples import (
    RlExamples,
    _places,
    history_task,
    read_rl_examples,
)
from tests.bundles import small_bundle
from tests.cli.road import write_lines
from tests.model.prompt.cases import extended_tokenizer

BUNDLE = small_bundle(12)
IDS = list(BUNDLE.items.ids)


def sid(row: int) -> str:
    return BUNDLE.space.spell(BUNDLE.items.codes[row], begin_end_tokens=True)


def read(
    path: Path, task: str | None = "sequence", bundle: Bundle = BUNDLE, **options: bool
) -> RlExamples:
    encoder = prompt_encoder(*extended_tokenizer(bundle.space))
    return read_rl_examples(path, task, encoder, bundle, **options)


def test_every_target_of_a_sequence_becomes_an_event(tmp_path: Path) -> None:
    rows = [
        {"task": "sequence", "text": sid(3) + sid(5) + sid(3)},
        {"task": "title-to-sid", "prompt": "x", "completion": sid(1)},
        {"task": "sequence", "prompt": sid(7) + sid(8), "completion": sid(9), "weight": [1, 1, 4]},
    ]
    examples = read(path := write_lines(tmp_path / "train.jsonl", rows))
    histories = [examples.history(number).tolist() for number in range(len(examples))]
    assert histories == [[3], [3, 5], [7, 8]]
    assert (examples.targets.tolist(), examples.left_out) == ([5, 3, 9], 0)
    (events,) = examples.events(BUNDLE)
    assert events.items == (IDS[5], IDS[3], IDS[9])
    # with seen items excluded, the repeated item 3 can never be recommended
    unseen = read(path, exclude_seen=True)
    assert (unseen.targets.tolist(), unseen.left_out) == ([5, 9], 1)


def test_events_are_counted_once_per_user_and_item(tmp_path: Path) -> None:
    rows = [
        {"task": "sequence", "user": "a", "text": sid(1) + sid(2) + sid(3)},
        # a later window of the same user
        {"task": "sequence", "user": "a", "prompt": sid(2) + sid(3), "completion": sid(4)},
        {"task": "sequence", "user": "b", "text": sid(4) + sid(1)},
        {"task": "sequence", "text": sid(5) + sid(6)},
    ]
    path = write_lines(tmp_path / "train.jsonl", rows)
    events = {sequence.user: set(sequence.items) for sequence in read(path).events(BUNDLE)}
    assert events == {"a": {IDS[1], IDS[2], IDS[3], IDS[4]}, "b": {IDS[1], IDS[4]}, "": {IDS[6]}}


def test_items_of_a_list_that_share_a_sid_are_different_targets(tmp_path: Path) -> None:
    bundle = small_bundle(12, (2, 2, 2), duplicates=True)
    sids = [bundle.space.spell(codes, begin_end_tokens=True) for codes in bundle.items.codes]
    shared_sid = next(text for text in sids if sids.count(text) > 1)
    rows = [row for row, text in enumerate(sids) if text == shared_sid]
    other = next(row for row in range(12) if row not in rows)
    # as often as it has items, and once more
    answer = sids[other] + shared_sid * (len(rows) + 1)
    example = {"task": "list", "prompt": sids[other], "completion": answer}
    path = write_lines(tmp_path / "train.jsonl", [example])
    [targets] = read(path, None, bundle).list_targets or ()
    assert targets.tolist() == [other, *rows]


def test_next_item_examples_have_their_target_in_the_completion(tmp_path: Path) -> None:
    prompt = f"bought {sid(2)}{sid(4)} next:"
    example = {"task": "next-item", "prompt": prompt, "completion": sid(6)}
    examples = read(write_lines(tmp_path / "train.jsonl", [example]), "next-item")
    assert examples.history(0).tolist() == [2, 4]
    assert examples.targets.tolist() == [6]


def test_other_tasks_that_show_histories_are_refused(made: Path) -> None:
    lineage = read_lineage(made)
    lineage = replace(lineage, tasks={"context-to-sid": lineage.tasks["sequence"]})
    with pytest.raises(UsageError, match=r"sequence or next-item, .* has context-to-sid"):
        history_task(lineage, made)


def test_a_history_is_found_where_a_target_follows() -> None:
    def places(history: list[int], targets: list[int]) -> tuple[int, int] | None:
        return _places(np.array([1, 2, 3, 1, 2]), np.array(history), np.array(targets))

    assert places([1], [2]) == (1, 1)
    assert places([2, 3], [2]) == (3, 4)
    assert places([3, 1], [3]) is None
    assert places([1, 2, 3, 1, 2], [2]) is None


def test_events_are_those_of_the_split(made: Path, bundle: Bundle, split: Split) -> None:
    """Sequence examples have every training event but a user's first once as a target."""
    lineage = read_lineage(made)
    examples = read(made, history_task(lineage, made), bundle)
    assert len(examples) == sum(len(user.items) - 1 for user in split.train if user.items)
    pairs = {pair for user in split.train for pair in pairwise(user.items)}
    ids = bundle.items.ids
    for number in range(len(examples)):
        last = examples.history(number)[-1]
        assert (ids[last], ids[examples.targets[number]]) in pairs


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"task": "sequence", "text": sid(3)}, "no event with a history"),
        ({"task": "sequence", "text": sid(3) + sid(5), "weight": [0, 0]}, "no event with a hist"),
        ({"task": "sequence", "text": "".join(BUNDLE.space.tokens[:2]) + sid(1)}, "not whole"),
        (
            {"task": "sequence", "text": "".join(BUNDLE.space.tokens[:3]) + sid(1)},
            "in the order of",
        ),
    ],
)
def test_unusable_examples_are_one_line(
    tmp_path: Path, example: dict[str, object], message: str
) -> None:
    path = write_lines(tmp_path / "train.jsonl", [example])
    for exclude_seen in (False, True):
        with pytest.raises(DataError, match=message) as caught:
            read(path, exclude_seen=exclude_seen)
        assert "\n" not in str(caught.value)
