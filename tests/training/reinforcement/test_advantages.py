"""Advantages against hand-computed values."""

import numpy as np

from sidtool.training.reinforcement.groups import first_difference, lacks_signal


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
