import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.model.contract.folder import read_contract
from sidtool.model.load import load_model_folder
from sidtool.model.prompt.segments import prompt_encoder
from sidtool.recommendation.query import QuerySession
from sidtool.training.reinforcement import list_trainer
from sidtool.training.reinforcement.examples import read_rl_examples
from sidtool.training.reinforcement.pairs import ListWriter, load_pairs, save_pairs
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.rewards.reward import Groups
from sidtool.training.reinforcement.rl_run import _policy_prompt, plan_rl
from sidtool.training.reinforcement.settings import RlOptions
from tests.sealed import reseal
from tests.training.runs import OFTEN, Make, Stopped, same, short_rl, weights

IPA: dict[str, Any] = {"algorithm": "ipa", "num_generations": 2, "per_device_train_batch_size": 32}
IPA |= {"learning_rate": 1e-3, "max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch"}
IPA |= {"save_strategy": "epoch", "eval_users": 12, "eval_num_beams": 2, "candidate_lists": 4}
IPA |= {"reward": "ndcg"}


def test_a_round_of_lists_writes_a_complete_model(
    tmp_path: Path, list_model: Path, made_lists: Path
) -> None:
    logs: list[dict[str, float]] = []
    settings = {**IPA, "num_train_epochs": 1}
    summary = short_rl(list_model, made_lists, tmp_path / "out", log=logs.append, **settings)
    assert summary.algorithm == "ipa"
    assert summary.groups > 16
    contract = read_contract(tmp_path / "out")
    assert contract.list_prompt == read_contract(list_model).list_prompt
    assert contract.params.options["algorithm"] == "ipa"
    assert not same(weights(tmp_path / "out"), weights(list_model))
    start = next(entry for entry in logs if "start_list_recall" in entry)
    last = next(entry for entry in reversed(logs) if "eval_list_recall" in entry)
    assert 0 <= start["start_list_reward"] <= 1
    measured = {"eval_list_reward", "eval_reward", "eval_dead_groups", "eval_worse_slices"}
    assert measured <= last.keys()


