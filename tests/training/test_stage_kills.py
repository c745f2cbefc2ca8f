"""SIGKILL inside a stage: resumed, it has the loss curve and, bit for bit, the weights of an
uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sidtool.training.run import train_stages
from sidtool.training.settings import StageSettings, TrainOptions

Make = Callable[..., Path]
Curve = list[tuple[int, int, float, float]]
"""Stage, step, loss, norm of the gradient."""

ROOT = Path(__file__).parents[2]
FIELDS = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
}
SMALL = {"eval_users": 8, "eval_num_beams": 10}
EMBEDDINGS = TrainOptions(stage="embeddings", **SMALL)  # type: ignore[arg-type]
FULL = TrainOptions(stage="full", item_dropout=0.2, **SMALL)
LORA = TrainOptions(stage="lora", lora_r=4, lora_dropout=0.1, **SMALL)  # type: ignore[arg-type]
CASES = {
    "embeddings": (EMBEDDINGS,),
    "full": (FULL,),
    "lora": (LORA,),
    "embeddings-full": (EMBEDDINGS, FULL),
    "embeddings-lora": (EMBEDDINGS, LORA),
}
LAST_BREATH = "import sys; from tests.training.test_stage_kills import go; go(*sys.argv[1:])"


def go(base: str, examples: str, out: str, case: str, stage: str = "0", step: str = "0") -> None:
    """Run the stages of a case and append a line per step to OUT.curve. If a step is given, die
    after it."""
    torch.set_num_threads(1)
    current = 0

    def progress(number: int) -> Callable[[int, int], None]:
        nonlocal current
        current = number

        def report(done: int, total: int) -> None:
            if (number, done) == (int(stage), int(step)):
                os.kill(os.getpid(), signal.SIGKILL)

        return report

    def log(entry: dict[str, float]) -> None:
        if "loss" in entry:
            with Path(out + ".curve").open("a", encoding="utf-8") as stream:
                stream.write(
                    json.dumps((current, int(entry["step"]), entry["loss"], entry["grad_norm"]))
                    + "\n"
                )

    stages = [StageSettings(options, FIELDS) for options in CASES[case]]
    train_stages(Path(base), Path(examples), Path(out), stages, progress=progress, log=log)


def curve(out: Path) -> Curve:
    return [tuple(json.loads(line)) for line in Path(f"{out}.curve").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_killed_stage_ends_like_an_uninterrupted_one(
    tmp_path: Path, models: Make, examples: Make, case: str
) -> None:
    given = (str(models("llama")), str(examples(sequence=1.0)))
    whole, killed, last = tmp_path / "whole", tmp_path / "killed", len(CASES[case])
    go(*given, str(whole), case)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for step in ("2", "5"):  # before the first checkpoint of the stage, and after it
        dying = [sys.executable, "-c", LAST_BREATH, *given, str(killed), case, str(last), step]
        assert subprocess.run(dying, env=environment, cwd=ROOT).returncode == -signal.SIGKILL
        assert not killed.exists()
    go(*given, str(killed), case)
    alone, message = curve(whole), curve(killed)
    assert set(message) == set(alone)
    steps = [step for stage, step, *_ in message if stage == last]
    # begun, begun again without a checkpoint, and gone on with from the one at step 3
    assert (steps.count(1), steps.count(4), steps[-1]) == (2, 2, alone[-1][1])
    assert sum(stage < last for stage, *_ in message) == sum(
        stage < last for stage, *_ in alone
    )  # done is done
    name = "adapter_model.safetensors" if CASES[case][-1].stage == "lora" else "model.safetensors"
    one, other = load_file(whole / name), load_file(killed / name)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not list(tmp_path.glob("*.partial"))
