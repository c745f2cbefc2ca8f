"""Every process holds a share of the examples, and sees it once in an epoch."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import BatchSampler

from sidtool.base.errors import DataError, UsageError
from sidtool.examples.example_file import CHUNKS, Share, read_training_examples
from sidtool.training.loss.batches import DividedExamples, DividedOrder
from tests.training.runs import weights

Make = Callable[..., Path]


def write_lines(path: Path, n: int) -> list[dict[str, str]]:
    lines = [{"task": "t", "text": "é" * (number % 37) + str(number)} for number in range(n)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text(text, encoding="utf-8")
    return lines


@pytest.mark.parametrize("n", [1, 50, 1000])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_a_file_are_its_examples(tmp_path: Path, n: int, processes: int) -> None:
    lines = write_lines(tmp_path / "train.jsonl", n)
    shares = [
        list(read_training_examples(tmp_path / "train.jsonl", Share(rank, processes)))
        for rank in range(processes)
    ]
    texts = [line["text"] for share in shares for line in share]
    assert Counter(texts) == Counter(line["text"] for line in lines)
    if n == 1000:
        assert max(map(len, shares)) < 1.2 * n / processes
        first, last = (lines.index(shares[0][place]) for place in (0, -1))
        assert first < n / CHUNKS
        assert last > n - n / CHUNKS * 2


def test_a_malformed_line_of_a_share_is_named_by_its_first_byte(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"task": "t", "text": ""}\n\n[1]\n')
    with pytest.raises(DataError, match="byte 27: the line is no JSON object"):
        list(read_training_examples(tmp_path / "train.jsonl", Share(0, 1)))


def test_every_process_sees_its_share_once_and_in_the_same_order() -> None:
    shares = [range(10), range(10, 17)]  # the second one begins again
    divided = [DividedExamples(shares[rank], rank, [10, 7], 4) for rank in (0, 1)]
    order = DividedOrder(divided[0], seed=3)
    batches = list(BatchSampler(order, 4, drop_last=False))
    assert len(batches) == 2 * 3
    for rank, share in enumerate(shares):
        seen = [divided[rank][number] for batch in batches[rank::2] for number in batch]
        assert set(seen) == set(share)
        assert len(seen) == 12
    with pytest.raises(UsageError, match="an example of process 1"):
        divided[0][batches[1][0]]
    other = DividedOrder(divided[1], seed=3)
    assert list(other) == list(order)
    order.set_epoch(1)
    assert list(order) != list(other)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sidtool.examples import example_file
from sidtool.training.training import train
base, made, out, kill_at = *map(Path, sys.argv[1:4]), int(sys.argv[4])
read = example_file.encode_example
n_read = []
example_file.encode_example = lambda *args, **how: n_read.append(1) or read(*args, **how)
def log(line):
    if kill_at and line.get("step", 0) >= kill_at:
        raise SystemExit(9)
settings = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "num_train_epochs": 2}
train(base, made, out, divide_examples=True, per_device_train_batch_size=4, log=log, **settings)
print("read", len(n_read))
"""


@pytest.mark.slow
def test_two_processes_train_on_their_shares_and_resume(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    base, made = models("gpt2", resid_pdrop=0.1), examples(sequence=1.0, **{"sid-to-title": 1.0})
    (tmp_path / "run.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])

    def run(out: str, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
        launcher = ["torch.distributed.run", "--nproc-per-node=2", "--master-port=29541"]
        line = [sys.executable, "-m", *launcher, str(tmp_path / "run.py"), str(base), str(made)]
        line += [str(tmp_path / out), str(kill_at)]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    # two processes may write to one line
    n_read = [int(number) for number in re.findall(r"read (\d+)", whole.stdout)]
    n_examples = len(made.read_text().splitlines())
    assert len(n_read) == 2
    assert sum(n_read) == n_examples
    assert max(n_read) < n_examples
    assert run("killed", kill_at=3).returncode != 0
    assert not (tmp_path / "killed").exists()
    resumed = run("killed")
    assert resumed.returncode == 0, resumed.stderr
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all((one[name] == other[name]).all() for name in one)
