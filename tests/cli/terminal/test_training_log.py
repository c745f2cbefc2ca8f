import json
import time
from pathlib import Path

import pytest

from sidtool.cli.terminal.console import set_verbosity
from sidtool.cli.terminal.pace import progress
from sidtool.cli.terminal.training_log import notify, say_summaries, watch
from tests.cli.terminal.test_console import terminal, written

VALIDATED = {"step": 5, "eval_hr@10": 0.125, "eval_loss": 6.0214, "eval_ndcg@10": 0.05383}
VALIDATED |= {"eval_ndcg@10_high": 0.061, "eval_ndcg@10_low": 0.043, "epoch": 1.0}
ENTRIES = [
    {"step": 4, "loss": 2.77961, "learning_rate": 0.00095, "tokens": 985},
    VALIDATED | {"eval_ndcg@10_item_knn": 0.0644},
    {"step": 8, "loss": 2.75, "learning_rate": 6e-4, "tokens": 2140, "tokens_per_second": 1234.5},
    {"step": 8, "train_runtime": 4.2},
]
LINES = [
    "step 4: loss 2.78, learning rate 0.00095",
    "step 5: hr@10 0.1250, validation loss 6.021, "
    "ndcg@10 0.0538 (0.0430 to 0.0610, item-kNN 0.0644)",
    "step 8: loss 2.75, learning rate 0.0006, 1,234 tokens/s",
]


def test_without_a_terminal_each_log_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train"):
        step_progress, log = watch()
        step_progress(None)
        for entry in ENTRIES:
            log(entry)
    assert capsys.readouterr().err.splitlines() == LINES


def test_a_log_line_has_the_number_of_steps_and_the_time_that_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress("train") as report:
        step_progress, log = watch()
        steps = step_progress(report["train"])
        assert steps is not None
        for now, step in [(0.0, 1), (1.0, 3), (35.0, 8)]:
            clock[0] = now
            steps(step, 400)
            log({"step": step, "loss": 2.5, "learning_rate": 1e-3})
    figures = "loss 2.5, learning rate 0.001"
    assert capsys.readouterr().err.splitlines() == [
        f"step 1 of 400: {figures}",
        f"step 3 of 400: {figures}",  # of two steps in one second nothing follows for 397
        f"step 8 of 400: {figures}, about 33 min left",
    ]


def test_quiet_prints_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(quiet=True, verbose=False)
    with progress("train") as report:
        step_progress, log = watch()
        assert step_progress(report.get("train")) is None
        log(ENTRIES[0])
    set_verbosity(quiet=False, verbose=False)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_bar_has_the_last_figures() -> None:
    with terminal() as screen, progress("train") as report:
        step_progress, log = watch()
        steps = step_progress(report["train"])
        assert steps is not None
        for entry in ENTRIES:
            log(entry)
        steps(8, 15)
    text = written(screen)
    assert "8/15" in text
    bar = " ".join(text.split())
    assert "loss 2.75, learning rate 0.0006" in bar
    assert "ndcg@10 0.0538 (0.0430 to 0.0610, item-kNN 0.0644), 1,234 tokens/s" in bar
    assert "step 4" not in text


@pytest.mark.parametrize(
    ("environment", "prints"),
    [
        ({}, True),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True),
        ({"WORLD_SIZE": "2", "RANK": "1"}, False),
        # a scheduler's number, not one of several processes of this training
        ({"RANK": "1"}, True),
    ],
)
def test_one_of_several_processes_prints_the_results(
    environment: dict[str, str],
    prints: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notify("full starts from base+sid")
    say_summaries([{"steps": 2, "loss": None}], Path("tuned"), json=True)
    printed = capsys.readouterr()
    if prints:
        assert json.loads(printed.out) == {"steps": 2, "loss": None}
        assert printed.err == "full starts from base+sid\nnext: sidtool evaluate tuned SPLIT\n"
    else:
        assert printed.out == printed.err == ""


def test_results_are_lines_of_the_values_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    say_summaries([{"steps": 2, "loss": 1.23456, "metric": None}], Path("tuned"), json=False)
    assert capsys.readouterr().out.splitlines() == ["steps: 2", "loss: 1.235"]
