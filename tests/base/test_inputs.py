import inspect
import os
import pickle
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import sidtool
from sidtool.base.errors import DataError, UsageError
from sidtool.base.inputs import check_read_files, keeps_inputs
from sidtool.base.options import required
from sidtool.base.output import locked, new_file
from sidtool.base.output_lock import hold_lock
from sidtool.data import CatalogNames
from sidtool.integrations.cluster import PartOptions, RunOptions
from sidtool.integrations.formats import CatalogFile
from sidtool.training import StageSettings, TrainOptions
from tests.cli.road import tree

WITHOUT_INPUTS = ("init_model", "write_example")
"""Functions that take texts, and the name of a data set."""


def has_force(function: Callable[..., Any]) -> bool:
    """Whether a function replaces an output, by its own parameter or by one of its options."""
    hints = {name: required(hint) for name, hint in get_type_hints(function).items()}
    kinds = [hint for name, hint in hints.items() if name != "return" and is_dataclass(hint)]
    return "force" in hints or any(hasattr(kind, "force") for kind in kinds)


FORCED = [
    function
    for name in dir(sidtool)
    if inspect.isfunction(function := getattr(sidtool, name))
    and has_force(function)
    and name not in WITHOUT_INPUTS
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input alone in a folder."""
    source = tmp_path / "data" / "input"
    source.parent.mkdir()
    source.touch()
    return source


def forced_call(function: Callable[..., Any], source: Path, out: Path) -> Any:
    """Call a function with an input and `force`."""
    parameters = inspect.signature(function).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    arguments: dict[str, Any] = {name: str(source) for name in needed if name != "to"}
    if "force" in parameters:
        arguments["force"] = True
    else:
        kind = PartOptions if function is sidtool.split_in_parts else RunOptions
        arguments["run"] = kind(force=True)
    if function is sidtool.export_map:  # which takes an opened bundle
        arguments |= {"to": "minionerec", "items": str(source)}
    return function(**arguments | {"out": str(out)})


@pytest.mark.parametrize("function", FORCED, ids=lambda function: function.__name__)
def test_no_function_replaces_a_folder_that_contains_an_input(
    source: Path, function: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="contains the input"):
        forced_call(function, source, source.parent)
    assert source.exists()


@pytest.mark.parametrize("function", FORCED, ids=lambda function: function.__name__)
def test_no_function_works_for_an_output_that_is_being_written(
    source: Path, function: Callable[..., Any]
) -> None:
    out = source.parent / "out"
    with locked(out), pytest.raises(UsageError, match=f"{out} is being written by process"):
        forced_call(function, source, out)


def test_an_output_is_reserved_during_a_call(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "out"

    @keeps_inputs()
    def save(out: Path, *, work: Callable[[], None], force: bool = False) -> None:
        with pytest.raises(UsageError, match="is being written"), hold_lock(out):
            pass
        work()
        with new_file(Path(os.path.relpath(out)), force=force) as partial:
            partial.touch()

    def fail() -> None:
        raise DataError("bad input")

    with pytest.raises(DataError, match="bad input"):
        save(out, work=fail)
    assert not list(tmp_path.iterdir())
    save(out, work=lambda: None)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with locked(out), pytest.raises(UsageError, match="is being written"):
        save(out, work=fail, force=True)


def test_what_writes_nothing_reserves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @keeps_inputs()
    def plan(out: Path, *, dry_run: bool, force: bool = False) -> list[str]:
        return [path.name for path in tmp_path.iterdir()]

    out = tmp_path / "out"
    assert plan(out, dry_run=False) == ["out.partial.lock"]
    assert plan(out, dry_run=True) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")  # the first process has the lock
    assert plan(out, dry_run=False) == []


def test_a_function_stays_what_it_is() -> None:
    assert len(FORCED) > 15
    for function in FORCED:
        assert pickle.loads(pickle.dumps(function)) is function
        assert function.__doc__
        assert "out" in inspect.signature(function).parameters
    with pytest.raises(TypeError, match=r"split_events\(\) missing 2 required"):
        sidtool.split_events(force=True)  # type: ignore[call-arg]


@keeps_inputs()
def write(out: str, *given: Any, force: bool, **others: Any) -> str:
    return out


@pytest.mark.parametrize(
    "given",
    [
        "{source}",
        "{source}=2",
        "{source}@1.0",
        "{folder}/*",
        ["other", ("{source}",)],
        {"label": "{source}"},
        lambda source: CatalogFile(path=source),
        lambda source: [StageSettings(TrainOptions(), {}, examples=str(source))],
    ],
)
def test_inputs_in_lists_mappings_and_options_are_kept(source: Path, given: Any) -> None:
    def spelled(value: Any) -> Any:
        if isinstance(value, str):
            return value.format(source=source, folder=source.parent)
        if isinstance(value, dict):
            return {key: spelled(member) for key, member in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(spelled, value))
        return value(source)

    with pytest.raises(UsageError, match=f"contains the input {source}"):
        write(str(source.parent), spelled(given), force=True)
    with pytest.raises(UsageError, match=f"contains the input {source}"):
        write(str(source.parent), later=spelled(given), force=True)
    assert write(str(source.parent), spelled(given), force=False)
    assert write(str(source.parent.parent / "new"), spelled(given), force=True)


def test_an_opened_bundle_is_an_input(tmp_path: Path) -> None:
    bundle = sidtool.Bundle.open(Path(__file__).parents[1] / "golden/bundle.zarr.zip")
    bundle.save(tmp_path / "data" / "shop.zarr")
    opened = sidtool.open_bundle(tmp_path / "data" / "shop.zarr")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="contains the input"):
        sidtool.export_map(opened, tmp_path / "data", "minionerec", force=True)
    with pytest.raises(UsageError, match="is an input"):
        sidtool.export_map(opened, tmp_path / "data" / "shop.zarr", "minionerec", force=True)
    assert tree(tmp_path) == before
    assert write(str(tmp_path / "data"), bundle, CatalogNames(), force=True)


def test_a_file_that_an_option_reads_is_kept(tmp_path: Path) -> None:
    ids, folder = tmp_path / "ids.jsonl", tmp_path / "out"
    ids.write_text('{"item_id": "b001"}\n', encoding="utf-8")
    folder.mkdir()
    config = folder / "mine.yaml"
    config.write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is an input of this command"):
        check_read_files(ids, {"out": str(ids), "allow": str(ids)})
    with pytest.raises(UsageError, match="contains the input"):
        check_read_files(folder, {"out": str(folder), "config": config})
    with pytest.raises(UsageError, match="is an input"):
        check_read_files(ids, {"out": str(ids), "template": [f"next-item={ids}"]})
    check_read_files(folder, {"out": "out", "to": str(folder), "history": [str(config)]})
