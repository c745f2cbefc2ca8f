import hashlib
import json
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from sidtool.base.digests import file_digest
from sidtool.base.documents import sealed_text
from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.examples import ExampleParts, read_lineage, side_files
from sidtool.training import check_stages, plan_stages, read_stages, train
from sidtool.training.reinforcement import rl
from tests.sealed import reseal
from tests.training.runs import ENVIRONMENT, FAST, Make, Stopped, same, weights


def in_parts_of(made: Path, folder: Path, n: int) -> Path:
    """The examples of a file in parts of consecutive lines, with the validation users."""
    lineage = read_lineage(made)
    lines = made.read_bytes().splitlines(keepends=True)
    files, parts = {}, []
    valid = side_files(made)["valid"].read_bytes()
    for number in range(n):
        part_lines = lines[number * len(lines) // n : (number + 1) * len(lines) // n]
        name = f"part-{number:07d}"
        (folder / name).mkdir(parents=True)
        for file, data in (("mixed.jsonl", b"".join(part_lines)), ("valid.jsonl", valid)):
            (folder / name / file).write_bytes(data)
            files[f"{name}/{file}"] = hashlib.sha256(data).hexdigest()
        parts.append({f"{name}/mixed.jsonl": len(part_lines)})
    value = replace(lineage, files=files, parts=tuple(parts)).to_json()
    (folder / "_lineage.json").write_text(sealed_text(value))
    return folder


def test_one_part_at_a_url_gives_what_its_file_gives(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    base, made = models("gpt2"), examples(sequence=1.0)
    folder = in_parts_of(made, tmp_path / "parts", 1)
    url = f"memory://{uuid.uuid4().hex}/parts"
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.put(str(folder), root, recursive=True)
    settings = {"eval_users": 5, **FAST, "save_strategy": "epoch"}
    for name, location in (("file", made), ("url", url)):
        (planned,) = plan_stages(base, location, tmp_path / name, read_stages(None))
        assert planned.valid is not None
        assert planned.to_json()["examples"] == str(location)
        train(base, location, tmp_path / name, valid=planned.valid, **settings)
    assert same(weights(tmp_path / "file"), weights(tmp_path / "url"))


def test_a_training_resumes_in_the_order_of_its_epoch(
    tmp_path: Path, models: Make, examples: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = models("gpt2", resid_pdrop=0.1)
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 4)
    opened = []
    read = ExampleParts.lines
    monkeypatch.setattr(
        ExampleParts, "lines", lambda self, part: opened.append(part) or read(self, part)
    )
    settings = {**FAST, "per_device_train_batch_size": 8, "item_dropout": 0.2}
    settings |= {"save_strategy": "steps", "save_steps": 5}
    summary = train(base, folder, tmp_path / "whole", **settings)
    assert len(opened) == 2 * 4  # in each epoch one part behind the other

    def kill(done: int, total: int) -> None:
        if done == summary.steps - 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(base, folder, tmp_path / "killed", progress=kill, **settings)
    shutil.copytree(tmp_path / "killed.partial", tmp_path / "other.partial")
    resumed = train(base, folder, tmp_path / "killed", **settings)
    step = int(resumed.resumed_from.removeprefix("checkpoint-"))
    assert summary.steps / 2 < step  # in the second epoch
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    other_parts = in_parts_of(examples(sequence=1.0), tmp_path / "more", 5)
    with pytest.raises(UsageError, match="different examples: "):
        train(base, other_parts, tmp_path / "other", **settings)


@pytest.mark.slow
def test_workers_of_the_loader_change_nothing(tmp_path: Path, models: Make, examples: Make) -> None:
    base = models("gpt2")
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 3)
    settings = {**FAST, "per_device_train_batch_size": 8, "item_dropout": 0.2}
    for workers in (0, 2):
        train(base, folder, tmp_path / f"{workers}", dataloader_num_workers=workers, **settings)
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_a_lost_or_changed_part_is_refused(tmp_path: Path, models: Make, examples: Make) -> None:
    base = models("gpt2")
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 3)
    part = folder / "part-0000001" / "mixed.jsonl"
    stored = part.read_bytes()
    for data, problem in ((b"", "was changed"), (stored.replace(b"u1", b"u2"), "was changed")):
        part.write_bytes(data)
        with pytest.raises(DataError, match=f"part-0000001/mixed.jsonl {problem}"):
            train(base, folder, tmp_path / "out", **FAST)
    part.unlink()
    planned = plan_stages(base, folder, tmp_path / "out", read_stages(None))
    with pytest.raises(DataError, match="jsonl is missing"):
        check_stages(planned)
    part.write_bytes(stored)
    check_stages(planned)
    assert not (tmp_path / "out").exists()
    text = (folder / "_lineage.json").read_text()
    (folder / "_lineage.json").write_text(text.replace('"valid": ', '"valid": 1'))
    with pytest.raises(DataError, match="is malformed: it differs from its own SHA"):
        train(base, folder, tmp_path / "out", **FAST)
    (folder / "_lineage.json").unlink()
    with pytest.raises(DataError, match="cannot read the lineage"):
        train(base, folder, tmp_path / "out", **FAST)


