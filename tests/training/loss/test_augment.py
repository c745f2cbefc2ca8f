from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.examples.example_file import TokenizedExample, TokenizedExamples, encode_example
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.model.prompt.segments import PromptEncoder
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.augment import Augmentation, AugmentedExamples, item_spans
from sidtool.training.loss.item_fields import ItemFields
from sidtool.training.run_checks import _item_fields
from sidtool.training.settings import TrainOptions
from tests.model.prompt.cases import extended_tokenizer

SIDs = list[tuple[int, ...]]
MARKED, BARE = SidSpace((4, 3, 5)), SidSpace((4, 3, 5), begin=None, end=None)


ENCODERS = {space: PromptEncoder(*extended_tokenizer(space)) for space in (MARKED, BARE)}
codes = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4))
histories = st.lists(codes, min_size=1, max_size=9)
chances = st.sampled_from([0.0, 0.3, 0.8, 1.0])


def spelled(space: SidSpace, items: SIDs) -> str:
    return "".join(space.spell(item, begin_end_tokens=True) for item in items)


def encoded(space: SidSpace, row: dict[str, object], *, codes_only: bool) -> TokenizedExample:
    return encode_example(row, ENCODERS[space], codes_only=codes_only)


def sequence(space: SidSpace, items: SIDs, context: int, **more: object) -> TokenizedExample:
    """An item sequence; if `context` is within it, that many items are its prompt."""
    row: dict[str, object] = {"task": "sequence", "text": spelled(space, items), **more}
    if 0 < context < len(items):
        del row["text"]
        row["prompt"] = spelled(space, items[:context])
        row["completion"] = spelled(space, items[context:])
    return encoded(space, row, codes_only=True)


def is_part(part: SIDs, whole: SIDs) -> bool:
    left = iter(whole)
    return all(item in left for item in part)


def decoded(ids: list[int], tokens: SidTokens) -> SIDs:
    """The SIDs that the ids spell; fails if they are not whole SIDs in sequence."""
    edge = int(tokens.space.has_begin_end_tokens)
    rows = np.array(ids).reshape(-1, tokens.space.levels + 2 * edge)
    if edge:
        assert (rows[:, 0] == tokens.begin).all()
        assert (rows[:, -1] == tokens.end).all()
    items = rows[:, edge : edge + tokens.space.levels] - tokens.level_starts
    assert ((items >= 0) & (items < tokens.space.sizes)).all()
    return list(map(tuple, items.tolist()))


@given(st.sampled_from([MARKED, BARE]), histories, st.integers(0, 8), chances, st.integers(0, 99))
def test_a_shortened_history_has_whole_items_in_order(
    space: SidSpace, items: SIDs, context: int, drop: float, seed: int
) -> None:
    tokens = ENCODERS[space].tokens
    before = sequence(space, items, context)
    ids, targets, *_ = Augmentation(drop)(before, tokens, np.random.default_rng(seed))
    history = decoded(ids.tolist(), tokens)
    assert is_part(history, items)
    assert history[-1] == items[-1]
    assert len(history) >= min(2, len(items))
    if drop == 0:
        assert history == items
    if drop == 1 and len(items) > 1:
        assert history == items[-2:]
    assert not targets[0]
    size = tokens.space.levels + 2 * space.has_begin_end_tokens
    # what comes before the first target gives context, and is none
    item_targets = targets.reshape(-1, size).sum(axis=1)
    first = int(np.flatnonzero(item_targets)[0]) if item_targets.any() else 0
    assert (item_targets[first + 1 :] == tokens.space.levels).all()
    assert before[1].sum() - targets.sum() <= tokens.space.levels * (len(items) - len(history)) + 1


