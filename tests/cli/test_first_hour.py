"""What a stranger's first hour stumbled over, sentence by sentence: the exit code and the message
that answer it now, or the test that has them."""

import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import sidtool
from sidtool.base.errors import DataError, SidtoolError, UsageError
from tests.cli.road import Road, catalog, done, interactions, run, write_lines

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "check --fix of ids without their zeros writes 0 events": (
        "tests.cli.test_check.test_a_fix_writes_ids_as_the_catalog_does",
        "tests.cli.test_check.test_a_fix_that_loses_more_than_a_fifth_of_the_events_needs_force",
    ),
    "every command through evaluate accepts 60% bad ids": (
        "tests.cli.test_unknown_ids.test_no_command_up_to_evaluate_accepts_unknown_ids",
    ),
    "evaluate says in JSON alone that targets are missing": (
        "tests.cli.test_unknown_ids.test_no_command_up_to_evaluate_accepts_unknown_ids",
    ),
    "--fields that no prompt shows are ignored": (
        "tests.cli.test_recommend.test_fields_that_no_prompt_shows_are_refused",
    ),
    "inspect of a model with a memory prints every metric as 0": (
        "tests.cli.test_memory.test_inspect_shows_the_metrics_of_the_memory",
    ),
    "evaluate --against has about 493651 s left": (
        "tests.cli.terminal.test_console.test_the_time_left_is_that_of_the_present_pass",
    ),
    "refresh --dry-run of a model with a memory passes, and the run needs --embeddings": (
        "tests.training.renewal.test_refresh.test_a_memory_by_vectors_needs_them",
    ),
    "model cards in a local registry contain an absolute path": (
        "tests.registry.test_models.test_the_card_names_license_and_reference",
    ),
    "what cannot be downloaded has no hint; the wheel with MiniLM is hidden": (
        "tests.model.contract.test_locate.test_what_is_no_model_is_refused_in_one_line",
        "tests.cli.test_page_commands.test_the_tutorial_runs_in_a_shell",
    ),
    "evaluate and recommend put the history's items first though events never repeat": (
        "tests.cli.test_seen.test_seen_items_are_removed_where_no_target_repeats",
        "tests.cli.test_seen.test_seen_items_are_kept_where_a_target_repeats",
    ),
    "dir(sidtool) shows Any, TYPE_CHECKING, importlib": (
        "tests.test_imports.test_dir_lists_the_public_names_alone",
    ),
    "the repr of a model has thousands of lines": (
        "tests.recommendation.test_recommend.test_the_repr_of_a_model_is_one_line",
        "tests.cli.test_reprs.test_values_that_grow_with_the_data_are_one_short_line",
    ),
}
"""Sentence -> the tests of it."""


@dataclass(frozen=True)
class Case:
    """A command, how it ends, and what it says on stdout or stderr."""

    words: str
    code: int
    message: str


CASES: dict[str, Case] = {
    "check of event ids without their zeros: exit 0": Case(
        "check {zeros} {numbers}",
        3,
        "ids of the catalog look like '0029', those of events like '29'",
    ),
    "check of a catalog with a header alone: exit 0": Case(
        "check {header}", 3, "a build would stop: no row below the header"
    ),
    "dd/mm/yyyy dates: check --fix drops all events": Case(
        "check {items} {european} --fix {out}", 3, "cleaning would lose"
    ),
    "check's hint names split for an option that check has": Case(
        "check {items} {european}", 3, "--time-format '%d/%m/%Y' of check and split reads it"
    ),
    "make-sft accepts a catalog that shares no id": Case(
        "make-sft {bundle} {others} {split} -o {out}/train.jsonl --model {model}",
        3,
        "100.0% of items of the bundle are not in the catalog",
    ),
    "train --set num_train_epochs=-1 publishes an untrained model": Case(
        "train {model} {examples} -o {out} --set num_train_epochs=-1",
        2,
        "num_train_epochs must be above 0, not -1: nothing would be trained",
    ),
    "recommend --history 'The Hunger Games' gives popular items": Case(
        "recommend {tuned} --history The_Hunger_Games", 1, "the bundle has no item of the history"
    ),
    "the tutorial's model lost to item-kNN and no command said so": Case(
        "evaluate {tuned} {split}", 0, "item-kNN"
    ),
}
"""Sentence -> the command that it is about."""


