import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.data import Items
from sidtool.data.split import Split, write_examples
from sidtool.data.split.values import Example, FurtherTarget, UserSequence
from sidtool.examples import ExampleMaker, SftOptions, blocks, named_task
from sidtool.examples.example_file import example_json
from sidtool.examples.tasks import BLOCKS
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_tokenizer
from tests.pairs import all_pairs

N_ITEMS = 60
TASKS = (
    *("sequence", "next-item", "title-history-to-sid"),
    *("history-to-title", "history-to-description", "title-history-to-title"),
)


def catalog_of(ids: tuple[str, ...]) -> Items:
    """Titles of every length with quotes, marks and letters of every width; some are empty."""
    titles = tuple(
        "" if row % 7 == 0 else f'"{row}\\ 漢字 <s_a_1>\u2028 ' + "word " * (row % 30)
        for row in range(len(ids))
    )
    descriptions = tuple("" if row % 4 == 0 else f"About\t{row} {{}}" for row in range(len(ids)))
    return Items(ids, titles, titles, {"description": descriptions}, "{title}", "digest")


def shop(begin: bool) -> tuple[Bundle, Items]:
    ids = tuple(f'i"{row}' if row % 3 else f"ü{row}" for row in range(N_ITEMS))
    space = SidSpace((8, 8, 9)) if begin else SidSpace((8, 8, 9), '<"{level}|{code}\\>', None, None)
    codes = np.random.default_rng(1).integers(0, 8, (N_ITEMS, 3)).astype(np.uint16)
    bundle = Bundle.of(ItemMap.of(space, ids, codes, [""] * N_ITEMS), None, "reassign", name="b")
    return bundle, catalog_of(ids)


def random_split(seed: int, leaks: bool = False) -> Split:
    """Users with none to many events, some of items that the bundle lacks, some with gaps between
    positions; held-out events at positions of training events are of other items unless they
    leak."""
    rng = np.random.default_rng(seed)
    ids = [f'i"{row}' if row % 3 else f"ü{row}" for row in range(N_ITEMS + 9)]
    train, held_out = [], []
    for number in range(20):
        user = f'u\\"{number}' if number % 2 else f"漢{number}"
        n = int(rng.choice([0, 1, 2, 3, 5, 13, 30]))
        items = tuple(rng.choice(ids, n).tolist())
        positions = tuple(np.sort(rng.permutation(2 * n)[:n]).tolist())
        train.append(UserSequence(user, items, positions))
        for index in range(0, n, 5):
            other = items[index] if leaks else "another item"
            extra = (FurtherTarget(items[-1] if leaks else "x", positions[-1]),)
            held_out.append(Example(user, (), other, positions[index], rest=extra * (seed % 2)))
    held_out.append(Example("nobody", ("i1",), "i2", 1))
    half = len(held_out) // 2
    return Split("temporal", tuple(train), tuple(held_out[:half]), tuple(held_out[half:]))


def lines_one_by_one(maker: ExampleMaker, bundle: Bundle, task: str, split: Split) -> Any:
    examples = list(maker.task_examples(task, split))
    values = [example_json(bundle.space, example) for example in examples]
    lines = "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values).encode()
    lengths = [maker.length(example.segments) for example in examples]
    leaked = split.held_out.count(event for example in examples for event in example.events)
    return lines, lengths, leaked


def lines_at_once(
    maker: ExampleMaker, task: str, split: Split, users: range | None = None, first: int = 0
) -> Any:
    events = maker.events(split)
    made = maker.task_blocks(task, split, events, users or range(len(events)), first)
    # the order in which they are made has no effect
    blocks = [make() for make in reversed(list(made))][::-1]
    lines = b"".join(bytes(block.lines) for block in blocks)
    lengths = [length for block in blocks for length in block.lengths.tolist()]
    return lines, lengths, sum(block.leaked for block in blocks)


SETTINGS = (
    # whether SIDs begin, tokenizer, history_length, max_length, weight
    (True, None, 1, 30, 1.0),
    (True, "plain", 20, 420, 2.5),
    (False, "chat", 6, 700, 1.0),
    (False, None, 50, 9999, 0.4),
    (True, "chat", 3, 1024, 4.0),
)


@pytest.mark.parametrize(("task", "settings", "seed"), all_pairs(TASKS, SETTINGS, range(4)))
def test_the_lines_are_those_of_single_examples(
    monkeypatch: pytest.MonkeyPatch, task: str, settings: Any, seed: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 37)
    begin, tokenizer, history_length, max_length, weight = settings
    bundle, items = shop(begin)
    options = SftOptions(
        {task: weight},
        format="chat" if tokenizer == "chat" else "plain",
        max_length=max_length,
        history_length=history_length,
        hide_text_of=frozenset(items.ids[2::9]),
    )
    measure = None if tokenizer is None else tiny_tokenizer(chat=tokenizer == "chat")
    maker = ExampleMaker(bundle, items, options, measure)
    split = random_split(seed, leaks=seed > 1)
    expected = lines_one_by_one(maker, bundle, task, split)
    assert lines_at_once(maker, task, split) == expected
    assert (expected[2] > 0) == (seed > 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_users_are_those_written_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 5)
    split = random_split(seed)  # seed 1 has further targets
    histories = [replace(example, history=("é", 'i"1')) for example in split.test]
    for examples in ((), (*split.valid, *histories), split.valid[:1]):
        part = replace(split, valid=tuple(examples), test=()).valid
        write_examples(tmp_path / "expected", part)
        blocks.write_validation(tmp_path / "made", part)
        assert (tmp_path / "made").read_bytes() == (tmp_path / "expected").read_bytes()


def test_parts_of_the_users_are_the_whole() -> None:
    bundle, items = shop(True)
    maker = ExampleMaker(bundle, items, SftOptions({"title-history-to-sid": 2.0}))
    split = random_split(0)
    whole, _, _ = lines_at_once(maker, "title-history-to-sid", split)
    parts = b""
    for users in (range(11), range(11, 12), range(12, len(split.train))):
        first = maker.count_before("title-history-to-sid", split, users.start)
        parts += lines_at_once(maker, "title-history-to-sid", split, users, first)[0]
    assert parts == whole


def test_a_history_that_does_not_fit_is_refused_both_ways() -> None:
    bundle, items = shop(True)
    options = SftOptions({"title-history-to-sid": 1.0}, max_length=60)
    maker = ExampleMaker(bundle, items, options, tiny_tokenizer())
    split = random_split(0)
    for make in (lines_at_once, lambda *inputs: lines_one_by_one(maker, bundle, *inputs[1:])):
        with pytest.raises(DataError, match="does not fit 60 tokens"):
            make(maker, "title-history-to-sid", split)


def test_what_shows_fields_or_has_a_budget_is_made_one_by_one(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    assert {named_task(task).make for task in TASKS} == set(BLOCKS)
    given_split = replace(split, protocol="given", windows=tuple(split.valid))
    options = SftOptions({"next-item": 1.0, "title-to-sid": 1.0})
    maker = ExampleMaker(bundle, catalog, options)
    users = range(len(split.train))
    assert maker.task_blocks("next-item", split, maker.events(split), users) is not None
    assert maker.task_blocks("next-item", given_split, maker.events(given_split), users) is None
    assert maker.task_blocks("title-to-sid", split, maker.events(split), users) is None
    budget = replace(options, max_tokens=500)
    limited = ExampleMaker(bundle, catalog, budget, tiny_tokenizer())
    assert limited.task_blocks("next-item", split, limited.events(split), users) is None
