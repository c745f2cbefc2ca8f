import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import UsageError
from sidtool.training.reinforcement.rewards.kinds import parse_rewards
from sidtool.training.reinforcement.rewards.reward import Groups, RewardContext, reward_sum
from tests.bundles import small_bundle

A, B, C, D = range(4)


def rewards_of(text: str, lists: Any, targets: Any, values: Any = None, **scores: Any) -> Any:
    """The rewards of the lists of one prompt."""
    values = None if values is None else [np.array(values)]
    groups = Groups([np.array([7])], np.array([lists]), [np.array(targets)], values=values)
    context = RewardContext(small_bundle(8), scores)
    return reward_sum(parse_rewards(text, lists=True), groups, context)[0].tolist()


def test_recall_is_the_share_of_the_targets() -> None:
    lists = [[A, B, C], [D, C, -1], [B, -1, -1]]
    assert rewards_of("recall", lists, [A, C]) == [1.0, 0.5, 0.0]


def test_ndcg_discounts_by_place_and_weight() -> None:
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    rewards = rewards_of("ndcg", [[A, C, B], [B, A, C]], [A, C])
    assert rewards == pytest.approx([1.0, (second + third) / (1 + second)])
    # with weights the best list begins with the heavier target
    weighted = rewards_of("ndcg=2", [[A, C], [C, A]], [A, C], [1.0, 3.0])
    assert weighted == pytest.approx([2 * (1 + 3 * second) / (3 + second), 2.0])


def test_value_is_the_share_of_the_weights() -> None:
    assert rewards_of("value", [[A, B], [C, D]], [A, C], [1.0, 3.0]) == [0.25, 0.75]
    # the lineage may claim weights that no example has
    with pytest.raises(UsageError, match="needs training examples with weights"):
        rewards_of("value", [[A]], [A])


def test_scores_of_items_are_averaged_over_the_list() -> None:
    def scorer(histories: Sequence[Any], fields: Any, items: Any) -> Any:
        assert [history.tolist() for history in histories] == [[7]]
        return np.where(items >= 0, items * 1.0, 0.0)

    lists = [[B, D], [C, -1]]
    assert rewards_of("collaborative", lists, [A], collaborative=scorer) == [2.0, 2.0]
    assert rewards_of("recall=1,label=-1", lists, [C], label=scorer) == [-2.0, -1.0]


def test_a_function_of_the_user_gets_item_ids(tmp_path: Any, monkeypatch: Any) -> None:
    ids = small_bundle(8).items.ids
    expected = ([[ids[7]]], [[[ids[B], ids[D]], [ids[C]]]], [[ids[A]]])
    (tmp_path / "my_list_rewards.py").write_text(
        "def longest(prompts, lists, targets, context):\n"
        f"    assert (prompts, lists, targets) == {expected!r}\n"
        "    return [[float(len(one)) for one in group] for group in lists]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert rewards_of("my_list_rewards:longest", [[B, D], [C, -1]], [A]) == [2.0, 1.0]


def test_rewards_of_items_are_no_rewards_of_lists() -> None:
    with pytest.raises(UsageError, match="no reward 'exact'") as caught:
        parse_rewards("exact=1,rank=1", lists=True)
    assert "recall, ndcg, value" in (caught.value.shell_hint or "")
