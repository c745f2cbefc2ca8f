"""Advantages against hand-computed values and, for samples, against enumeration."""

import numpy as np
import pytest

from sidtool.training.reinforcement.advantages import (
    first_difference,
    lacks_signal,
    sampled_advantages,
)


def test_equal_rewards_give_no_signal() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
    valid = np.array([[True, True, True, False], [True, True, True, True]])
    assert lacks_signal(rewards, valid).tolist() == [False, True]
    assert lacks_signal(rewards, np.array([[False, True, True, False]] * 2)).tolist() == [
        True,
        True,
    ]


def test_first_difference_by_hand() -> None:
    items = np.array([[[0, 1, 2], [0, 1, 3], [0, 2, 2], [1, 1, 2], [7, 7, 7]]], dtype=np.uint16)
    targets = np.array([[0, 1, 2]], dtype=np.uint16)
    valid = np.array([[True, True, True, True, False]])
    advantages = first_difference(items, targets, valid)[0]
    # level 0: 1, 1, 1, -1; level 1: 1, 1, -1, behind; level 2: 1, -1, behind, behind
    level_0 = np.array([0.5, 0.5, 0.5, -1.5]) / np.sqrt(0.75)
    level_1 = np.array([2 / 3, 2 / 3, -4 / 3]) / np.sqrt(8 / 9)
    np.testing.assert_allclose(advantages[:4, 0], level_0, rtol=1e-3)
    np.testing.assert_allclose(advantages[:3, 1], level_1, rtol=1e-3)
    np.testing.assert_allclose(advantages[:2, 2], [1, -1], rtol=1e-3)
    assert not advantages[3, 1:].any()
    assert not advantages[2, 2]
    assert not advantages[4].any()


@pytest.mark.parametrize("certain", [None, 2])
def test_sampled_advantages_estimate_the_gradient_of_the_expected_reward(
    certain: int | None,
) -> None:
    """With softmax logits the gradient of the expected reward is p * (reward - expected reward).
    `certain` is an item that is put into every group."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=6)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    rewards = rng.normal(size=6)
    size, draws = 3, 40000
    n_drawn = size if certain is None else size - 1
    noisy = np.log(probabilities) + rng.gumbel(size=(draws, 6))
    if certain is not None:
        noisy[:, certain] = -np.inf
    order = np.argsort(-noisy, axis=1)
    threshold = np.take_along_axis(noisy, order[:, n_drawn : n_drawn + 1], axis=1)
    items = order[:, :n_drawn]
    inclusion = -np.expm1(-np.exp(np.log(probabilities)[items] - threshold))
    if certain is not None:
        items = np.concatenate([items, np.full((draws, 1), certain)], axis=1)
        inclusion = np.concatenate([inclusion, np.ones((draws, 1))], axis=1)
    advantages = sampled_advantages(
        rewards[items], probabilities[items], inclusion, np.ones_like(items, dtype=np.bool_)
    )
    # the gradient of log p(item) by the logits: one-hot less the probabilities
    one_hot = np.eye(6)[items]  # (draws, size, 6)
    gradients = (advantages[..., None] * (one_hot - probabilities)).mean(axis=1)
    expected = probabilities * (rewards - probabilities @ rewards)
    error = gradients.std(axis=0) / np.sqrt(draws)
    assert (np.abs(gradients.mean(axis=0) - expected) <= 4 * error).all()


def test_scaled_advantages_do_not_depend_on_the_level_of_the_rewards() -> None:
    rng = np.random.default_rng(0)
    probabilities, inclusion = rng.uniform(0.05, 0.2, (2, 50, 4))
    valid = np.ones((50, 4), dtype=np.bool_)
    valid[::5, 3] = False
    rewards = rng.normal(size=(50, 4))

    def scaled(values: np.ndarray) -> np.ndarray:
        return sampled_advantages(values, probabilities, inclusion, valid, scale=True)

    plain = scaled(rewards)
    np.testing.assert_allclose(plain.sum(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(scaled(rewards + 3), plain, atol=1e-9)
    np.testing.assert_allclose(scaled(rewards * 7), plain, rtol=1e-2)
    np.testing.assert_allclose(scaled(np.full((50, 4), 0.8)), 0, atol=1e-9)
    # of a group with weights that are equal, each reward less the mean by the standard deviation
    one = np.full((1, 4), 0.3)
    values = np.array([[1.0, 0.0, 0.0, 0.0]])
    advantages = sampled_advantages(values, one, one, one > 0, scale=True)
    np.testing.assert_allclose(advantages, (values - 0.25) / np.sqrt(3 / 16), rtol=1e-3)