@pytest.fixture(scope="module")
def shop(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files and artifacts by their names in a command."""
    folder = tmp_path_factory.mktemp("hour")
    events = interactions(folder / "events.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in events[1:]]
    ids = [f"{number:04d}" for number in range(1, 61)]
    numbers = [f"{user},{int(item[1:]) + 1},{time}" for user, item, time in rows]
    dates = [f"{user},{item},{int(time) - 90:02d}/12/2020" for user, item, time in rows]
    others = catalog(folder / "others.jsonl").read_text(encoding="utf-8").replace('"b0', '"x0')
    (folder / "others.jsonl").write_text(others, encoding="utf-8")
    return {
        "items": road.items,
        "zeros": write_lines(folder / "zeros.csv", ["item_id,title", *(f"{i},A {i}" for i in ids)]),
        "numbers": write_lines(folder / "numbers.csv", [events[0], *numbers]),
        "header": write_lines(folder / "header.csv", ["item_id,title"]),
        "european": write_lines(folder / "european.csv", [events[0], *dates]),
        "others": folder / "others.jsonl",
        "bundle": road.bundle,
        "split": road.split,
        "model": road.model,
        "examples": road.examples,
        "tuned": road.tuned,
        "out": folder / "out",
    }


@pytest.mark.parametrize("sentence", CASES)
def test_the_command_says_what_is_wrong(sentence: str, shop: dict[str, Path]) -> None:
    case = CASES[sentence]
    names = {name: str(path) for name, path in shop.items()}
    ran = run(*(word.format(**names) for word in case.words.split()))
    assert ran.code == case.code, ran.err
    assert case.message in ran.out + ran.err
    assert not shop["out"].exists()


@pytest.mark.parametrize(
    "name", sorted({name for names in ELSEWHERE.values() for name in names}), ids=str
)
def test_the_test_that_has_the_sentence_exists(name: str) -> None:
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))


def test_refresh_names_no_path_that_is_gone(road: Road, tmp_path: Path) -> None:
    words = ("refresh", road.tuned, road.bundle, road.split, "-o", tmp_path / "new", "--share", 0.2)
    ran = done(*words)
    for text in re.findall(rf"{re.escape(str(tmp_path))}[^\s:,;]*", ran.out + ran.err):
        assert Path(text).exists(), (text, ran.out, ran.err)


def test_the_first_pages_need_no_choice_of_model_or_levels() -> None:
    folder = Path(__file__).parents[2]
    for name in ("README.md", "docs/tutorial.md", "docs/fit.md", "Makefile"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.findall(r"--preset (?!neox-tiny)\S+|--levels \S+", text), name


def test_functions_take_options_as_keywords_named_as_the_flags(road: Road) -> None:
    ids = [f"i{number}" for number in range(30)]
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    bundle = sidtool.Bundle.from_vectors(ids, vectors, levels="4x4x4")
    assert bundle.space.sizes == (4, 4, 4)
    assert "interactions" in inspect.signature(sidtool.build_codebook).parameters
    request = sidtool.Request(history=["b001", "b002"])
    (answer,) = sidtool.recommend(str(road.tuned), [request], k=3)
    assert len(answer.items) == 3
    with pytest.raises(UsageError, match="no option"):
        sidtool.recommend(str(road.tuned), [request], top=3)


@pytest.mark.parametrize("history", ["12", [1, 2]])
def test_a_history_of_another_type_is_refused_at_once(history: object) -> None:
    with pytest.raises(DataError, match="'history' of a request"):
        sidtool.Request(history=history)  # type: ignore[arg-type]


def test_hints_speak_the_words_of_python(road: Road) -> None:
    with pytest.raises(SidtoolError) as caught:
        sidtool.split_events(str(road.events), str(road.split))
    assert caught.value.hint is not None
    assert "force=True" in caught.value.hint
    assert "--force" not in caught.value.hint
    assert "--force" in str(caught.value.shell_hint)
