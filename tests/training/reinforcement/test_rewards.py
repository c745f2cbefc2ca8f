import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.reinforcement.rewards.kinds import REWARDS, memory_scores, parse_rewards
from sidtool.training.reinforcement.rewards.reward import Groups, RewardContext, reward_sum
from tests.bundles import small_bundle
from tests.memory.cases import small_memory

# "b" and "c" share a SID; rows are in the order of the ids
CODES = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=np.uint16)
ITEMS = ItemMap.of(SidSpace((2, 2, 2)), list("abcde"), CODES)
BUNDLE = Bundle.of(ITEMS, None, "allow", name="shared")
A, B, C, D, E = range(5)
CONTEXT = RewardContext(BUNDLE)
NOTHING = np.zeros(0, dtype=np.int64)


def groups_of(items: list[list[int]], targets: list[int], **fields: Any) -> Groups:
    fields = {"histories": [NOTHING] * len(items)} | fields
    return Groups(**fields, items=np.array(items), targets=np.array(targets))


def rewards_of(text: str, groups: Groups, context: RewardContext = CONTEXT) -> Any:
    return reward_sum(parse_rewards(text), groups, context)


GROUPS = groups_of([[A, D, B, -1], [E, A, D, -1]], [C, C])


def test_a_hit_is_the_sid_of_the_target() -> None:
    assert rewards_of("exact", GROUPS).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_rank_is_the_reward_of_minionerec() -> None:
    discounts = [1 / math.log2(rank + 2) for rank in range(4)]
    total = sum(discounts)
    expected = [-discounts[0] / total, -discounts[1] / total, 0, -discounts[3] / total]
    result = rewards_of("rank", GROUPS)
    np.testing.assert_allclose(result, [expected, [0, 0, 0, 0]], rtol=1e-12)
    # with four items: 1, .6309, .5 and .4307 of 2.5616
    np.testing.assert_allclose(result[0], [-0.3904, -0.2463, 0, -0.1681], atol=5e-5)


def test_a_sum_is_weighted() -> None:
    expected = rewards_of("exact", GROUPS) - 0.25 * rewards_of("rank", GROUPS)
    result = rewards_of("exact, rank=-0.25", GROUPS)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exakt", "no reward 'exakt'"),
        ("", "no reward ''"),
        ("exact=", "the weight of reward exact is a number other than 0, not ''"),
        ("exact=zero", "a number other than 0, not 'zero'"),
        ("exact=0", "a number other than 0, not '0'"),
        ("exact=nan", "a number other than 0"),
        ("exact,exact=2", "reward exact is given twice"),
        ("nowhere_at_all:reward", "cannot be imported: ModuleNotFoundError"),
        ("math:rewards_of_nobody", "cannot be imported: AttributeError"),
        ("math:pi", "math:pi is no function"),
    ],
)
def test_bad_rewards_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_rewards(text)


USER_CODE = """
calls = []
def length(prompts, items, targets, context):
    calls.append((prompts, items, targets))
    return [[len(prompt) + (item == target) for item in group]
            for prompt, group, target in zip(prompts, items, targets)]
def raises(prompts, items, targets, context):
    raise KeyError("no\\nsuch item")
def nan(prompts, items, targets, context):
    return [[0.0, float("nan"), 0.0]]
def flat(prompts, items, targets, context):
    return [0.0]
def ragged(prompts, items, targets, context):
    return [[0.0], [1.0, 2.0]]
def nothing(prompts, items, targets, context):
    pass
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "rewards_of_a_user.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)
    return "rewards_of_a_user"


def test_a_function_of_the_user_gets_item_ids(user_module: str) -> None:
    import sys

    path = list(sys.path)
    groups = groups_of([[A, E, -1]], [E], histories=[np.array([B, -1, D])])
    assert rewards_of(f"{user_module}:length=2,exact", groups).tolist() == [[4, 7, 0]]
    assert sys.modules[user_module].calls == [([["b", "d"]], [["a", "e"]], ["e"])]
    assert sys.path == path


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "failed: KeyError: 'no.*such item'"),
        ("nan", "returned nan for item 'e'"),
        ("flat", r"returned shape \(\) for the 3 items of a prompt, not \(3,\)"),
        ("ragged", "returned 2 lists, not one for each of 1 prompts"),
        ("nothing", "failed: TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_a_failing_user_function_is_one_line(user_module: str, function: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        rewards_of(f"{user_module}:{function}", groups_of([[A, E, D]], [E]))
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_rewards_of_a_group_do_not_depend_on_the_others(seed: int, n: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    items = [[int(row) for row in rng.permutation(9)[:size] - 1] for _ in range(n)]
    targets = [int(row) for row in rng.integers(0, 8, n)]
    context = RewardContext(small_bundle(8, (2, 2, 2)))
    kinds = {name: kind for name, kind in REWARDS.items() if kind.function}
    for name in (name for name, kind in kinds.items() if "item" in kind.answers):
        whole = rewards_of(name, groups_of(items, targets), context)
        assert np.isfinite(whole).all()
        for row in range(n):
            alone = groups_of([items[row]], [targets[row]])
            np.testing.assert_array_equal(rewards_of(name, alone, context)[0], whole[row])


def test_a_memory_scores_items_relative_to_the_best_one() -> None:
    bundle = small_bundle()
    bundle.items.retired[[4, 9]] = True
    memory = small_memory(bundle)
    histories = [np.array([3, -1, 7]), np.array([], dtype=np.int64), np.array([12])]
    items = np.random.default_rng(0).permuted(np.tile(np.arange(40), (3, 1)), axis=1)
    result = memory_scores(memory, bundle)(histories, None, items)
    similar = memory.neighbors.to_scipy().toarray()
    recency = memory.manifest.settings.recency
    for row, scores in enumerate((recency * similar[3] + similar[7], 0 * similar[0], similar[12])):
        scores[[4, 9]] = 0  # retired items are not recommended
        expected = scores[items[row]] / max(scores.max(), 1e-30)
        np.testing.assert_allclose(result[row], expected, rtol=1e-5)
    assert result[0].max() == result[2].max() == 1
