import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.documents import SEAL
from sidtool.base.errors import DataError, RefusedError, SidtoolWarning, UsageError
from sidtool.base.output import partial_path
from sidtool.data.items import Items, read_items
from sidtool.data.queries import Query
from sidtool.data.split.examples import read_examples
from sidtool.data.split.list_targets import ListTargets
from sidtool.data.split.split import Split
from sidtool.data.split.values import Example, UserSequence
from sidtool.examples import sft_job as module
from sidtool.examples.example_file import read_training_examples
from sidtool.examples.lineage import Lineage, read_lineage, side_files
from sidtool.examples.sft_options import SftOptions, TaskCatalogOptions
from sidtool.examples.sft_run import make_sft
from sidtool.examples.tasks import named_task
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.cli.road import write_lines
from tests.examples.cases import ALL_TASKS, QUERIES
from tests.models import tiny_tokenizer
from tests.sealed import reseal
from tests.training_fixtures import N_ITEMS

ALL = SftOptions(dict.fromkeys(ALL_TASKS, 1.5), history_length=5)


Write = Callable[..., Lineage]


@pytest.fixture
def write(tmp_path: Path, bundle: Bundle, catalog: Items, split: Split) -> Write:
    """make-sft of the shop; other inputs are given by keyword."""

    def make(name: str = "train.jsonl", options: SftOptions | None = None, **extra: Any) -> Lineage:
        inputs: dict[str, Any] = {"bundle": bundle, "items": catalog, "split": split, **extra}
        (tmp_path / name).parent.mkdir(exist_ok=True)
        return make_sft(out=tmp_path / name, options=options, **inputs)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_deterministic_and_match_the_lineage(
    tmp_path: Path, bundle: Bundle, split: Split, write: Write
) -> None:
    for name in ("a", "b"):
        write(f"{name}/train.jsonl", ALL, tokenizer=tiny_tokenizer(), queries=QUERIES)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"train.jsonl", "valid.jsonl", "train.jsonl.meta.json"}
    lineage = read_lineage(tmp_path / "a" / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a" / "train.jsonl").read_text().splitlines()]
    counted = {task: counts.examples for task, counts in lineage.tasks.items()}
    assert counted == {task: sum(row["task"] == task for row in rows) for task in ALL_TASKS}
    assert (lineage.leaked_events, lineage.history_prompt.task) == (0, "sequence")
    assert lineage.text_prompt.task == "query-to-sid"
    assert sum(counts.share for counts in lineage.tasks.values()) == pytest.approx(1)
    assert lineage.bundle == bundle.identity
    assert tuple(read_examples(tmp_path / "a" / "valid.jsonl")) == split.valid
    assert lineage.split == split.reference
    stored = json.loads((tmp_path / "a" / "train.jsonl.meta.json").read_text())
    assert Lineage.from_json(stored | {"later": "keys are ignored"}) == lineage


def test_no_example_contains_a_held_out_sid(
    tmp_path: Path, bundle: Bundle, catalog: Items, write: Write
) -> None:
    """The held-out items of the only user occur nowhere else, so their SIDs must not occur in the
    file."""
    train = (UserSequence("u", ("i0", "i1", "i2"), (0, 1, 2)),)
    held = (
        Example("u", ("i0", "i1", "i2"), "i30", 3),
        Example("u", ("i0", "i1", "i2", "i30"), "i31", 4),
    )
    split = Split("leave-one-out", train, held[:1], held[1:])
    tasks = {task: 1.0 for task in ALL_TASKS if named_task(task).of_users}
    write(options=SftOptions(tasks), split=split, tokenizer=tiny_tokenizer())
    text = (tmp_path / "train.jsonl").read_text()
    assert bundle.sid("i1") in text
    for item in ("i30", "i31"):
        assert bundle.sid(item) not in text
        assert catalog.titles[int(item[1:])] not in text


def test_threads_make_the_same_examples_byte_for_byte(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.examples.blocks.BLOCK", 12)
    tasks = {"sequence": 2.5, "next-item": 1.5, "history-to-title": 1.0}
    for threads in (1, 3):
        write(f"{threads}/train.jsonl", SftOptions(tasks, history_length=5), threads=threads)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_split_that_leaks_is_refused(tmp_path: Path, split: Split, write: Write) -> None:
    user = split.train[0]
    leak = Example(user.user, user.items[:0], user.items[0], user.positions[0])
    with pytest.raises(RefusedError, match="held-out"):
        write(options=ALL, split=dataclasses.replace(split, test=(leak,)), queries=QUERIES)
    assert not list(tmp_path.iterdir())


def test_the_output_is_complete_or_absent(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(options=ALL, queries=QUERIES)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        write(options=ALL, queries=QUERIES)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "write_validation", fail)
    with pytest.raises(OSError, match="disk full"):
        write(options=dataclasses.replace(ALL, seed=9), queries=QUERIES, force=True)
    assert contents(tmp_path) == before


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, write: Write) -> None:
    inputs = {"options": ALL, "tokenizer": tiny_tokenizer(), "queries": QUERIES}
    planned = write(**inputs, dry_run=True)
    assert not list(tmp_path.iterdir())
    done = write(**inputs)
    assert planned.tasks == done.tasks
    assert all(counts.tokens > counts.examples for counts in done.tasks.values())


def catalog_file(folder: Path, *columns: str) -> Path:
    """The ids of the shop, and columns of a text."""
    rows = ({"item_id": f"i{row}", **dict.fromkeys(columns, "text")} for row in range(N_ITEMS))
    return write_lines(folder / "items.jsonl", rows)


def test_what_no_example_is_made_of_is_said(tmp_path: Path, split: Split, write: Write) -> None:
    items = catalog_file(tmp_path, "title", "brand")
    train = tuple(UserSequence(sequence.user, sequence.items[:1], (0,)) for sequence in split.train)
    short = dataclasses.replace(split, train=train)
    with pytest.raises(DataError, match="no training example of next-item can be made"):
        write(options=SftOptions({"next-item": 1.0}), items=items, split=short)
    assert not (tmp_path / "train.jsonl").exists()
    queries = SftOptions({"query-to-sid": 1.0})
    with pytest.raises(DataError, match="no training example of query-to-sid") as caught:
        write(options=queries, queries=[Query("none", "a lamp")])
    assert "queries of items in the bundle" in str(caught.value.hint)
    mix = SftOptions({"item-text": 1.0, "next-item": 5.0})
    with pytest.warns(SidtoolWarning, match="there is no training example of next-item"):
        lineage = write(options=mix, items=items, split=short)
    assert lineage.history_prompt is None
    whole = write("whole.jsonl", mix, items=items)
    assert whole.history_prompt is not None


@pytest.mark.parametrize(
    ("catalog_options", "message"),
    [
        (TaskCatalogOptions(fields=("brand",)), r"columns \(brand\) are shown by the task item-t"),
        (TaskCatalogOptions(query_text="a {brand}"), "queries are for a task about them"),
    ],
)
def test_parts_of_the_catalog_that_no_task_shows_are_refused(
    catalog_options: TaskCatalogOptions, message: str, tmp_path: Path, write: Write
) -> None:
    items = catalog_file(tmp_path, "title", "brand")
    with pytest.raises(UsageError, match=message):
        write(items=items, catalog_options=catalog_options)


def test_running_text_shows_the_columns_that_were_asked_for(tmp_path: Path, write: Write) -> None:
    items = catalog_file(tmp_path, "title", "brand", "color")
    options = SftOptions({"item-text": 1.0, "sid-to-brand": 1.0})
    for fields in ((), ("color",)):
        name = f"{len(fields)}.jsonl"
        made = TaskCatalogOptions(fields=fields)
        lineage = write(name, options, items=items, catalog_options=made)
        assert lineage.columns == fields
        examples = read_training_examples(tmp_path / name)
        texts = [example["text"] for example in examples if "text" in example]
        assert texts
        assert not any("brand:" in text for text in texts)
        assert all(("color:" in text) == bool(fields) for text in texts)


def test_titles_are_needed_only_by_tasks_that_show_them(tmp_path: Path, write: Write) -> None:
    items = catalog_file(tmp_path, "brand")
    options = SftOptions({"sequence": 1.0, "sid-to-brand": 1.0})
    lineage = write(options=options, items=items)
    assert lineage.columns == ()  # which running text would show
    options = SftOptions({"sid-to-title": 1.0})
    with pytest.raises(UsageError, match="task sid-to-title shows titles") as error:
        write("titles.jsonl", options, items=items)
    assert error.value.shell_hint == "name it with --title-column"


def test_queries_are_given_once(tmp_path: Path, write: Write) -> None:
    items = catalog_file(tmp_path, "title")
    options = SftOptions({"query-to-sid": 1.0})
    made = write(options=options, items=items, queries=QUERIES)
    assert made.tasks["query-to-sid"].examples + made.dropped_queries == len(QUERIES)
    with pytest.raises(DataError, match="none does not exist"):
        write("more.jsonl", options, items=items, queries=str(tmp_path / "none"))
    composed = {"catalog_options": TaskCatalogOptions(query_text="a {title}")}
    by_keyword = write("a.jsonl", tasks={"query-to-sid": 1}, items=items, query_text="a {title}")
    assert by_keyword.tasks == write("b.jsonl", options, items=items, **composed).tasks
    with pytest.raises(UsageError, match="given twice"):
        write("more.jsonl", options, items=items, queries=QUERIES, **composed)
    with pytest.raises(UsageError, match="the catalog is a value"):
        write("more.jsonl", options, items=read_items(items), **composed)


def test_changed_examples_and_missing_lineage_are_refused(tmp_path: Path, write: Write) -> None:
    out = tmp_path / "train.jsonl"
    with pytest.raises(DataError, match="lineage"):
        read_lineage(out)
    write()
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(out.read_bytes())
    side_files(copy)["meta"].write_bytes(side_files(out)["meta"].read_bytes())
    with pytest.raises(DataError, match=r"not of copy\.jsonl"):
        read_lineage(copy)
    out.write_text(out.read_text() + "{}\n")
    with pytest.raises(DataError, match="its lineage says"):
        read_lineage(out)


VALUES: tuple[Any, ...] = (None, True, -1, 0.5, 1e300, "x", [], [1], ["train.jsonl"], {}, {"a": 1})


def test_a_lineage_of_other_types_is_one_line(tmp_path: Path, write: Write) -> None:
    out = tmp_path / "train.jsonl"
    write()
    path = side_files(out)["meta"]
    whole = json.loads(path.read_text())
    lineage = read_lineage(out)
    path.write_text(json.dumps(whole | {"seed": lineage.seed + 1}))
    with pytest.raises(DataError, match="it differs from its own SHA-256"):
        read_lineage(out)
    for key in whole.keys() - {SEAL}:
        for value in VALUES:
            path.write_text(json.dumps(whole))
            reseal(path, {key: value})
            message = ""
            changed = lineage
            try:
                changed = read_lineage(out)
            except (DataError, RefusedError) as error:
                message = str(error)
            assert "\n" not in message
            assert not message or str(out) in message
            # a value that passes has the type of the one that make-sft wrote
            assert isinstance(getattr(changed, key), kinds_of(getattr(lineage, key)))


def kinds_of(value: Any) -> tuple[type, ...]:
    if value is None:
        return (type(None), int, ListTargets)  # {} is one with its defaults
    if isinstance(value, bool | int | str):
        return (type(value),)
    return (type(value), type(None))


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.meta.json"])
def test_pipes_and_devices_are_not_read(name: str, tmp_path: Path, write: Write) -> None:
    out = tmp_path / "train.jsonl"
    write()
    path = tmp_path / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"neither a regular file nor|cannot read the lineage"):
        read_lineage(out)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"neither a regular file nor|cannot read the lineage"):
        read_lineage(out)


