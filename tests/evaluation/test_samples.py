import json

import numpy as np

from sidtool.data.split import Example, UserSequence
from sidtool.evaluation import IndexedExamples, StoredEvaluation
from sidtool.evaluation.ranking import first_items
from sidtool.evaluation.results import HISTORY, positions_in, sampled_users
from tests.evaluation.shop import evaluate_shop, random_leaves, shop, visits


def test_samples_are_spread_and_end_with_the_first_items() -> None:
    bundle = shop(shared=True)
    events, examples = visits()
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
    leaves = random_leaves(bundle, len(examples), 50)
    result = evaluate_shop(bundle, examples, leaves, events, samples=7)
    assert [sample.user for sample in result.samples] == [f"u{30 * n // 7}" for n in range(7)]
    ids = [bundle.items.ids[row] for row in bundle.active.tolist()]
    expected = first_items(indexed, leaves, 10)
    for sample in result.samples:
        row = int(sample.user[1:])
        assert (sample.history, sample.target) == (examples[row].history, examples[row].item)
        assert sample.recommended["model"] == tuple(ids[at] for at in expected[row].tolist())
    stored = StoredEvaluation.from_json(json.loads(json.dumps(result.to_json())))
    assert (stored.samples, stored.titles) == (result.samples, result.titles)
    assert stored.baseline_intervals == result.baseline_intervals
    sampled = {item for sample in result.samples for item in (*sample.history, sample.target)}
    assert sampled <= result.titles.keys()


def test_the_baselines_recommend_items_of_the_catalog() -> None:
    bundle = shop(shared=False)
    events = [UserSequence("u", ("i1", "i2", "i2"), (0, 1, 2))]
    examples = [Example("u", ("i1",), "i9", 3)]
    leaves = random_leaves(bundle, 1, 50)
    result = evaluate_shop(bundle, examples, leaves, events, exclude_seen=True)
    (sample,) = result.samples
    # the one item that was seen is left out; items without events rank by id
    assert sample.recommended["popularity"][:3] == ("i2", "i0", "i10")
    assert sample.recommended["item-knn"][0] == "i2"
    low, high = result.baseline_intervals["popularity"]["hr@10"]
    assert low == high == result.baselines["popularity"]["hr@10"]


def test_long_histories_are_cut_and_unknown_items_stay() -> None:
    bundle = shop(shared=False)
    history = ("nowhere", *(f"i{n}" for n in range(HISTORY)))
    examples = [Example("u", history, "gone", 21), Example("v", ("gone",), "i1", 1)]
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
    short, other = sampled_users(indexed, {"model": np.array([[0, -1], [-1, -1]])}, 20)
    assert (short.earlier, short.history, short.target) == (1, history[1:], "gone")
    assert short.recommended == {"model": (bundle.items.ids[bundle.active[0]],)}
    assert (other.history, other.recommended) == (("gone",), {"model": ()})


def test_positions_of_another_bundle_are_those_of_the_same_items() -> None:
    one, other = shop(shared=False, retired=["i3"]), shop(shared=True, retired=["i3"])
    positions = np.array([[*range(39)], [*range(38), -1]])
    in_other = positions_in(one, other, positions)
    assert in_other[1, -1] == -1
    ids = [
        [bundle.items.ids[row] for row in bundle.active[user_positions]]
        for bundle, user_positions in ((one, positions[0]), (other, in_other[0]))
    ]
    assert ids[0] == ids[1]
