import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidtool.base.digests import file_digest
from sidtool.base.documents import sealed_text
from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.base.options import settings_from
from sidtool.data.split import Split
from sidtool.examples import read_lineage, side_files
from sidtool.memory import build_memory
from sidtool.model import bind_memory, load_model_folder
from sidtool.model.contract import MemoryBinding, read_contract
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import train
from sidtool.training.reinforcement import RlOptions, check_rl, plan_rl, rl
from sidtool.training.reinforcement.rl_run import _policy_prompt
from tests.bundles import small_bundle
from tests.loaded import HISTORY_PROMPT, loaded_model
from tests.sealed import reseal
from tests.training.runs import ENVIRONMENT, RL, Make, Stopped, same, short_rl, weights

TWO_ITERATIONS = {"num_iterations": 2, "steps_per_generation": 2, "max_steps": 6}
"""Groups are made every four steps, two per epoch of the shop's 288 events and more; the checkpoint
is in the second epoch."""


@pytest.mark.parametrize(
    "algorithm",
    ["ecpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "gspo"))],
)
def test_every_algorithm_writes_a_complete_model(
    tmp_path: Path, tuned: Path, made: Path, algorithm: str
) -> None:
    out = tmp_path / "out"
    logs: list[dict[str, float]] = []
    summary = short_rl(tuned, made, out, max_steps=2, log=logs.append, algorithm=algorithm)
    assert (summary.steps, summary.groups, summary.algorithm) == (2, 8, algorithm)
    assert {path.name for path in out.iterdir()} == {path.name for path in tuned.iterdir()}
    assert not list(tmp_path.glob("*.partial"))
    contract = read_contract(out)
    before = read_contract(tuned)
    assert [record.stage for record in contract.stages] == ["extend", "full", "rl"]
    assert contract.history_prompt == before.history_prompt
    assert contract.normalize == before.normalize == "trie"
    params = contract.params
    assert (params.start.path, params.options["algorithm"]) == (str(tuned.resolve()), algorithm)
    assert load_model_folder(out).contract == contract
    assert not same(weights(out), weights(tuned))
    start = next(entry for entry in logs if "start_ndcg@10" in entry)
    last = next(entry for entry in reversed(logs) if "eval_ndcg@10" in entry)
    assert summary.start == start["start_ndcg@10"]
    gain = last["eval_ndcg@10"] - start["start_ndcg@10"]
    assert last["eval_ndcg@10_gain"] == pytest.approx(gain)
    item_metrics = {"eval_hr@10", "eval_coverage@10", "eval_worse_slices"}
    group_metrics = {"eval_reward", "eval_dead_groups", "eval_kl"}
    assert item_metrics | group_metrics <= last.keys()


@pytest.mark.slow
def test_an_encoder_decoder_learns_from_groups(tmp_path: Path, models: Make, made: Path) -> None:
    start = tmp_path / "start"
    train(models("t5"), made, start, softmax_over="trie", max_steps=2, learning_rate=3e-3)
    logs: list[dict[str, float]] = []
    out = tmp_path / "out"
    short_rl(start, made, out, max_steps=2, log=logs.append)
    first = next(entry for entry in logs if "kl" in entry)
    assert first["kl"] == pytest.approx(0, abs=1e-6)  # the policy is the start
    assert first["grad_norm"] > 0
    assert not same(weights(out), weights(start))
    contract = load_model_folder(out).contract
    assert (contract.kind, contract.stages[-1].stage) == ("encoder-decoder", "rl")


@pytest.mark.slow
def test_unseen_items_train_in_bfloat16(tmp_path: Path, tuned: Path, made: Path) -> None:
    once = {"max_steps": 1, "beta": 0.0, "eval_steps": 1, "save_steps": 1, "bf16": True}
    short_rl(tuned, made, tmp_path / "out", **once, exclude_seen=True)
    trained = weights(tmp_path / "out")
    assert not same(trained, weights(tuned))
    assert {weight.dtype for weight in trained.values()} == {torch.float32}


@pytest.mark.slow
def test_the_best_validation_is_published_also_between_checkpoints(
    tmp_path: Path, tuned: Path, made: Path
) -> None:
    results = {}
    for save_steps in (1, 500):
        fields = {"max_steps": 4, "eval_steps": 1, "save_steps": save_steps}
        fields |= {"learning_rate": 0.1, "lr_scheduler_type": "constant"}
        logs: list[dict[str, float]] = []
        out = tmp_path / str(save_steps)
        short_rl(tuned, made, out, log=logs.append, eval_users=0, **fields)
        values = [entry["eval_ndcg@10"] for entry in logs if "eval_ndcg@10" in entry]
        assert values[-1] < max(values), values
        best = read_contract(out).stages[-1].params.best
        assert (best.step, best.value) == (1 + values.index(max(values)), max(values))
        results[save_steps] = weights(out)
    assert same(results[1], results[500])


@pytest.mark.slow
def test_unrecommendable_events_are_counted(tmp_path: Path, tuned: Path, made: Path) -> None:
    repeating = tmp_path / "examples" / "train.jsonl"
    shutil.copytree(made.parent, repeating.parent)
    first, *others = repeating.read_text().splitlines()
    example = json.loads(first)
    sid_of_first = example["text"].partition("<|sid_end|>")
    example["text"] += "".join(sid_of_first[:2])  # its last event is its first item again
    repeating.write_text("\n".join([json.dumps(example), *others]))
    files = {**read_lineage(made).files, "train.jsonl": file_digest(repeating)}
    lineage = replace(read_lineage(made), files=files)
    side_files(repeating)["meta"].write_text(sealed_text(lineage.to_json()))
    unseen = short_rl(tuned, repeating, tmp_path / "unseen", max_steps=1, exclude_seen=True)
    assert unseen.left_out == 1
    assert unseen.examples > len(others)


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path, tuned: Path, made: Path) -> None:
    whole = short_rl(tuned, made, tmp_path / "whole", **TWO_ITERATIONS)
    # after the last step, before its checkpoint
    with pytest.raises(Stopped):
        short_rl(tuned, made, tmp_path / "stopped", stop=whole.steps, **TWO_ITERATIONS)
    assert not (tmp_path / "stopped").exists()

    def check(out: str = "stopped", **more: Any) -> None:
        options, fields = settings_from(RlOptions, None, None, {**RL, **TWO_ITERATIONS, **more})
        check_rl(plan_rl(tuned, made, tmp_path / out, options, fields))

    check()
    with pytest.raises(UsageError, match=r"different settings\.learning_rate"):
        check(learning_rate=1e-5)
    with pytest.raises(UsageError, match="gradient_accumulation_steps=3 does not divide"):
        check(gradient_accumulation_steps=3)
    with pytest.raises(UsageError, match="a generation has 1000 prompts"):
        check("new", per_device_train_batch_size=2000)
    resumed = short_rl(tuned, made, tmp_path / "stopped", **TWO_ITERATIONS)
    assert resumed.resumed_from is not None
    assert resumed.steps == whole.steps
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


