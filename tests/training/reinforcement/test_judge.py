from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidtool.data.split.values import Example, UserSequence
from sidtool.evaluation.validation import Judge, Measurement
from sidtool.model.load import load_model_folder
from sidtool.recommendation.query import QuerySession
from sidtool.recommendation.search.results import RankedQueries


@pytest.fixture(scope="module")
def judge(tuned: Path) -> Judge:
    """Forty users, of which each wants another item; items 0 to 19 are popular, the others cold."""
    examples = [Example(f"u{n}", (f"i{(n + 1) % 40}",), f"i{n}", 1) for n in range(40)]
    items = tuple(f"i{i}" for i in range(20))
    popular = [UserSequence(f"v{n}", items, tuple(range(20))) for n in range(100)]
    session = QuerySession.of(load_model_folder(tuned))
    return Judge.of(session, examples, popular, metric="ndcg@3", num_beams=3, exclude_seen=False)


def ranked(judge: Judge, hits: np.ndarray) -> RankedQueries:
    """What finds the target first for the users with `hits`, and nothing for the others."""
    targets = judge.examples.target_leaves
    leaves = np.full((40, 3), -1)
    leaves[hits, 0] = targets[hits]
    return RankedQueries(leaves, np.where(hits, 3, 1))


def test_measurements_by_hand(judge: Judge) -> None:
    hits = np.arange(40) < 10
    whole = judge.measure([ranked(judge, hits)])
    expected = {"hr@3": 0.25, "ndcg@3": 0.25, "coverage@3": 0.25, "survival@1": 1.0}
    assert {name: whole.metrics[name] for name in expected} == expected
    assert whole.metrics["survival@3"] == 0.25
    # the shares of two processes are every second user each
    both = ranked(judge, hits)
    halves = [RankedQueries(both.leaves[start::2], both.survived[start::2]) for start in range(2)]
    assert judge.measure(halves).metrics == whole.metrics


def test_a_slice_of_few_users_is_not_judged(judge: Judge) -> None:
    start = judge.measure([ranked(judge, np.arange(40) < 40)])
    current = judge.measure([ranked(judge, np.arange(40) < 39)])
    lost = replace(judge, groups={**judge.groups, "cold": (np.arange(40) >= 31) * 1.0})
    assert not lost.worse_slices(start, current)
    users = judge.groups["cold"].copy()
    assert users.sum() == 20
    gone = judge.measure([ranked(judge, np.arange(40) < 30)])
    assert ("ndcg@3", "cold") in judge.worse_slices(start, gone)


def test_lists_that_recall_less_are_a_worse_slice(judge: Judge) -> None:
    users = tuple(f"u{n}" for n in range(30))
    recall = np.linspace(0.2, 0.8, 30)

    def measured(recall: np.ndarray, reward: float) -> Measurement:
        whole = judge.measure([ranked(judge, np.arange(40) < 20)])
        return whole.with_lists(users, np.stack([recall, recall * 0 + reward], axis=1))

    start = measured(recall, 0.1)
    assert start.metrics["list_recall"] == pytest.approx(0.5)
    assert start.metrics["list_reward"] == pytest.approx(0.1)
    worse = judge.worse_slices(start, measured(recall - 0.1, 0.9))
    assert set(worse) == {("list_recall", "all")}
    assert worse["list_recall", "all"].mean == pytest.approx(-0.1)
    # what differs by chance is within the interval
    noise = np.random.default_rng(0).normal(0, 0.2, 30)
    assert not judge.worse_slices(start, measured(recall + noise - noise.mean() - 0.01, 0.9))
    assert replace(judge, metric="list_reward").k == 10


def test_a_loss_on_a_slice_is_seen_behind_a_gain_on_another(judge: Judge) -> None:
    start = judge.measure([ranked(judge, np.arange(40) < 20)])
    popular = {f"i{i}" for i in range(20)}
    frequent = np.array([example.item in popular for example in judge.examples.examples])
    current = judge.measure([ranked(judge, ~frequent)])
    worse = judge.worse_slices(start, current)
    assert set(worse) == {("ndcg@3", "popular"), ("ndcg@3", "warm")}
    assert worse["ndcg@3", "popular"].mean == -1
    assert not judge.worse_slices(start, start)
    # one user more or less is within the interval
    assert not judge.worse_slices(start, judge.measure([ranked(judge, np.arange(40) < 19)]))