EXAMPLE = {"task": "item", "prompt": "a lamp", "completion": "b", "catalog": {"prompt": [[2, 6]]}}


@pytest.mark.parametrize(
    "change",
    [
        *({"task": value} for value in (5, ["item"])),
        *({"prompt": None}, {"completion": 5}, {"catalog": None}, {"catalog": [[2, 6]]}),
        *({"catalog": {"prompt": spans}} for spans in (None, 5, {"2": 6}, "ab", [2, 6], ["ab"])),
        *({"catalog": {"prompt": [span]}} for span in ([2], [2, 4, 6], [2.0, 6.0], [False, True])),
        *({"catalog": {"prompt": [span]}} for span in ([2, 7], [4, 2], [-4, -2])),
        *({"catalog": {"prompt": spans}} for spans in ([[2, 4], [3, 6]], [[4, 6], [2, 3]])),
        {"catalog": {"text": [[0, 1]]}},
    ],
    ids=json.dumps,
)
def test_a_malformed_example_is_named_by_line(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(EXAMPLE)}\n{json.dumps(EXAMPLE | change)}\n")
    with pytest.raises(DataError, match=r"train\.jsonl:2 ") as caught:
        list(read_training_examples(path))
    assert "\n" not in str(caught.value)


def test_existing_side_files_are_not_overwritten(tmp_path: Path, write: Write) -> None:
    out = tmp_path / "train.jsonl"
    for path in (out, side_files(out)["valid"]):
        path.write_text("mine")
        with pytest.raises(UsageError, match=f"{path.name} exists already"):
            write()
        assert contents(tmp_path) == {path.name: b"mine"}
        path.unlink()
    partial_path(out).mkdir()  # a run that was killed while its files were moved
    out.write_text("torn")
    write()
    assert read_lineage(out)


def test_side_files_are_named_after_the_examples() -> None:
    assert side_files(Path("a/my-train.jsonl"))["valid"] == Path("a/my-valid.jsonl")
    assert side_files(Path("rows.jsonl"))["valid"] == Path("rows.valid.jsonl")
    assert side_files(Path("rows.jsonl"))["meta"] == Path("rows.jsonl.meta.json")