REWARDS = """
calls = 0


def broken(prompts, items, targets, context):
    global calls
    calls += 1
    if calls > 3:
        raise KeyError('price')
    return [[float(item == target) for item in group] for group, target in zip(items, targets)]
"""


def test_a_reward_that_fails_loses_no_checkpoint(
    tmp_path: Path, tuned: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "failing_reward"
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{module}.py").write_text(REWARDS)
    reward = f"{module}:broken"
    with pytest.raises(DataError) as error:
        short_rl(tuned, made, tmp_path / "out", reward=reward)
    assert f"reward {reward} failed: KeyError: 'price'" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "checkpoint-2" / "model.safetensors").exists()
    # mended, the same command goes on
    sys.modules[module].calls = -1000  # type: ignore[attr-defined]
    summary = short_rl(tuned, made, tmp_path / "out", reward=reward)
    assert (summary.resumed_from, summary.steps) == ("checkpoint-2", 4)


def test_a_model_worse_on_a_slice_is_refused(tmp_path: Path, tuned: Path, made: Path) -> None:
    """The reward punishes hits, and nothing holds the model back."""
    harmful: dict[str, Any] = {"reward": "exact=-1", "sft_weight": 0.0, "eval_users": 0}
    harmful |= {"beta": 0.0, "learning_rate": 0.2, "max_steps": 2}
    out = tmp_path / "out"
    with pytest.raises(RefusedError, match=r"worse than the start .* \(ndcg@10 -0\.") as error:
        short_rl(tuned, made, out, allow_worse_slices=False, **harmful)
    assert "--allow-worse-slices" in str(error.value.shell_hint)
    assert not out.exists()
    summary = short_rl(tuned, made, out, **harmful)
    assert (summary.resumed_from, summary.steps) == ("checkpoint-2", 2)
    assert read_contract(out).stages[-1].stage == "rl"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_generations": 5}, "16 is no multiple of the 5 items of a group"),
        ({"num_generations": 1}, "at least 2, not 1"),
        ({"temperature": 0.5}, "temperature cannot be set"),
        ({"use_vllm": True}, "use_vllm cannot be set"),
        ({"learning_rat": 0.5}, "no setting 'learning_rat'"),
        ({"reward": "collaborative"}, "reward collaborative requires --reward-input"),
        ({"loss_type": "nothing"}, "loss_type"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, tuned: Path, made: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        short_rl(tuned, made, tmp_path / "out", **setting)
    assert not list(tmp_path.iterdir())


def test_a_plan_checks_and_writes_nothing(tmp_path: Path, tuned: Path, made: Path) -> None:
    rewards = {"exact=1,rank=1": RlOptions(), "exact": RlOptions(reward="exact")}
    for reward, options in rewards.items():
        line = plan_rl(tuned, made, tmp_path / "out", options, {}).inheritance()
        assert line.startswith(f"{options.algorithm} starts from")
        assert f"reward {reward};" in line
    assert not list(tmp_path.iterdir())


def test_a_plan_says_that_a_memory_is_left_out(
    tmp_path: Path, tuned: Path, made: Path, bundle: Bundle, split: Split
) -> None:
    memory = build_memory(split, bundle)
    binding = MemoryBinding(memory.digest, 0.4, 3.0, {})
    bind_memory(tuned, memory, binding, tmp_path / "mixed")
    run = plan_rl(tmp_path / "mixed", made, tmp_path / "out", RlOptions(), {})
    assert run.new_contract().memory is None
    assert "full), without its memory: bundle" in run.inheritance()


def test_a_plan_needs_validation_users(tmp_path: Path, tuned: Path, made: Path) -> None:
    examples = shutil.copytree(made.parent, tmp_path / "examples") / made.name
    reseal(side_files(examples)["meta"], {"valid": 0})
    with pytest.raises(DataError, match=r"by validation users, and .* has none"):
        plan_rl(tuned, examples, tmp_path / "out", RlOptions(), {})


def test_a_model_that_cannot_recommend_is_refused(tmp_path: Path, models: Make, made: Path) -> None:
    with pytest.raises(RefusedError, match="no history prompt"):
        rl(models("llama"), made, tmp_path / "out")


def test_a_prompt_that_says_what_the_next_item_is_to_be_like_is_refused() -> None:
    prompt = replace(HISTORY_PROMPT, task="next-item-by-rating")
    contract = loaded_model(small_bundle(8), history_prompt=prompt).contract
    with pytest.raises(UsageError, match="shows the rating that the next item is to have"):
        _policy_prompt(contract, "model m", is_of_lists=False)


PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.training.runs import short_rl
start, made, out = map(Path, sys.argv[1:4])
settings = {"per_device_train_batch_size": int(sys.argv[4]), "learning_rate": 1e-3}
short_rl(start, made, out, max_steps=8, **settings)
"""


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path, tuned: Path, made: Path) -> None:
    """Two ranks with half of the batch each have the same groups and mean gradient as one."""
    (tmp_path / "run.py").write_text(PROGRAM)
    script = [str(tmp_path / "run.py"), str(tuned), str(made)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*launch, "--standalone", *script, str(tmp_path / "two"), "8"]
    subprocess.run(command, check=True, env={**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"})
    alone = [sys.executable, *script, str(tmp_path / "one"), "16"]
    subprocess.run(alone, check=True, env=ENVIRONMENT)
    assert not (tmp_path / "two.partial").exists()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-3, rtol=5e-2)
