"""A reward that can be had without recommending what users want, on purpose."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, RefusedError, UsageError
from sidtool.data import Items
from sidtool.data.split import Split
from sidtool.examples import SftOptions, make_sft
from sidtool.memory import build_memory
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.reinforcement import RlOptions, plan_rl
from sidtool.training.reinforcement.rewards.kinds import REWARDS
from sidtool.training.reinforcement.rewards.reward import (
    Groups,
    Reward,
    RewardContext,
    RewardInput,
    RunFacts,
    reward_sum,
)
from tests.training.runs import short_rl
from tests.training_fixtures import make_split


def test_a_memory_of_another_split_is_refused(
    tmp_path: Path, tuned: Path, made: Path, bundle: Bundle
) -> None:
    build_memory(make_split(seed=1), bundle).save(tmp_path / "memory.zarr")
    options = RlOptions(reward="collaborative=1")
    inputs = {"collaborative": tmp_path / "memory.zarr"}
    with pytest.raises(CompatibilityError, match=r"memory.zarr was made from split .* held-out"):
        plan_rl(tuned, made, tmp_path / "out", options, {}, reward_inputs=inputs)


def test_a_new_reward_with_an_input_is_a_function_and_a_line(
    tmp_path: Path, tuned: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input is opened, checked, part of what determines the run, and read on the device."""

    def open_stock(path: str, facts: RunFacts) -> RewardInput:
        stock = json.loads(Path(path).read_text())
        in_stock = np.array([stock.get(item, 0) for item in facts.bundle.items.ids], dtype=float)

        def score(histories: Any, fields: Any, items: Any) -> Any:
            return np.where(items >= 0, in_stock[items], 0.0)

        return RewardInput(lambda device: score, lambda: "digest", f"stock {path}")

    monkeypatch.setitem(REWARDS, "stock", Reward(open_input=open_stock))
    (tmp_path / "stock.json").write_text('{"i1": 3}')
    inputs = {"stock": tmp_path / "stock.json"}
    start = (tuned, made, tmp_path / "out", RlOptions(reward="stock=2"), {})
    run = plan_rl(*start, reward_inputs=inputs)
    assert run.other_inputs() == {"input of stock": "digest"}
    assert run.new_contract().params.reward_inputs == {"stock": "digest"}
    context = RewardContext(run.bundle, {"stock": run.reward_inputs["stock"].load("cpu")})
    row = run.bundle.items.rows(["i1"])[0]
    groups = Groups([np.zeros(0, dtype=np.int64)], np.array([[row, -1]]), np.array([0]))
    assert reward_sum(run.rewards, groups, context).tolist() == [[6, 0]]
    with pytest.raises(UsageError, match="reward stock requires --reward-input stock=PATH"):
        plan_rl(*start)


def test_a_model_has_learned_what_its_rewards_learned(
    tmp_path: Path, tuned: Path, bundle: Bundle, catalog: Items, split: Split
) -> None:
    first = make_split(50)
    build_memory(first, bundle).save(tmp_path / "memory.zarr")
    extends = (first.reference.digest, split.reference.digest)
    later = replace(make_split(61), origin=replace(split.origin, extends=extends))
    made = tmp_path / "train.jsonl"
    make_sft(bundle, catalog, later, made, SftOptions({"sequence": 1.0}))
    options = RlOptions(reward="collaborative=1")
    inputs = {"collaborative": tmp_path / "memory.zarr"}
    run = plan_rl(tuned, made, tmp_path / "out", options, {}, reward_inputs=inputs)
    assert run.new_contract().stages[-1].params.learned_from == (first.reference,)


@pytest.mark.slow
def test_a_collaborative_reward_alone_is_hacked_and_refused(
    tmp_path: Path, tuned: Path, made: Path, bundle: Bundle, split: Split
) -> None:
    """Users of the shop always go on to the next item. Similarity has no direction, so that the
    items before the last one are similar, too: recommending these raises the reward."""
    logs: list[dict[str, float]] = []

    settings = {"max_steps": 12, "eval_steps": 4, "save_steps": 4, "num_generations": 8}
    settings |= {"beta": 0.0, "eval_users": 0, "allow_worse_slices": False, "log": logs.append}
    memory = tmp_path / "memory.zarr"
    build_memory(split, bundle).save(memory)
    hacked = {"reward": "collaborative=1", "reward_inputs": {"collaborative": memory}}
    with pytest.raises(RefusedError, match=r"on a slice of targets: .*warm"):
        short_rl(tuned, made, tmp_path / "hacked", sft_weight=0.0, **settings, **hacked)
    validations = [entry for entry in logs if "eval_reward" in entry]
    rewards = [entry["eval_reward"] for entry in validations]
    assert rewards[-1] > rewards[0]
    assert all(entry["eval_ndcg@10_gain"] < 0 for entry in validations)
    assert not (tmp_path / "hacked").exists()
    # a reward for the target, and its cross-entropy
    honest = {"reward": "exact=1,rank=1", "sft_weight": 1.0, "learning_rate": 2e-3}
    short_rl(tuned, made, tmp_path / "honest", **settings, **honest)
    assert (tmp_path / "honest").exists()