@pytest.mark.slow
def test_a_run_that_is_stopped_within_a_round_ends_with_the_same_weights(
    tmp_path: Path, list_model: Path, made_lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    begin = list_trainer.ListTrainer.begin_round

    def begin_round(self: Any) -> None:
        rounds.append(self.state.global_step)
        begin(self)

    monkeypatch.setattr(list_trainer.ListTrainer, "begin_round", begin_round)
    settings = {**IPA, **OFTEN, "save_steps": 1, "eval_steps": 1, "eval_users": 4}
    whole = tmp_path / "whole"
    summary = short_rl(list_model, made_lists, whole, **settings)
    per_round = summary.steps // 2
    assert rounds == [per_round]
    stopped = tmp_path / "stopped"
    # the checkpoint before is within the second round
    stop_at = per_round + 2
    assert stop_at < summary.steps + 1
    with pytest.raises(Stopped):
        short_rl(list_model, made_lists, stopped, stop=stop_at, **settings)
    again = short_rl(list_model, made_lists, stopped, **settings)
    assert again.resumed_from == f"checkpoint-{per_round + 1}"
    assert rounds == [per_round] * 2
    assert same(weights(stopped), weights(whole))


@pytest.mark.slow
def test_rounds_raise_the_reward(
    tmp_path: Path, list_model: Path, made_lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a reward that has nothing to do with the targets."""
    (tmp_path / "even_items.py").write_text(
        "def share(prompts, lists, targets, context):\n"
        "    def even(one):\n"
        "        return sum(int(item[1:]) % 2 == 0 for item in one) / max(len(one), 1)\n"
        "    return [[even(one) for one in group] for group in lists]\n"
    )
    monkeypatch.chdir(tmp_path)
    logs: list[dict[str, float]] = []
    settings = {**IPA, "reward": "even_items:share", "metric_for_best_model": "list_reward"}
    settings |= {"num_train_epochs": 3, "learning_rate": 3e-3, "sft_weight": 0.0}
    summary = short_rl(list_model, made_lists, tmp_path / "out", log=logs.append, **settings)
    start = next(entry for entry in logs if "start_list_reward" in entry)["start_list_reward"]
    ends = [entry["eval_list_reward"] for entry in logs if "eval_list_reward" in entry]
    assert len(ends) == 3
    assert max(ends) > start + 0.1
    assert (summary.best, summary.start) == (pytest.approx(max(ends)), start)


def test_what_does_not_fit_lists_is_refused(
    tmp_path: Path, list_model: Path, made_lists: Path, models: Make, examples: Make
) -> None:
    def plan(model: Path, made: Path, *, fields: Any = None, **options: Any) -> None:
        rl_options = RlOptions(algorithm="ipa", **{"reward": "ndcg", **options})
        plan_rl(model, made, tmp_path / "out", rl_options, fields or {})

    for options, message in (
        ({"reward": "exact=1"}, "no reward 'exact'"),
        ({"fields": {"num_generations": 4}}, "num_generations is 2 with algorithm=ipa"),
        ({"fields": {"beta": 0.0}}, "beta greater than 0"),
        ({"reward": "value=1"}, "reward value needs weights"),
        ({"candidate_lists": 1}, "candidate_lists must be at least 2"),
    ):
        with pytest.raises(UsageError, match=message):
            plan(list_model, made_lists, **options)
    with pytest.raises(UsageError, match="needs examples of task list"):
        plan(list_model, examples(sequence=1.0))
    shutil.copytree(made_lists.parent, tmp_path / "made")
    made = tmp_path / "made" / made_lists.name
    reseal(made.with_name(f"{made.name}.meta.json"), {"tasks": {}})  # no history had a list
    with pytest.raises(UsageError, match="needs examples of task list"):
        plan(list_model, made)
    with pytest.raises(CompatibilityError, match="was not trained"):
        plan(models("llama"), made_lists)
    with pytest.raises(UsageError, match="hr@K or ndcg@K"):
        RlOptions(metric_for_best_model="list_reward")
    contract = replace(read_contract(list_model), kind="encoder-decoder")
    with pytest.raises(UsageError, match="ipa trains causal models, model m is encoder-decoder"):
        _policy_prompt(contract, "model m", is_of_lists=True)
    with pytest.raises(CompatibilityError, match="model m was not trained on lists"):
        _policy_prompt(replace(contract, list_prompt=None), "model m", is_of_lists=True)
    options = RlOptions(algorithm="ipa", reward="ndcg", candidate_lists=3)
    run = plan_rl(list_model, made_lists, tmp_path / "out", options, {})
    assert "pairs of 3 lists" in run.inheritance()


def test_pairs_are_the_best_and_the_worst_list(
    list_model: Path, made_lists: Path, tmp_path: Path
) -> None:
    loaded = load_model_folder(list_model)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    rl_examples = read_rl_examples(made_lists, None, encoder, loaded.bundle)
    seen: list[Groups] = []

    def reward(groups: Groups) -> Any:
        seen.append(groups)
        return groups.items[..., 0].astype(np.float64)  # of the first item's row

    session = QuerySession.of(loaded, list_length=4)
    writer = ListWriter(session, reward, 4, RlOptions("ipa", candidate_lists=5))
    policy = Policy.of(loaded.model, session.tokens, session.trie, session.normalize)
    pairs = writer.pairs(policy, rl_examples, [0, 3])
    (groups,) = seen
    assert groups.items.shape == (2, 5, 4)
    codes = loaded.bundle.items.codes
    for row, number in enumerate([0, 3]):
        pair = pairs[number]
        first = groups.items[row, :, 0]
        assert pair.rewards.tolist() == [first.max(), first.min()]
        best, worst = groups.items[row, first.argmax()], groups.items[row, first.argmin()]
        assert pair.codes[0].tolist() == codes[best].tolist()
        assert pair.codes[1].tolist() == codes[worst].tolist()
        following = rl_examples.list_targets[number][:4]
        assert pair.codes[2, : len(following)].tolist() == codes[following].tolist()
        assert pair.valid[2].tolist() == [place < len(following) for place in range(4)]
        assert pair.reference.shape == (2,)
        assert (pair.reference < 0).all()
    # the same score up to rounding is no preference
    flat = replace(writer, reward=lambda groups: 0.2 + 1e-16 * reward(groups))
    (pair,) = flat.pairs(policy, rl_examples, [0]).values()
    assert pair.rewards[0] == pair.rewards[1]
    save_pairs(pairs, tmp_path / "pairs.safetensors")
    stored = load_pairs(tmp_path / "pairs.safetensors")
    assert list(stored) == [0, 3]
    for number, pair in pairs.items():
        assert torch.equal(stored[number].codes, pair.codes)
        assert torch.equal(stored[number].prompt, pair.prompt)
    # seen items are no targets where they are excluded
    fewer = read_rl_examples(made_lists, None, encoder, loaded.bundle, exclude_seen=True)
    for number in range(len(fewer)):
        assert not np.isin(fewer.list_targets[number], fewer.history(number)).any()
