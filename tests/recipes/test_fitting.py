import errno
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

import sidtool
import sidtool.recipes.steps
from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.data import UnknownOptions
from sidtool.recipes import FitOptions, Ran, fit, plan_fit, shell_script
from sidtool.recipes.fitting import Fitted, _remarks
from sidtool.recipes.profile import Choices
from tests.bundles import small_bundle
from tests.cli.road import done, interrupt, refused, run
from tests.recipes.conftest import Finished, Shop
from tests.sealed import reseal

STEPS = (
    *("check", "split", "build-codebook", "init-model", "extend-model", "make-sft"),
    *("build-memory", "train", "train", "tune-memory", "evaluate", "report"),
)
"""The commands of the road; the first training measures the speed."""


class Replay:
    """Commands that copy what they wrote in the finished road; `fail` is called before and after
    each."""

    def __init__(self, finished: Finished, out: Path, fail: Callable[[], None] | None = None):
        self.finished = finished.folder
        self.out = out
        self.fail = fail or (lambda: None)
        self.commands: list[str] = []

    def __call__(self, arguments: list[str], stdout: TextIO) -> Ran:
        self.commands.append(arguments[0])
        self.fail()
        if "--json" in arguments:
            name = {"check": "check.json", "evaluate": "evaluation.json"}[arguments[0]]
            stdout.write((self.finished / name).read_text())
        else:
            target = Path(arguments[arguments.index("-o") + 1])
            source = self.finished / target.relative_to(self.out)
            if target.name == "probe":
                _probe(target)
            elif source.is_dir():
                shutil.copytree(source, target)
            elif target.suffix == ".jsonl":
                shutil.copytree(source.parent, target.parent, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        self.fail()
        return Ran(0, [f"of {arguments[0]}"] if arguments[0] in ("check", "train") else ())


def _probe(folder: Path) -> None:
    """The log of a short training, ten steps in half a second and a validation in one."""
    folder.mkdir()
    seconds = (1, 1.5, 3, 3.5, 5)
    lines = [f'{{"step": {10 * n}, "seconds": {s}}}\n' for n, s in enumerate(seconds, 1)]
    (folder / "machine.jsonl").write_text("".join(lines))


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file of a road but the records, which have times."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    names = (name for name in files if name.parts[0] != "steps")
    return {name.as_posix(): files[name].read_bytes() for name in names}


def result(fitted: Fitted) -> object:
    """What a road ends with, without its time."""
    return fitted.verdict, fitted.choices, fitted.profile, fitted.warnings


def test_two_files_end_in_a_verdict(finished: Finished) -> None:
    fitted = finished.fitted
    assert "of targets are new items" in str(fitted.verdict)
    assert Path(fitted.report).read_text().lower().startswith("<!doctype html>")
    assert fitted.profile.items == 60
    assert not (finished.folder / "probe").exists()


def test_a_finished_road_is_not_run_again(finished: Finished, shop: Shop) -> None:
    replay = Replay(finished, finished.folder)
    again = fit(shop.items, shop.events, finished.folder, shop.options, run_command=replay)
    assert replay.commands == []
    assert result(again) == result(finished.fitted)


def test_the_short_training_of_a_killed_call_is_removed(finished: Finished, shop: Shop) -> None:
    """The call died when its choice was recorded."""
    _probe(finished.folder / "probe")
    replay = Replay(finished, finished.folder)
    fit(shop.items, shop.events, finished.folder, shop.options, run_command=replay)
    assert not (finished.folder / "probe").exists()
    assert replay.commands == []


def test_nothing_is_written_beside_the_folder(
    finished: Finished, shop: Shop, tmp_path: Path
) -> None:
    """It may be a disk in a folder of somebody else."""
    seen: set[str] = set()
    out = tmp_path / "out"

    def look() -> None:
        seen.update(path.name for path in tmp_path.iterdir())

    fit(shop.items, shop.events, out, shop.options, run_command=Replay(finished, out, look))
    assert seen == {"out"}


def test_a_full_disk_is_named(
    finished: Finished, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_whole(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sidtool.recipes.steps.write_whole", write_whole)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="out cannot be written: no space left") as raised:
        fit(shop.items, shop.events, out, shop.options, run_command=Replay(finished, out))
    assert raised.value.shell_hint == "free space on that disk and run the command again"


def test_steps_are_announced_with_time_left(finished: Finished, shop: Shop, tmp_path: Path) -> None:
    lines: list[str] = []
    replay = Replay(finished, tmp_path / "out")
    callbacks = {"run_command": replay, "notify": lines.append}
    fitted = fit(shop.items, shop.events, tmp_path / "out", shop.options, **callbacks)
    assert tuple(replay.commands) == STEPS
    steps = [line for line in lines if line.startswith("step ")]
    assert steps[0].startswith("step 1 of 11: check; at most 10.0 min left")
    assert steps[-1].startswith("step 11 of 11: report; about ")
    assert fitted.warnings == ("of check", "of train")


def test_a_training_that_was_stopped_is_repeated_by_the_script(
    finished: Finished, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    class Slow(Replay):
        """A training that stops at its seventh step."""

        def __call__(self, arguments: list[str], stdout: TextIO) -> Ran:
            ran = super().__call__(arguments, stdout)
            contract = out / "model" / "sid.json"
            if arguments[0] == "train" and contract.exists():
                limits.append(arguments[arguments.index("--max-minutes") + 1])
                stages = json.loads(contract.read_text())["stages"]
                stages[-1]["params"]["options"]["stop_step"] = 7
                reseal(contract, {"stages": stages})
            return ran

    limits: list[str] = []
    for _ in range(2):  # the second call continues the first
        slow = Slow(finished, out)
        fitted = fit(shop.items, shop.events, out, shop.options, run_command=slow)
        script = (out / "run.sh").read_text()
        assert "--set stop_step=7 -o" in script
        assert "--max-minutes" not in script
        assert fitted.choices.stop_step == 7
        assert any("was stopped at step 7" in text for text in fitted.warnings)
    assert slow.commands == []
    (limit,) = limits
    assert 5 < float(limit) < 12  # of ten minutes


def test_a_road_that_is_killed_anywhere_ends_with_the_same(
    finished: Finished, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    draw = random.Random(0)
    kills = list(accumulate(draw.choices(range(1, 10), k=20)))
    moments = 0

    def moment() -> None:
        nonlocal moments
        moments += 1
        if moments in kills:
            raise Killed

    write = sidtool.recipes.steps.write_whole

    def write_whole(path: Path, text: str) -> None:
        moment()
        write(path, text)
        moment()

    monkeypatch.setattr("sidtool.recipes.steps.write_whole", write_whole)
    monkeypatch.setattr("sidtool.recipes.fitting.write_whole", write_whole)
    out = tmp_path / "out"
    replay = Replay(finished, out, moment)
    fitted = None
    while fitted is None:
        try:
            fitted = fit(shop.items, shop.events, out, shop.options, run_command=replay)
        except Killed:
            continue
    assert moments > kills[-1]
    whole = Replay(finished, tmp_path / "whole")
    expected = fit(shop.items, shop.events, tmp_path / "whole", shop.options, run_command=whole)
    assert result(fitted) == result(expected)
    ours, theirs = outputs(out), outputs(tmp_path / "whole")
    # they name their own folder
    whole_script = ours.pop("run.sh").decode().replace(str(out), str(tmp_path / "whole"))
    assert whole_script == theirs.pop("run.sh").decode()
    assert ours == theirs


def test_a_changed_option_repeats_its_steps(finished: Finished, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = Path(shutil.copytree(shop.recipe, tmp_path / "recipe"))
    options = FitOptions(recipe=str(recipe), encoder=str(shop.encoder))

    def commands(options: FitOptions) -> list[str]:
        replay = Replay(finished, out)
        fit(shop.items, shop.events, out, options, run_command=replay)
        return replay.commands

    assert tuple(commands(options)) == STEPS
    (recipe / "memory.yaml").write_text("tune: false\n")
    # the replayed memory is the same as before
    assert commands(options) == ["build-memory"]
    (recipe / "train.yaml").write_text((shop.recipe / "train.yaml").read_text() + "dropout: 0.2\n")
    assert commands(options) == ["train", "train"]
    (recipe / "evaluate.yaml").write_text("num_beams: 8\n")
    assert commands(options) == ["evaluate"]
    (recipe / "evaluate.yaml").unlink()
    assert commands(options) == ["evaluate"]
    assert _files(out / "recipe") == _files(recipe)
    # the copy is a recipe, too
    copy = replace(options, recipe=str(out / "recipe"))
    assert commands(copy) == []
    assert _files(out / "recipe") == _files(recipe)
    # wherever the folder is
    shutil.move(out, out.with_name("moved"))
    out = out.with_name("moved")
    assert commands(options) == []


def _files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_that_stop_a_build_are_refused_before_any_step(shop: Shop, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    lines = shop.items.read_text().splitlines()
    items.write_text("\n".join([*lines, lines[0]]) + "\n")
    with pytest.raises(RefusedError, match=r"of an earlier row: 1 \(row \d+: '") as raised:
        fit(items, shop.events, tmp_path / "out", shop.options, run_command=lambda *_: Ran(1))
    assert raised.value.shell_hint is not None
    assert "--fix" in raised.value.shell_hint
    steps = plan_fit(items, shop.events, tmp_path / "out", FitOptions(fix=True))
    assert steps[0].arguments[-2:] == ["--fix", str(tmp_path / "out" / "data")]
    assert str(tmp_path / "out" / "data" / "events.parquet") in steps[1].arguments
    assert f"rm -rf {tmp_path}/out/data\n" in shell_script(steps, "title")


def test_targets_that_the_bundle_lacks_are_refused_before_the_training(
    finished: Finished, shop: Shop, tmp_path: Path
) -> None:
    class OtherItems(Replay):
        """A road whose bundle has other items than the split."""

        def __call__(self, arguments: list[str], stdout: TextIO) -> Ran:
            ran = super().__call__(arguments, stdout)
            if arguments[0] == "build-codebook":
                small_bundle().save(self.out / "bundle.zarr", force=True)
            return ran

    out = tmp_path / "out"
    replay = OtherItems(finished, out)
    with pytest.raises(RefusedError, match="% of targets are items that the bundle lacks"):
        fit(shop.items, shop.events, out, shop.options, run_command=replay)
    assert "make-sft" in replay.commands
    assert "train" not in replay.commands
    allowing = replace(shop.options, checks=UnknownOptions(allow_unknown=True))
    replay = OtherItems(finished, out)
    fit(shop.items, shop.events, out, allowing, run_command=replay)
    assert replay.commands.count("train") == 2


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"reward": "collaborative=1"}, "reward collaborative requires --reward-input"),
        ({"algorithm": "ipa"}, "algorithm=ipa needs examples of task list"),
        ({"num_generations": 3}, "256 is no multiple of the 3 items"),
    ],
)
def test_rewards_that_do_not_fit_are_refused_before_the_training(
    finished: Finished, shop: Shop, tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    recipe = shutil.copytree(shop.recipe, tmp_path / "recipe")
    (recipe / "rl.yaml").write_text(json.dumps(settings))
    replay = Replay(finished, tmp_path / "out")
    options = replace(shop.options, recipe=str(recipe))
    with pytest.raises(UsageError, match=rf"rl\.yaml: .*{problem}"):
        fit(shop.items, shop.events, tmp_path / "out", options, run_command=replay)
    assert "make-sft" in replay.commands
    assert "train" not in replay.commands


def test_a_folder_with_other_files_is_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for function in (fit, plan_fit):
        with pytest.raises(UsageError, match="has other files"):
            function(shop.items, shop.events, tmp_path, shop.options)
        with pytest.raises(UsageError, match="is a URL"):
            function(shop.items, shop.events, "s3://bucket/shop", shop.options)
        with pytest.raises(UsageError, match=r"notes\.txt is no folder"):
            function(shop.items, shop.events, tmp_path / "notes.txt", shop.options)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_every_step_with_random_numbers_has_the_seed(shop: Shop, tmp_path: Path) -> None:
    options = replace(shop.options, seed=7)
    steps = plan_fit(shop.items, shop.events, tmp_path / "out", options)
    words = {step.arguments[0]: " ".join(step.arguments) for step in steps}
    for command in ("build-codebook", "init-model", "extend-model", "make-sft"):
        assert " --seed 7 " in words[command] + " ", command
    assert " seed=7 " in words["train"] + " "


def test_with_enough_time_the_printed_script_is_what_ran(finished: Finished, shop: Shop) -> None:
    steps = plan_fit(shop.items, shop.events, finished.folder, shop.options)
    printed = shell_script(steps, f"sidtool fit {shop.items} {shop.events}")
    # what ran has the copies of the recipe's files
    copied = printed.replace(f"{shop.recipe}/", f"{finished.folder}/recipe/")
    assert copied == (finished.folder / "run.sh").read_text()


@pytest.mark.slow
def test_the_script_makes_the_same_files(finished: Finished, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "again"
    script = (finished.folder / "run.sh").read_text().replace(str(finished.folder), str(out))
    assert str(shop.recipe) not in script
    shutil.copytree(finished.folder / "recipe", out / "recipe")
    command = f'sidtool() {{ {sys.executable} -m sidtool "$@"; }}\n{script}'
    subprocess.run(["bash", "-c", command], check=True)
    for name in ("split/split.json", "sft/train.jsonl", "model+memory/model.safetensors"):
        assert (out / name).read_bytes() == (finished.folder / name).read_bytes(), name
    bundles = [sidtool.open_bundle(str(path / "bundle.zarr")) for path in (out, finished.folder)]
    assert bundles[0].manifest.digest == bundles[1].manifest.digest
    metrics = [(path / "evaluation.json").read_text() for path in (out, finished.folder)]
    assert json.loads(metrics[0])["metrics"] == json.loads(metrics[1])["metrics"]


def line(shop: Shop, out: Path) -> tuple[object, ...]:
    """The words that made the finished road, in a folder."""
    words = ("fit", shop.items, shop.events, "-o", out, "--recipe", shop.recipe)
    return (*words, "--encoder", shop.encoder)


def test_the_verdict_and_the_report_come_last(
    finished: Finished, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_warning(*words: Any, **more: Any) -> Fitted:
        return replace(fit(*words, **more), warnings=("careful",))

    monkeypatch.setattr("sidtool.recipes.fit", with_warning)
    ran = done(*line(shop, finished.folder))
    verdict, report = ran.out.splitlines()
    assert verdict.startswith(("Yes: ", "No: "))
    assert "item-kNN" in verdict
    assert report == f"report: {finished.folder}/report.html"
    said = ran.err.splitlines()
    assert said[0].startswith("step 1 of 11: check; ")
    assert said[-3] == "warning: careful"
    assert f"{finished.folder}/run.sh has the commands" in said[-2]
    printed = done(*line(shop, finished.folder), "--json").json
    assert said[-1] == f"next: {printed['next']}"
    if verdict.startswith("Yes"):
        assert f"sidtool recommend {finished.folder}/model+memory --history b0" in said[-1]
    else:
        assert printed["next"] == printed["verdict"]["advice"]
    assert printed["verdict"]["sentences"]
    assert printed["profile"]["users"] == 40


def test_a_remark_says_that_ratings_are_not_read() -> None:
    plan = SimpleNamespace(choices=Choices(), recipe=SimpleNamespace(settings=lambda _: {}))
    (remark,) = _remarks(plan, SimpleNamespace(rating="stars"), None)
    assert remark.startswith("every event counts, whatever its stars: a recipe with a split.yaml")


def test_a_dry_run_prints_a_script_and_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = done(*line(shop, out), "--dry-run")
    assert ran.out.startswith("#!/usr/bin/env bash\n")
    assert "sidtool train " in ran.out
    steps = done(*line(shop, out), "--dry-run", "--json").json["steps"]
    assert [words[0] for words in steps][:3] == ["check", "split", "build-codebook"]
    options = replace(shop.options, text_template="{title}!")
    assert any(
        "{title}!" in step.arguments for step in plan_fit(shop.items, shop.events, out, options)
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("sft", "sft.yaml: make-sft has no option 'histry_length'"),
        ("evaluate", "evaluate.yaml: evaluate has no option 'histry_length'"),
        ("train", "train.yaml: no setting 'histry_length'"),
        ("rl", "rl.yaml: no setting 'histry_length'"),
    ],
)
def test_an_unknown_key_of_a_recipe_is_refused_before_any_step(
    shop: Shop, tmp_path: Path, part: str, message: str
) -> None:
    recipe = Path(shutil.copytree(shop.recipe, tmp_path / "recipe"))
    (recipe / f"{part}.yaml").write_text("histry_length: 1\n")
    words = ("fit", shop.items, shop.events, "-o", tmp_path / "out", "--recipe", recipe)
    for more in ((), ("--dry-run",)):
        assert message in refused(2, *words, *more)
    assert not (tmp_path / "out").exists()


def test_a_step_that_fails_has_its_exit_code_and_names_itself(shop: Shop, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for name in ("codebook", "sft", "train", "model"):
        (recipe / f"{name}.yaml").touch()
    (recipe / "codebook.yaml").write_text("levels: none\n")
    words = ("fit", shop.items, shop.events, "-o", tmp_path / "out", "--recipe", recipe)
    ran = run(*words, "--encoder", shop.encoder)
    assert (ran.code, ran.out) == (2, "")
    assert "'none'" in ran.err
    assert "build-codebook " in ran.err.splitlines()[-1]
    assert ran.err.splitlines()[-1].endswith("ended with exit code 2")


def test_an_interrupted_step_ends_the_command_as_interrupted(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.data.prepare.read_tables", interrupt)
    ran = run(*line(shop, tmp_path / "out"))
    assert (ran.code, ran.out, ran.err.count("interrupted")) == (130, "", 1)