@given(st.sampled_from([MARKED, BARE]), histories, st.integers(0, 8), chances)
def test_a_reversed_history_has_targets_at_the_same_positions(
    space: SidSpace, items: SIDs, context: int, drop: float
) -> None:
    tokens = ENCODERS[space].tokens
    before = sequence(space, items, context)
    ids, targets, *_ = Augmentation(0.0, 1.0)(before, tokens, np.random.default_rng(0))
    assert decoded(ids.tolist(), tokens) == items[::-1]
    assert targets.tolist() == before[1].tolist()
    ids, *_ = Augmentation(drop, 1.0)(before, tokens, np.random.default_rng(0))
    assert is_part(decoded(ids.tolist(), tokens), items[::-1])
    assert decoded(before[0].tolist(), tokens) == items  # the row itself is not touched


@given(
    st.sampled_from([MARKED, BARE]),
    st.integers(1, 9),
    st.integers(0, 8),
    chances,
    st.integers(0, 99),
)
def test_shuffled_items_stay_within_the_span_and_targets_keep_their_positions(
    space: SidSpace, length: int, context: int, share: float, seed: int
) -> None:
    tokens = ENCODERS[space].tokens
    items = [(at % 4, at // 4, at % 5) for at in range(length)]  # all different
    before = sequence(space, items, context)
    rng = np.random.default_rng(seed)
    ids, targets, *_ = Augmentation(0.0, shuffle_span=share)(before, tokens, rng)
    result = decoded(ids.tolist(), tokens)
    assert sorted(result) == sorted(items)
    assert all(abs(result.index(item) - at) <= share * length for at, item in enumerate(items))
    assert targets.tolist() == before[1].tolist()
    assert decoded(before[0].tolist(), tokens) == items  # the row itself is not touched


@given(histories, chances, st.booleans(), st.integers(0, 99))
def test_the_frame_and_the_completion_of_a_next_item_example_stay(
    items: SIDs, drop: float, codes_only: bool, seed: int
) -> None:
    tokens, answer = ENCODERS[MARKED].tokens, MARKED.spell((1, 2, 3), begin_end_tokens=True)
    row = {
        "task": "next-item",
        "prompt": "red " + spelled(MARKED, items) + " blue" + MARKED.begin,
        "completion": answer[len(MARKED.begin) :] + "<eos>",
    }
    example = encoded(MARKED, row, codes_only=codes_only)
    ids, targets, *_ = example
    augmentation = Augmentation(drop, reverse_prob=1.0, shuffle_span=1.0)
    augmented, marked, *_ = augmentation(example, tokens, np.random.default_rng(seed))
    first = int(np.flatnonzero(ids == tokens.begin)[0])
    suffix = ids[first + 5 * len(items) :]
    assert augmented[:first].tolist() == ids[:first].tolist()
    assert augmented[len(augmented) - len(suffix) :].tolist() == suffix.tolist()
    history = decoded(augmented[first : len(augmented) - len(suffix)].tolist(), tokens)
    assert is_part(history, items)
    assert history[-1] == items[-1] or drop > 0
    assert augmented[marked].tolist() == ids[targets].tolist()


def with_item(*texts: str) -> str:
    return "".join(MARKED.spell((1, 2, 3), begin_end_tokens=True) + text for text in texts)


@pytest.mark.parametrize(
    "row",
    [
        {"task": "sid-to-title", "prompt": with_item(""), "completion": "red film<eos>"},
        {"task": "title-to-sid", "prompt": "red", "completion": with_item("<eos>")},
        {"task": "history-text", "text": with_item("red toy\n", "blue\n", "film\n")},
    ],
)
def test_examples_without_a_history_and_running_text_stay(row: dict[str, object]) -> None:
    before = encoded(MARKED, row, codes_only=False)
    after = Augmentation(1.0, 1.0, 1.0)(before, ENCODERS[MARKED].tokens, np.random.default_rng(0))
    assert all(np.array_equal(one, other) for one, other in zip(after, before, strict=True))


@cache
def some_rows() -> TokenizedExamples:
    n = 40
    rng, tokens = np.random.default_rng(5), ENCODERS[BARE].tokens
    ids = [(rng.integers(0, (4, 3, 5), (8, 3)) + tokens.level_starts).ravel() for _ in range(n)]
    flat = np.concatenate(ids).astype(np.int32)
    offsets = np.arange(n + 1, dtype=np.int64) * 24
    targets = np.arange(len(flat)) % 24 > 0
    weights = np.ones(len(flat), dtype=np.float32)
    return TokenizedExamples(flat, targets, weights, offsets, np.ones(n, dtype=np.bool_))


def shown(
    seed: int, epoch: int, augmentation: Augmentation, order: Any = None, epochs: int = 10**6
) -> list[list[int]]:
    rows = AugmentedExamples(some_rows(), augmentation, ENCODERS[BARE].tokens, seed)
    rows.vary(epoch, epochs)
    result = {row: rows[row][0].tolist() for row in order or range(len(rows))}
    return [result[row] for row in range(len(rows))]


def test_augmentation_depends_on_seed_epoch_and_example_only() -> None:
    augmentation = Augmentation(0.2)
    assert shown(1, 2, augmentation) == shown(1, 2, augmentation, order=list(range(39, -1, -1)))
    assert shown(1, 2, augmentation) != shown(1, 3, augmentation)
    assert shown(1, 2, augmentation) != shown(2, 2, augmentation)
    raw = some_rows()
    assert shown(1, 2, Augmentation(0.0)) == [raw[row][0].tolist() for row in range(len(raw))]


def test_probabilities_are_respected() -> None:
    plain = [some_rows()[row][0] for row in range(40)]
    lengths = [len(ids) for epoch in range(50) for ids in shown(0, epoch, Augmentation(0.3))]
    dropped = [8 - length // 3 for length in lengths]
    # 2,000 rows: five deviations are .14
    assert np.mean(dropped) == pytest.approx(7 * 0.3, abs=0.1)
    runs = (shown(0, epoch, Augmentation(0.0, 0.3)) for epoch in range(50))
    pairs = [pair for run in runs for pair in zip(run, plain, strict=True)]
    turned = [ids != raw.tolist() for ids, raw in pairs]
    assert np.mean(turned) == pytest.approx(0.3, abs=0.052)  # five deviations of 2,000 rows


@pytest.mark.parametrize(("epochs", "shares"), [(1, [1.0]), (5, [1.0, 0.75, 0.5, 0.25, 0.0])])
def test_fewer_histories_are_reordered_in_every_epoch_and_none_in_the_last(
    epochs: int, shares: list[float]
) -> None:
    plain = np.array([some_rows()[row][0] for row in range(40)])

    def moved(epoch: int, augmentation: Augmentation) -> float:
        """The share of tokens that move in six runs."""
        runs = [shown(seed, epoch, augmentation, epochs=epochs) for seed in range(6)]
        return float((np.array(runs) != plain).mean())

    every_epoch = range(epochs)
    reversed_tokens = [moved(epoch, Augmentation(0.0, 1.0)) for epoch in every_epoch]
    whole = float((plain.reshape(40, 8, 3)[:, ::-1].reshape(40, 24) != plain).mean())
    expected = [share * whole for share in shares]
    assert reversed_tokens == pytest.approx(expected, abs=0.16)  # five deviations
    shuffled = [moved(epoch, Augmentation(0.0, shuffle_span=1.0)) for epoch in every_epoch]
    assert shuffled == sorted(shuffled, reverse=True)
    assert epochs == 1 or shuffled[-1] == 0 < shuffled[-2]


def test_an_item_that_is_left_out_takes_its_text_along() -> None:
    space = BARE
    tokenizer, tokens = extended_tokenizer(space)
    items = [f"{space.spell((n % 4, n % 3, n % 5))} rated {n};" for n in range(4)]
    row = {"task": "next-item", "prompt": "".join(items) + " Next?"}
    row["completion"] = space.spell((1, 1, 1))
    example = encoded(space, row, codes_only=True)
    augmentation = Augmentation(item_dropout=0.5)
    seen = set()
    for seed in range(60):
        varied = augmentation(example, tokens, np.random.default_rng(seed))
        text = tokenizer.decode(varied.ids)
        history_text = text.removesuffix(" Next?" + space.spell((1, 1, 1)))
        present = [item for item in items if item in history_text]
        assert history_text == "".join(present)
        assert present[-1] == items[-1]  # whose text may be part of the question
        seen.add(len(present))
    assert seen == {1, 2, 3, 4}


def test_the_item_that_a_question_is_about_stays_the_newest() -> None:
    items = [(n, n % 3, n) for n in range(4)]
    row = {"task": "predict-rating", "prompt": f"{spelled(BARE, items)} toy?", "completion": "4"}
    example = encoded(BARE, row, codes_only=False)
    tokens = ENCODERS[BARE].tokens
    for seed in range(20):
        varied = Augmentation(0.5, 0.5, 1.0)(example, tokens, np.random.default_rng(seed))
        start, stop = item_spans(varied.ids, tokens)[-1]
        assert tuple(tokens.codes(varied.ids[start:stop].astype(np.int64))) == items[-1]


@given(st.sampled_from([MARKED, BARE]), histories, histories, chances, st.integers(0, 99))
def test_a_list_keeps_all_of_its_items_and_the_question(
    space: SidSpace, history: SIDs, items: SIDs, drop: float, seed: int
) -> None:
    tokens = ENCODERS[space].tokens
    begin = space.begin or ""
    prompt = f"a film\n{spelled(space, history)}\nsoft toy?\n{begin}"
    row = {"prompt": prompt, "completion": spelled(space, items).removeprefix(begin) + "<eos>"}
    before = encoded(space, {"task": "list", **row}, codes_only=True)
    varied = Augmentation(drop, 1.0, 1.0)(before, tokens, np.random.default_rng(seed))
    assert varied.ids[varied.targets].tolist() == before.ids[before.targets].tolist()
    stop = int(np.flatnonzero(before.targets)[0])
    first = int(np.flatnonzero(varied.targets)[0])
    assert varied.ids[first:].tolist() == before.ids[stop:].tolist()
    size = tokens.space.levels + 2 * space.has_begin_end_tokens
    n_dropped = (stop - first) // size
    assert (stop - first) % size == 0
    assert n_dropped < len(history)
    if drop == 1:
        assert n_dropped == len(history) - 1


GAP, RATED = 60, 70
"""Ids of the first tokens for gaps and for ratings"""
BESIDE = {
    "gap": ItemFields((True,), 0, range(GAP, 80)),
    "device": ItemFields((False,), 0, range(GAP, 80)),
    "rating": ItemFields((), 1, range(GAP, 80)),
    "both": ItemFields((True,), 1, range(GAP, 80)),
}


def sequence_with(fields: ItemFields, n_items: int) -> TokenizedExample:
    """Items 0, 1, ... whose fields have the number of the item."""
    ids: list[int] = [1]  # the token of a user
    tokens = ENCODERS[BARE].tokens
    for item in range(n_items):
        sid = np.array([item % 4, 0, item // 4]) + tokens.level_starts
        ids += [GAP + item] * fields.before + sid.tolist()
        ids += [RATED + item] * fields.after if item < n_items - 1 else []
    array = np.array(ids, dtype=np.int32)
    targets = tokens.is_code(array)
    targets[: 2 + fields.before + 3] = False  # the first item is context
    weights = np.arange(len(ids), dtype=np.float32)
    return TokenizedExample(array, targets, weights, is_sequence=True)


def shown_items(ids: np.ndarray, fields: ItemFields) -> list[tuple[int | None, int, int | None]]:
    """(field before, item, field behind) of each item, by the numbers of the items."""
    tokens = ENCODERS[BARE].tokens
    result = []
    for start, stop in item_spans(ids, tokens).tolist():
        first, _, last = (ids[start:stop] - tokens.level_starts).tolist()
        before = int(ids[start - 1]) - GAP if fields.before else None
        follows = int(ids[stop]) if stop < len(ids) else 0
        behind = follows - RATED if RATED <= follows < fields.ids.stop else None
        result.append((before, first + 4 * last, behind))
    return result


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # the time between two items stands between them in both directions
        ("gap", [(0, 3, None), (3, 2, None), (2, 1, None), (1, 0, None)]),
        ("device", [(3, 3, None), (2, 2, None), (1, 1, None), (0, 0, None)]),
        # the answer, which is the first item now, has no rating in the example
        ("both", [(0, 3, None), (3, 2, 2), (2, 1, 1), (1, 0, None)]),
    ],
)
def test_a_reversed_sequence_takes_its_fields_along(
    name: str, expected: list[tuple[int | None, int, int | None]]
) -> None:
    fields = BESIDE[name]
    before = sequence_with(fields, 4)
    augmentation = Augmentation(reverse_prob=1.0, item_fields=fields)
    varied = augmentation(before, ENCODERS[BARE].tokens, np.random.default_rng(0))
    assert shown_items(varied.ids, fields) == expected


@given(
    st.sampled_from(sorted(BESIDE)),
    st.integers(2, 9),
    chances,
    chances,
    chances,
    st.integers(0, 99),
)
def test_items_keep_their_fields_however_they_are_varied(
    name: str, n_items: int, drop: float, reverse: float, share: float, seed: int
) -> None:
    fields = BESIDE[name]
    tokens = ENCODERS[BARE].tokens
    before = sequence_with(fields, n_items)
    varied = Augmentation(drop, reverse, share, fields)(before, tokens, np.random.default_rng(seed))
    assert varied.ids[0] == 1
    for place, (ahead, item, behind) in enumerate(shown_items(varied.ids, fields)):
        if name == "device":
            assert ahead == item
        assert behind in (None, item)
        # the weight of a token is its place before
        start = int(item_spans(varied.ids, tokens)[place, 0])
        origin = int(item_spans(before.ids, tokens)[item, 0])
        assert varied.weights[start : start + 3].tolist() == [origin, origin + 1, origin + 2]
    assert fields.before == 0 or (GAP <= varied.ids[1] < RATED)
    assert varied.ids[-1] == tokens.level_starts[2] + shown_items(varied.ids, fields)[-1][1] // 4
    assert set(varied.ids[varied.targets].tolist()) <= set(tokens.token_ids.tolist())
    n_sids = len(item_spans(varied.ids, tokens))
    if drop == 0:
        assert n_sids == n_items
        assert varied.targets.sum() == before.targets.sum()
    if drop == 1:
        assert n_sids == 2


def test_text_beside_items_keeps_a_sequence_in_order() -> None:
    prompt = HistoryPrompt("sequence", "{history}", 5, 50, item="{event.rating}{sid}")
    facts = (SimpleNamespace(history_prompt=prompt), SimpleNamespace(fields=None))
    _item_fields(*facts, TrainOptions(item_dropout=0.5))
    for options in ({"reverse_prob": 0.5}, {"shuffle_span": 0.5}):
        with pytest.raises(UsageError, match="change the order of items"):
            _item_fields(*facts, TrainOptions(**options))


def test_other_tokens_between_items_keep_a_sequence_in_order() -> None:
    fields = BESIDE["rating"]
    before = sequence_with(fields, 4)
    before.ids[1 + 3] = 2  # no field token
    augmentation = Augmentation(reverse_prob=1.0, item_fields=fields)
    varied = augmentation(before, ENCODERS[BARE].tokens, np.random.default_rng(0))
    assert varied.ids.tolist() == before.ids.tolist()
