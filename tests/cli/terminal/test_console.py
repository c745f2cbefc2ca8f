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
    assert Console(file=screen).is_terminal  # for rich, or it would prove nothing
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
def test_lines_and_labels_are_literal_and_json_is_exact(text: str) -> None:
    with terminal() as screen:
        note(text, label="error:", style="bold red")
        say(text)
        say_cells(text, "second")
        say_json({"title": text, "é": "東京"})
    expected = visible(text)
    *lines, line, end = written(screen).split("\n")
    assert lines == [f"error: {expected}", expected, f"{expected}\tsecond"]
    assert not STEERING.search(line)
    assert (json.loads(line), end) == ({"title": text, "é": "東京"}, "")
    assert "東京" in line
    with terminal() as screen, progress(text) as report:
        report[text](1, 2)
        report[text](2, 2)
    assert expected in written(screen)


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


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        *((error, 1, "error: .+\n") for error in (OSError(""), MemoryError())),
        (SidtoolError("[/b]\x1b[2J"), 1, "error: .+\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), None, ""),  # a closed pipe passes
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int | None, text: str
) -> None:
    expected = type(error) if code is None else typer.Exit
    with terminal() as screen, pytest.raises(expected) as caught, one_line_errors():
        raise error
    assert getattr(caught.value, "exit_code", None) == code
    assert re.fullmatch(text, written(screen))


def test_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        standard_input()


@pytest.mark.parametrize(
    ("width", "names", "row"),
    [
        (
            80,
            ["bundle", "method", "items", *(f"residual variance {k}" for k in range(6))],
            (
                "beauty-rq-kmeans-balanced.zarr",
                "rq-kmeans",
                12101,
                *(0.123456 * k for k in range(6)),
            ),
        ),
        (
            40,
            ["", "model", "95% interval", "gain", "coverage", "item-knn", "popularity"],
            ("ndcg@10", "0.855", "0.728-0.946", "-0.018 to 0.055", "83.3%", "0.875", "0.075"),
        ),
    ],
)
def test_a_narrow_terminal_folds_no_number(
    width: int, names: list[str], row: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", str(width))
        say_table(names, [row])
    text = written(screen)
    assert width == 40 or max(map(len, text.split("\n"))) <= width
    words = " ".join(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row)
    assert {word for word in words.split() if re.search(r"\d", word)} <= set(text.split())


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
def test_an_error_that_quotes_a_long_value_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), one_line_errors():
        raise DataError("x" * 1_000_000, hint="y")
    error, hint = capsys.readouterr().err.splitlines()
    assert len(error) < 5000
    assert (error[-2:], hint) == ("x…", "hint: y")


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


LINES = {
    "a line now and then": (
        {"embed": [(0, 1, 11), (10, 2, 11), (31, 3, 11), (32, 4, 11), (62, 5, 11)]},
        ["embed: 3 of 11, about 2 min left", "embed: 5 of 11, about 93 s left"],
    ),
    "a stream has no total": ({"embed": [(0, 512, 0), (40, 1024, 0)]}, ["embed: 1024"]),
    "the time left is that of the present pass": (
        {"eval": [(0, 32, 500), (40, 500, 500), (41, 32, 500), (75, 32, 500), (110, 101, 500)]},
        [
            "eval: 500 of 500, about 0 s left",
            "eval: 32 of 500",
            "eval: 101 of 500, about 7 min left",
        ],
    ),
    "verbose: a stage starts where the one before it ended": (
        {"embed": [(40, 2, 2)], "quantize": [(41, 1, 100), (72, 32, 100), (80, 100, 100)]},
        ["embed: 2 in 40.0 s", "quantize: 32 of 100, about 68 s left", "quantize: 100 in 40.0 s"],
    ),
}
"""What is seen -> the reports of each stage, as (seconds, done, total), and the lines."""


@pytest.mark.usefixtures("_normal")
@pytest.mark.parametrize("case", LINES)
def test_without_a_terminal_progress_is_lines(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, lines = LINES[case]
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    set_verbosity(quiet=False, verbose=case.startswith("verbose"))
    with progress(*stages) as report:
        for stage, reports in stages.items():
            for now, done, total in reports:
                clock[0] = now
                report[stage](done, total)
    assert capsys.readouterr().err.splitlines() == lines


def test_a_stream_has_no_total_on_a_terminal() -> None:
    with terminal() as screen, progress("recommend") as report:
        report["recommend"](512, 0)
    assert "512/?" in written(screen)


def test_paths_in_the_next_command_are_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    next_step("sidtool split {out}/events.parquet -o {split}", out="a b", split=Path("c"))
    next_step("""curl URL --data '{"history": []}'""")
    assert capsys.readouterr().err.splitlines() == [
        "next: sidtool split 'a b'/events.parquet -o c",
        """next: curl URL --data '{"history": []}'""",
    ]