def test_a_wrong_count_of_a_part_is_refused(tmp_path: Path, models: Make, examples: Make) -> None:
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 2)
    parts = json.loads((folder / "_lineage.json").read_text())["parts"]
    parts[0]["part-0000000/mixed.jsonl"] += 1
    reseal(folder / "_lineage.json", {"parts": parts})
    with pytest.raises(DataError, match=r"mixed.jsonl has not \d+ lines"):
        train(models("gpt2"), folder, tmp_path / "out", **FAST)
    reseal(folder / "_lineage.json", {"parts": ...})
    with pytest.raises(DataError, match="lists no examples in parts"):
        train(models("gpt2"), folder, tmp_path / "out", **FAST)


def test_parts_lie_in_their_folder(tmp_path: Path, models: Make, examples: Make) -> None:
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 1)
    (folder / "part-0000000" / "mixed.jsonl").rename(tmp_path / "outside.jsonl")
    files = {"../outside.jsonl": file_digest(tmp_path / "outside.jsonl")}
    reseal(folder / "_lineage.json", {"files": files, "parts": [{"../outside.jsonl": 1}]})
    with pytest.raises(IntegrityError, match=r"outside of the folder: '\.\./outside\.jsonl'"):
        train(models("gpt2"), folder, tmp_path / "out", **FAST)


def test_the_first_part_may_lack_validation(tmp_path: Path, models: Make, examples: Make) -> None:
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 2)
    path = folder / "part-0000000" / "valid.jsonl"
    path.write_bytes(b"")
    files = json.loads((folder / "_lineage.json").read_text())["files"]
    files["part-0000000/valid.jsonl"] = file_digest(path)
    reseal(folder / "_lineage.json", {"files": files})
    (planned,) = plan_stages(models("gpt2"), folder, tmp_path / "out", read_stages(None))
    assert planned.valid == folder / "part-0000001" / "valid.jsonl"


def test_an_unusable_part_is_named(tmp_path: Path, models: Make, examples: Make) -> None:
    made = examples(sequence=1.0)
    line = json.loads(made.read_text().splitlines()[0])
    problems = {"has no training example with a target": {"weight": 0.0}}
    problems["an example of .*parts: "] = {"weight": [1.0, 1.0, 1.0]}
    for number, (problem, change) in enumerate(problems.items()):
        folder = in_parts_of(made, tmp_path / f"{number}-parts", 1)
        name = "part-0000000/mixed.jsonl"
        (folder / name).write_text(json.dumps(line | change) + "\n")
        files = json.loads((folder / "_lineage.json").read_text())["files"]
        files[name] = file_digest(folder / name)
        reseal(folder / "_lineage.json", {"files": files, "parts": [{name: 1}]})
        with pytest.raises(DataError, match=problem):
            train(models("gpt2"), folder, tmp_path / "out", **FAST)


def test_what_needs_a_file_is_refused(tmp_path: Path, models: Make, examples: Make) -> None:
    folder = in_parts_of(examples(sequence=1.0), tmp_path / "parts", 2)
    with pytest.raises(UsageError, match="examples in parts are not cut to prefixes"):
        train(models("gpt2"), folder, tmp_path / "out", sliding_windows="drawn")
    with pytest.raises(UsageError, match="examples in parts are not cut to prefixes"):
        train(models("t5"), folder, tmp_path / "out")
    with pytest.raises(UsageError, match="is a folder of parts, not a file"):
        rl(models("gpt2"), folder, tmp_path / "out")


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sidtool.examples import ExampleParts
from sidtool.training.training import train
base, made, out, kill_at = *map(Path, sys.argv[1:4]), int(sys.argv[4])
read = ExampleParts.lines
opened = []
def noted(self, part):
    opened.append(part)
    return read(self, part)
ExampleParts.lines = noted
def log(line):
    if kill_at and line.get("step", 0) >= kill_at:
        raise SystemExit(9)
settings = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "num_train_epochs": 2}
summary = train(base, made, out, per_device_train_batch_size=4, log=log, **settings)
sys.stdout.write(f"opened {len(opened)} in {summary.steps}\\n")  # at once: two processes write
"""


@pytest.mark.slow
def test_two_processes_train_on_their_parts_and_resume(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    base = models("gpt2", resid_pdrop=0.1)
    made = in_parts_of(examples(sequence=1.0, **{"sid-to-title": 1.0}), tmp_path / "parts", 6)
    (tmp_path / "run.py").write_text(SCRIPT)
    environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"}

    def run(out: str, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
        launcher = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        line = [sys.executable, "-m", *launcher, str(tmp_path / "run.py"), str(base), str(made)]
        line += [str(tmp_path / out), str(kill_at)]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    opened = [int(number) for number in re.findall(r"opened (\d+)", whole.stdout)]
    assert len(opened) == 2
    assert max(opened) <= 2 * (3 + 2)  # half of six, the parts that both read, and what fills up
    steps = int(re.findall(r"in (\d+)", whole.stdout)[0])
    # in the second epoch, where the order is another one
    assert run("killed", kill_at=steps - 3).returncode != 0
    assert not (tmp_path / "killed").exists()
    resumed = run("killed")
    assert resumed.returncode == 0, resumed.stderr
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
