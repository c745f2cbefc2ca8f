import io
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import sidtool
from sidtool.base.errors import DataError, SidtoolError, UsageError
from sidtool.base.visible import visible
from sidtool.cli.terminal import console
from sidtool.cli.terminal.console import (
    as_step,
    detail,
    next_step,
    note,
    one_line_errors,
    say,
    say_cells,
    say_json,
    say_table,
    set_verbosity,
    standard_input,
    warn,
    warn_early,
)
from sidtool.cli.terminal.pace import progress
from tests.cli.road import done, refused, run, write_lines

HOSTILE = (
    *("[/b]", "lamp \\[/sale]", "[bold]x", "[link=https://example.com]x[/link]", ":smile:"),
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "bell\x07", "over\rwritten"),
    *("two\nlines", "\ttab", "\u202eright to left", "\u2066isolated", "line\u2028separator"),
    *("half of a pair \ud83d", "\x7f", "\x00"),
)
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]")
CELLS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20))


class Screen(io.StringIO):
    """A terminal of 400 columns that keeps what is written."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Screen]:
    """Both streams on one screen. No fixture: pytest sets its own streams after them."""
    screen = Screen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "400")
        patch.setenv("TERM", "xterm")
        with redirect_stdout(screen), redirect_stderr(screen):
            yield screen


def written(screen: Screen) -> str:
    """What is on the screen without the styles of rich."""
    return re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())


@given(text=st.text())
def test_visible_text_steers_no_terminal(text: str) -> None:
    expected = visible(text)
    assert not STEERING.search(expected)
    assert "\n" not in expected
    expected.encode("utf-8")
    if text.isascii() and text.isprintable():
        assert expected == text


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), title=CELLS)
def test_cells_and_titles_are_literal_on_terminals(rows: list[tuple[str, str]], title: str) -> None:
    with terminal() as screen:
        say_table(["first", "[second]"], rows, title=title)
    lines = written(screen).split("\n")
    assert (lines[0], len(lines)) == (visible(title), len(rows) + 3)
    start = lines[1].index("[second]")
    for line, (first, second) in zip(lines[2:], rows, strict=False):
        assert not STEERING.search(line)
        assert line.replace(" ", "") == (visible(first) + visible(second)).replace(" ", "")
        if first.isascii():  # else a character may be two columns wide
            assert line[start:].rstrip() == visible(second).rstrip()


@pytest.mark.parametrize("text", HOSTILE)
def test_notes_and_result_lines_are_literal(text: str) -> None:
    with terminal() as screen:
        note(text, label="error:", style="bold red")
        say(text)
        say_cells(text, "second")
    expected = visible(text)
    assert written(screen) == f"error: {expected}\n{expected}\n{expected}\tsecond\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_exact_and_steers_no_terminal(text: str) -> None:
    with terminal() as screen:
        say_json({"title": text, "é": "東京"})
    line = written(screen)
    assert not STEERING.search(line)
    assert json.loads(line) == {"title": text, "é": "東京"}
    assert "東京" in line


@pytest.mark.parametrize("text", HOSTILE)
def test_progress_labels_are_literal(text: str) -> None:
    with terminal() as screen, progress(text) as report:
        report[text](1, 2)
        report[text](2, 2)
    assert visible(text) in written(screen)


def test_only_the_modules_of_the_terminal_write_to_it() -> None:
    writing = re.compile(r"(?m)^\s*(from|import) rich\b|\bprint\(|\btyper\.(echo|secho)\(")
    root = Path(sidtool.__file__).parent
    writers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if writing.search(path.read_text(encoding="utf-8"))
    }
    others = {path for path in writers if not path.startswith("cli/terminal/")}
    # main prints the version, help is spelled for rich, a model card contains a program
    assert others == {"cli/command.py", "cli/main.py", "model/contract/card.py"}


@pytest.mark.parametrize("name", ["[/b].zarr", "[bold]x.zarr", "\x1b[31m.zarr", "two\nlines.zarr"])
def test_a_file_name_is_literal_in_an_error(name: str, tmp_path: Path) -> None:
    assert visible(name) in refused(1, "inspect", tmp_path / name)


def test_hostile_titles_pass_through_every_table(tmp_path: Path) -> None:
    titles = [text for text in HOSTILE if "\ud83d" not in text]
    rows = [{"item_id": f"[/{n}]", "title": text, "brand": text} for n, text in enumerate(titles)]
    items = write_lines(tmp_path / "items.jsonl", rows)
    out = tmp_path / "[/shop].zarr"
    embeddings = tmp_path / "vectors.npy"
    np.save(embeddings, np.random.default_rng(0).normal(size=(len(rows), 8)).astype(np.float32))
    write_lines(tmp_path / "vectors.ids.txt", [row["item_id"] for row in rows])
    command = ("build-codebook", items, "-o", out, "--embeddings", embeddings, "--levels", "4x4x4")
    built = done(*command)
    commands: list[Any] = [built, done("inspect", out), done("log", out), done("diff", out, out)]
    sids = [row["sid"] for row in done("encode", out, "--embeddings", embeddings, "--json").lines]
    commands += [done("inspect", out, "--prefix", "<s_a_0>", "--examples", 20)]
    decoded = done("decode", out, *sids)
    for ran in [*commands, decoded]:
        assert not STEERING.search(ran.out.replace("\t", ""))
        assert not STEERING.search(ran.err)
    for row in rows:
        assert f"{row['item_id']}" in decoded.out
    by_id = {row["item_id"]: row["title"] for row in rows}
    for line in done("decode", out, *sids, "--json").lines:
        for item, title in zip(line["items"], line["titles"], strict=True):
            assert title == " ".join(by_id[item].split()) or title == by_id[item]


def test_no_words_print_the_help() -> None:
    ran = run()
    assert "Tokenizer" in ran.out + ran.err


@pytest.mark.parametrize("error", [OSError(""), MemoryError(), SidtoolError("[/b]\x1b[2J")])
def test_an_expected_error_is_one_line(error: Exception) -> None:
    with terminal() as screen, pytest.raises(typer.Exit) as caught, one_line_errors():
        raise error
    assert caught.value.exit_code == 1
    assert re.fullmatch("error: .+\n", written(screen))


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [(KeyboardInterrupt(), typer.Exit(130), "interrupted\n"), (BrokenPipeError(), None, "")],
)
def test_an_interrupt_has_its_own_code_and_a_closed_pipe_passes(
    error: BaseException, raised: Exception | None, text: str
) -> None:
    with terminal() as screen, pytest.raises(type(raised or error)) as caught, one_line_errors():
        raise error
    assert getattr(caught.value, "exit_code", None) == getattr(raised, "exit_code", None)
    assert written(screen) == text


def test_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        standard_input()


def test_the_console_of_a_terminal_is_rich() -> None:
    # `screen` above would prove nothing if rich did not take it for a terminal
    assert Console(file=Screen()).is_terminal


NUMBERS = [
    ("beauty-rq-kmeans-balanced.zarr", "rq-kmeans", 12101, *(0.123456 * k for k in range(6)))
]


def test_a_table_folds_no_number_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["bundle", "method", "items", *(f"residual variance {k}" for k in range(6))]
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", "80")
        say_table(names, NUMBERS)
    text = written(screen)
    assert max(map(len, text.split("\n"))) <= 80
    for number in NUMBERS[0][3:]:
        assert f"{number:.4f}" in text
    assert " 12101 " in text


def test_a_narrow_terminal_folds_no_number_that_is_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("ndcg@10", "0.855", "0.728-0.946", "-0.018 to 0.055", "83.3%", "0.875", "0.075")]
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", "40")
        say_table(["", "model", "95% interval", "gain", "coverage", "item-knn", "popularity"], rows)
    words = written(screen).split()
    for number in (*rows[0][:3], "-0.018", "0.055", *rows[0][4:]):
        assert number in words


def test_the_floats_of_a_column_have_the_same_decimals(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(["a", "b", "c"], [(0.5, 243.1234, 2.0), (0.25, 7.5, 12345.6)])
    cells = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert cells == [["0.5000", "243.12", "2"], ["0.2500", "7.50", "12346"]]


@pytest.fixture
def _normal() -> Iterator[None]:
    yield
    set_verbosity(quiet=False, verbose=False)


@pytest.mark.usefixtures("_normal")
@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_leaves_results_warnings_and_errors(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    set_verbosity(quiet=quiet, verbose=False)
    say("result")
    note("a note")
    next_step("sidtool inspect x")
    detail("a detail")
    say_table(["a column"], [], aside=True)
    warn("careful")
    with pytest.raises(typer.Exit), one_line_errors():
        raise DataError("wrong", hint="right")
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    notes = [] if quiet else ["a note", "next: sidtool inspect x", "a column"]
    assert captured.err.splitlines() == [*notes, "warning: careful", "error: wrong", "hint: right"]


@pytest.mark.usefixtures("_normal")
def test_steps_print_a_warning_once_and_record_each(capsys: pytest.CaptureFixture[str]) -> None:
    for texts in (["a", "b"], ["a", "c"]):
        with as_step() as warnings:
            for text in texts:
                warn(text)
        assert warnings == texts
    warn("a")  # of all steps, below the result
    printed = capsys.readouterr().err.splitlines()
    assert printed == ["warning: a", "warning: b", "warning: c", "warning: a"]


def test_a_warning_is_printed_early_once_and_below_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console._show_warning("slow")
    for _ in range(2):
        warn_early()
    assert capsys.readouterr().err == "warning: slow\n"
    next_step("sidtool inspect x")
    assert capsys.readouterr().err == "warning: slow\nnext: sidtool inspect x\n"


@pytest.mark.usefixtures("_normal")
def test_verbose_adds_how_long_a_stage_took(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(quiet=False, verbose=True)
    with progress("embed") as report:
        report["embed"](3, 3)
    assert re.fullmatch(r"embed: 3 in \d+\.\d s\n", capsys.readouterr().err)


@pytest.mark.usefixtures("_normal")
def test_a_stage_starts_where_the_one_before_it_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    set_verbosity(quiet=False, verbose=True)
    with progress("embed", "quantize") as report:
        for now, stage, done, total in [
            (40.0, "embed", 2, 2),
            (41.0, "quantize", 1, 100),
            (72.0, "quantize", 32, 100),
            (80.0, "quantize", 100, 100),
        ]:
            clock[0] = now
            report[stage](done, total)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 2 in 40.0 s",
        "quantize: 32 of 100, about 68 s left",
        "quantize: 100 in 40.0 s",
    ]


@pytest.mark.parametrize(
    ("steps", "total", "lines"),
    [
        (
            [(1, 0.0), (2, 10.0), (3, 31.0), (4, 32.0), (5, 62.0)],
            11,
            "embed: 3 of 11, about 2 min left\nembed: 5 of 11, about 93 s left\n",
        ),
        ([(512, 0.0), (1024, 40.0)], 0, "embed: 1024\n"),  # a stream has no total
    ],
)
def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, float]],
    total: int,
    lines: str,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress("embed") as report:
        for done, now in steps:
            clock[0] = now
            report["embed"](done, total)
    assert capsys.readouterr().err == lines


def test_a_stream_has_no_total_on_a_terminal() -> None:
    with terminal() as screen, progress("recommend") as report:
        report["recommend"](512, 0)
    assert "512/?" in written(screen)


def test_the_time_left_is_that_of_the_present_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    reports = [(0.0, 32), (40.0, 500), (41.0, 32), (75.0, 32), (110.0, 101)]
    with progress("evaluate") as report:
        for now, done in reports:
            clock[0] = now
            report["evaluate"](done, 500)
    assert capsys.readouterr().err.splitlines() == [
        "evaluate: 500 of 500, about 0 s left",
        "evaluate: 32 of 500",
        "evaluate: 101 of 500, about 7 min left",
    ]


def test_paths_in_the_next_command_are_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    next_step("sidtool split {out}/events.parquet -o {split}", out="a b", split=Path("c"))
    next_step("""curl URL --data '{"history": []}'""")
    assert capsys.readouterr().err.splitlines() == [
        "next: sidtool split 'a b'/events.parquet -o c",
        """next: curl URL --data '{"history": []}'""",
    ]
