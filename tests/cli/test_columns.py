import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import sidtool
from sidtool.cli.main import app
from tests.cli.road import TINY, Road, done, flags, refused, run, write_lines
from tests.data.tables.files import write_table

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")
CATALOGS = {"items"}
EVENTS = {"events", "split", "interactions", "extends"}
"""Names of parameters that are catalogs and events."""


ALL_FLAGS = {flag for name in COMMANDS for flag in flags(name)}
ALL_FLAGS |= {"--help", "--version", "--nproc_per_node", "--sid"}  # torchrun's, FlashRec's

CASES = {
    ("add-items", "items"): ("BUNDLE", "ITEMS", "-o", "OUT", "--embeddings", "VECTORS"),
    ("build-codebook", "items"): ("ITEMS", "-o", "OUT", "--embeddings", "VECTORS"),
    ("build-codebook", "interactions"): (
        *("GOOD", "-o", "OUT", "--embeddings", "VECTORS", "--interactions", "EVENTS"),
    ),
    ("build-memory", "split"): ("EVENTS", "BUNDLE", "-o", "OUT"),
    ("check", "items"): ("ITEMS",),
    ("check", "events"): ("GOOD", "EVENTS"),
    ("compare", "items"): ("BUNDLE", "--items", "ITEMS", "--field", "code"),
    ("compare", "interactions"): ("BUNDLE", "--interactions", "EVENTS"),
    ("evaluate-task", "items"): ("TUNED", "title-to-sid", "--items", "ITEMS"),
    ("evaluate", "split"): ("TUNED", "EVENTS"),
    ("evaluate-lists", "split"): ("TUNED", "EVENTS"),
    ("export", "items"): ("BUNDLE", "-o", "OUT", "--to", "minionerec", "--items", "ITEMS"),
    ("fit", "items"): ("ITEMS", "ORDERS", "-o", "OUT"),
    ("fit", "events"): ("GOOD", "EVENTS", "-o", "OUT"),
    ("inspect", "items"): ("BUNDLE", "--items", "ITEMS", "--field", "code"),
    ("inspect", "split"): ("BUNDLE", "--split", "EVENTS"),
    ("import", "items"): ("MAP", "-o", "OUT", "--items", "ITEMS"),
    ("init-model", "items"): ("ITEMS", "-o", "OUT"),
    ("make-sft", "items"): ("BUNDLE", "ITEMS", "SPLIT", "-o", "OUT"),
    ("make-sft", "split"): ("BUNDLE", "GOOD", "EVENTS", "-o", "OUT"),
    ("prepare", "items"): ("ORDERS", "--items", "ITEMS", "-o", "OUT"),
    ("recommend", "events"): ("TUNED", "--events", "EVENTS", "--all-users"),
    ("report", "items"): ("BUNDLE", "-o", "page.html", "--items", "ITEMS", "--field", "code"),
    ("report", "split"): ("BUNDLE", "-o", "page.html", "--split", "EVENTS"),
    ("refresh", "items"): ("TUNED", "BUNDLE", "-o", "OUT", "SPLIT", "--items", "ITEMS"),
    ("refresh", "split"): ("TUNED", "BUNDLE", "-o", "OUT", "EVENTS"),
    ("split", "events"): ("EVENTS", "-o", "OUT"),
    ("split", "extends"): ("EVENTS", "-o", "OUT", "--extends", "SPLIT"),
    ("tune-memory", "split"): ("TUNED", "EVENTS", "MEMORY", "-o", "OUT"),
}
"""A command and a parameter of it -> words of a run whose file has columns of unusual names."""
OTHERS = {("build-memory", "items"), ("encode", "items"), ("rl", "split")}
"""Files that are read after others with the same columns, or as Parquet alone."""


