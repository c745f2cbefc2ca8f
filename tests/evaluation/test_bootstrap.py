"""Bootstrap intervals against theory; users are the resampled units."""

from typing import Any

import numpy as np
import pytest

from sidtool.evaluation import bootstrap


def intervals(values: np.ndarray, users: list[str], **options: Any) -> np.ndarray:
    """(metrics, 2): the intervals over all examples."""
    names = [f"m{column}" for column in range(values.shape[1])]
    ends = bootstrap.intervals(names, values, users, **options)["all"]
    return np.array(list(ends.values()))


def users(n: int) -> list[str]:
    return [f"u{row}" for row in range(n)]


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((100, 1))
    whole = intervals(values, users(100))
    monkeypatch.setattr("sidtool.evaluation.bootstrap.CHUNK", 700)
    assert (intervals(values, users(100)) == whole).all()


def test_ids_of_users_may_end_in_a_null_or_be_long() -> None:
    values = np.array([[0.0], [1.0], [0.0]])
    expected = intervals(values, ["a", "b", "c"])
    assert (intervals(values, ["a", "a\0", "b" * 100_000]) == expected).all()


def drawn_examples(users: list[str], seed: int, resamples: int) -> list[list[int]]:
    """The examples of each resample, one by one, a user's examples as often as the user."""
    distinct = sorted(set(users))
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(distinct), size=(resamples, len(distinct)))
    examples = {
        user: [row for row, owner in enumerate(users) if owner == user] for user in distinct
    }
    return [[row for number in draw for row in examples[distinct[number]]] for draw in draws]


def test_intervals_of_groups_equal_means_over_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng = np.random.default_rng(0)
    owners = [f"u{number}" for number in rng.integers(0, 20, 60)]
    values, other = rng.random((60, 2)), rng.random((60, 2))
    groups = {"all": np.ones(60), "slice": np.arange(60.0) < 30, "weighted": rng.random(60)}
    ends = bootstrap.intervals(["a", "b"], values, owners, groups, seed=3)
    differences = bootstrap.paired_differences(["a", "b"], values, other, owners, groups, seed=3)
    drawn = drawn_examples(owners, 3, 200)
    for group, weights in groups.items():
        means = [np.average(values[rows], axis=0, weights=weights[rows]) for rows in drawn]
        expected = np.quantile(means, [0.025, 0.975], axis=0).T
        np.testing.assert_allclose(list(ends[group].values()), expected)
        other_means = [np.average(other[rows], axis=0, weights=weights[rows]) for rows in drawn]
        difference = np.array(means) - np.array(other_means)
        low, high = np.quantile(difference, [0.025, 0.975], axis=0)
        for column, name in enumerate(("a", "b")):
            result = differences[group][name]
            assert (result.low, result.high) == pytest.approx((low[column], high[column]))
            mean = np.average((values - other)[:, column], weights=weights)
            assert result.mean == pytest.approx(mean)
            signs = (difference[:, column] <= 0).sum(), (difference[:, column] >= 0).sum()
            assert result.p_value == pytest.approx(min(1, 2 * (min(signs) + 1) / 201))


def test_a_resample_without_anyone_of_a_group_does_not_count() -> None:
    values = np.array([[0.5], *[[0.0]] * 9])
    groups = {"one": np.array([1.0, *[0.0] * 9])}  # 35% of the resamples lack this user
    assert bootstrap.intervals(["m"], values, users(10), groups)["one"]["m"] == (0.5, 0.5)
    difference = bootstrap.paired_differences(["m"], values, 0 * values, users(10), groups)
    assert difference["one"]["m"].p_value < 0.01
