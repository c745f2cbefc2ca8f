"""Training on the loss of the mixture of model and memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.data.split.files import write_split
from sidtool.data.split.split import Split
from sidtool.examples.lineage import side_files
from sidtool.memory.build import build_memory
from sidtool.memory.memory import Memory
from sidtool.model.contract.contract import MemoryBinding
from sidtool.model.contract.folder import read_contract
from sidtool.model.contract.stage_record import TrainParams
from sidtool.model.copies import bind_memory
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.run import TrainingSummary, train
from sidtool.training.settings import TrainOptions
from tests.bundles import small_bundle
from tests.training.test_run import ENVIRONMENT, TORCHRUN
from tests.training_fixtures import N_ITEMS, make_split

Make = Callable[..., Path]
FAST = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
MIXED = TrainOptions(softmax_over="trie", memory_weight=0.4, memory_power=1.5)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, split: Split) -> Path:
    out = tmp_path_factory.mktemp("memory") / "memory.zarr"
    build_memory(split, bundle).save(out)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_is_lower_and_the_contract_names_the_memory(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split
) -> None:
    """Users of the fixtures go through the catalog one by one: the memory knows the next item."""
    base, made = models("gpt2"), examples(sequence=1.0)
    losses = {}
    for name, options in {
        "plain": TrainOptions(softmax_over="trie"),
        "mixed": MIXED,
        "weightless": TrainOptions(softmax_over="trie", memory_weight=0.0),
    }.items():
        with_memory = {} if name == "plain" else {"memory": memory, "split": split}
        summary = train(
            base, made, tmp_path / name, options=options, sft_fields=FAST, **with_memory
        )
        losses[name] = summary.loss
    assert losses["mixed"] < 0.8 * losses["plain"]
    assert losses["weightless"] == losses["plain"]
    assert same(tmp_path / "weightless", tmp_path / "plain")
    assert not same(tmp_path / "mixed", tmp_path / "plain")
    contract = read_contract(tmp_path / "mixed")
    params = contract.params
    assert isinstance(params, TrainParams)
    assert params.memory == build_memory(split, contract_bundle(base)).digest
    assert (params.options["memory_weight"], params.options["memory_power"]) == (0.4, 1.5)
    assert contract.memory is None  # tune-memory binds one
    plain_params = read_contract(tmp_path / "plain").params
    assert isinstance(plain_params, TrainParams)
    assert plain_params.memory is None


def contract_bundle(folder: Path) -> Bundle:
    return Bundle.open(folder / "sid.zarr")


@pytest.mark.parametrize("stage", ["embeddings", "lora"])
def test_other_stages_and_teachers_take_a_memory(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split, stage: Any
) -> None:
    """The teacher is the model before the stage."""
    base, made = models("gpt2"), examples(sequence=1.0, next_item=1.0)
    options = TrainOptions(stage=stage, softmax_over="trie", item_dropout=0.2)
    summary = train(
        base,
        made,
        tmp_path / "tuned",
        options=options,
        sft_fields={**FAST, "gradient_accumulation_steps": 2},
        teachers=[base],
        memory=memory,
        split=split,
        valid=side_files(made)["valid"],
    )
    assert summary.best is not None
    assert read_contract(tmp_path / "tuned").params.memory


def test_validation_measures_the_mixture(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split
) -> None:
    """An untrained model recommends at random, its mixture with the memory does not."""
    base, made = models("llama"), examples(sequence=1.0)
    best = {}
    for name, with_memory in (("alone", {}), ("mixed", {"memory": memory, "split": split})):
        summary = train(
            base,
            made,
            tmp_path / name,
            options=MIXED,
            sft_fields={**FAST, "learning_rate": 1e-9},
            valid=side_files(made)["valid"],
            **with_memory,
        )
        best[name] = summary.best
    assert best["mixed"] > 2 * best["alone"]


class _Killed(Exception):
    pass


def test_a_killed_run_resumes_with_the_same_memory_only(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split
) -> None:
    base, made = models("gpt2", resid_pdrop=0.1), examples(sequence=1.0)
    options = TrainOptions(
        softmax_over="trie", item_dropout=0.2, reverse_prob=0.6, shuffle_span=0.3
    )
    fields = {**FAST, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}

    def run(out: Path, stop: int | None = None, **with_memory: Any) -> TrainingSummary:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise _Killed

        return train(
            base, made, out, options=options, sft_fields=fields, progress=progress, **with_memory
        )

    mixed = {"memory": memory, "split": split}
    run(tmp_path / "whole", **mixed)
    with pytest.raises(_Killed):
        run(tmp_path / "killed", stop=5, **mixed)
    with pytest.raises(UsageError, match="different memory"):
        run(tmp_path / "killed")
    assert run(tmp_path / "killed", **mixed).resumed_from == "checkpoint-3"
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split, bundle: Bundle
) -> None:
    base, made = models("gpt2"), examples(sequence=1.0)
    other_split = make_split(seed=1)
    build_memory(other_split, bundle).save(tmp_path / "other-split.zarr")
    build_memory(split, small_bundle(N_ITEMS, seed=9)).save(tmp_path / "other-bundle.zarr")

    def refused(error: type[Exception], match: str, options: Any = MIXED, **inputs: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            train(base, made, tmp_path / "out", options=options, sft_fields=FAST, **inputs)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out*"))

    refused(UsageError, "require each other", memory=memory)
    refused(UsageError, "require each other", split=split)
    refused(CompatibilityError, "examples were made from", memory=memory, split=other_split)
    others = tmp_path / "other-split.zarr"
    refused(CompatibilityError, "counts training events", memory=others, split=split)
    others = tmp_path / "other-bundle.zarr"
    refused(CompatibilityError, "no later version", memory=others, split=split)
    refused(DataError, "no memory", memory=tmp_path / "none", split=split)
    for over in ("auto", "sid", "level", "vocabulary"):
        options = TrainOptions(softmax_over=over)
        refused(UsageError, "softmax_over=trie", options, memory=memory, split=split)
    (memory / "zarr.json").rename(memory / "kept")
    try:
        (memory / "zarr.json").write_text((memory / "kept").read_text().replace("0.85", "0.86"))
        refused(IntegrityError, "zarr.json", memory=memory, split=split)
    finally:
        (memory / "kept").rename(memory / "zarr.json")
    for weight, message in ((1.0, "less than 1"), (-0.1, "at least 0"), (1.5, "less than 1")):
        with pytest.raises(UsageError, match=message):
            TrainOptions(memory_weight=weight)


def test_a_teacher_with_a_memory_is_refused(
    tmp_path: Path, models: Make, examples: Make, memory: Path
) -> None:
    """It recommends by a mixture, and would teach the distribution of its model alone."""
    base, made = models("gpt2"), examples(sequence=1.0)
    opened = Memory.open(memory)
    bind_memory(base, opened, MemoryBinding(opened.digest, 0.3, 2.0, {}), tmp_path / "served")
    with pytest.raises(UsageError, match="served contains a memory"):
        train(base, made, tmp_path / "out", options=MIXED, teachers=[tmp_path / "served"])
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_examples_that_name_no_user_are_refused(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split
) -> None:
    made = examples(title_to_sid=1.0)
    with pytest.raises(DataError, match="names the user"):
        train(models("gpt2"), made, tmp_path / "out", options=MIXED, memory=memory, split=split)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sidtool.training.run import train
from sidtool.training.settings import TrainOptions
base, examples, memory, split, out = map(Path, sys.argv[1:6])
fields = {"num_train_epochs": 2, "per_device_train_batch_size": int(sys.argv[6])}
fields["learning_rate"] = 3e-3
options = TrainOptions(softmax_over="trie", item_dropout=0.2)
train(base, examples, out, options=options, sft_fields=fields, memory=memory, split=split)
"""


@pytest.mark.slow
def test_two_processes_train_like_one(
    tmp_path: Path, models: Make, examples: Make, memory: Path, split: Split
) -> None:
    """Two ranks with half of the batch each have the same sum of gradients as one rank."""
    write_split(split, tmp_path / "split")
    (tmp_path / "run.py").write_text(SCRIPT)
    inputs = map(str, (models("gpt2"), examples(sequence=1.0), memory, tmp_path / "split"))
    script = [str(tmp_path / "run.py"), *inputs]
    environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"}
    two = [sys.executable, "-m", *TORCHRUN, *script, str(tmp_path / "two"), "8"]
    subprocess.run(two, check=True, env=environment)
    one = [sys.executable, *script, str(tmp_path / "one"), "16"]
    subprocess.run(one, check=True, env=environment)
    weights_of_two = weights(tmp_path / "two")
    for name, weight in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights_of_two[name], weight, atol=5e-3, rtol=5e-2)