@pytest.fixture(scope="module")
def inputs(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("odd")
    done("export", road.bundle, "-o", folder / "map.parquet", "--to", "openonerec")
    done("build-memory", road.split, road.bundle, "-o", folder / "memory.zarr")
    return {
        "ITEMS": write_table(folder / "items.csv", {"code": ["b001"], "label": ["lamp"]}),
        "EVENTS": write_table(folder / "events.csv", {"a": ["u"], "b": ["b001"], "c": ["1"]}),
        "GOOD": road.items,
        "ORDERS": road.events,
        "VECTORS": road.vectors,
        "BUNDLE": road.bundle,
        "TUNED": road.tuned,
        "SPLIT": road.split,
        "MAP": folder / "map.parquet",
        "MEMORY": folder / "memory.zarr",
        "OUT": folder / "out",
    }


def test_every_catalog_and_every_file_of_events_has_a_case() -> None:
    inputs = {
        (name, parameter.name)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.name in CATALOGS | EVENTS
    }
    assert inputs == CASES.keys() | OTHERS


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_hint_names_flags_that_exist(inputs: dict[str, Path], case: tuple[str, str]) -> None:
    words = (inputs.get(word, word) for word in CASES[case])
    error = refused(2, case[0], *words)
    assert "looks like the" in error
    hint = error.partition("hint: ")[2]
    named = re.search(r"sidtool ([a-z-]+)", hint)
    available = flags(named[1] if named else case[0])
    assert FLAG.findall(hint)
    assert set(FLAG.findall(hint)) <= available, hint


def test_every_flag_of_every_hint_and_help_exists() -> None:
    n_flags = 0
    for path in Path(sidtool.__file__).parent.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for call in ast.walk(ast.parse(source)) if "--" in source else ():
            for text in _hints(call):
                named = FLAG.findall(text)
                n_flags += len(named)
                assert set(named) <= ALL_FLAGS, (path.name, text)
    assert n_flags > 100


def _hints(node: Any) -> list[str]:
    """The literal text of the keywords `hint` and `help` of a call."""
    keywords = node.keywords if isinstance(node, ast.Call) else []
    return [
        str(part.value)
        for keyword in keywords
        if keyword.arg in ("hint", "help")
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.Constant)
    ]


def test_columns_are_asked_for_once(road: Road, tmp_path: Path) -> None:
    """A bundle and a split remember the columns that they were made with."""
    table: dict[str, list[str]] = {"code": [], "label": [], "text": []}
    for line in road.items.read_text(encoding="utf-8").splitlines():
        for column, value in zip(table, ast.literal_eval(line).values(), strict=True):
            table[column].append(value)
    items = write_table(tmp_path / "items.csv", table)
    words = road.events.read_text(encoding="utf-8").splitlines()
    events = write_lines(tmp_path / "events.csv", ["who,what,when", *words[1:]])
    columns = ("--user-column", "who", "--item-column", "what", "--order-column", "when")
    split, bundle, base = tmp_path / "split", tmp_path / "shop.zarr", tmp_path / "base"
    done("split", events, "-o", split, *columns)
    names = ("--id-column", "code", "--title-column", "label")
    build = ("build-codebook", items, "--embeddings", road.vectors, "--levels", "4x4x8")
    done(*build, "-o", bundle, "--interactions", split, *names)
    model, examples, more = tmp_path / "model", tmp_path / "train.jsonl", tmp_path / "more.zarr"
    done("init-model", items, "-o", base, "--bundle", bundle, "--vocab-size", 300, *TINY)
    done("extend-model", base, bundle, "-o", model)
    done("make-sft", bundle, items, events, "-o", examples, "--task", "sequence=1")
    done("export", bundle, "-o", tmp_path / "map", "--to", "minionerec", "--items", items)
    done("add-items", bundle, items, "-o", more, "--embeddings", road.vectors)
    done("compare", bundle, "--items", items, "--field", "text", "--interactions", events)
    shown = ("--items", items, "--field", "text", "--split", events)
    done("report", bundle, "-o", tmp_path / "page.html", *shown)
    done("split", events, "-o", tmp_path / "later", "--extends", split)
    done("build-memory", events, bundle, "-o", tmp_path / "memory.zarr")
    tune = ("tune-memory", model, events, tmp_path / "memory.zarr", "-o", tmp_path / "x")
    assert "over the trie" in refused(2, *tune)
    done("evaluate-task", model, "title-to-sid", "--items", items, "--limit", 4)
    assert run("init-model", items, "-o", tmp_path / "x").code == 2
