import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from sidtool.cli.main import app
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import catalog as write_catalog
from tests.cli.road import done, interactions, refused, tree, vectors, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of input."""
    folder = tmp_path_factory.mktemp("data")
    interactions(folder / "events.csv")
    write_catalog(folder / "items.jsonl")
    vectors(folder / "vectors.npy")
    write_lines(folder / "gone.txt", ["b001"])
    build = ("build-codebook", folder / "items.jsonl", "--levels", "4x4x8", "--embeddings")
    done(*build, folder / "vectors.npy", "-o", folder / "shop.zarr")
    done("push", folder / "shop.zarr", folder / "registry" / "shop")
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder of inputs."""
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.mark.parametrize("version", ["", "@1.0"])
def test_a_folder_that_contains_the_registry_is_not_replaced(data: Path, version: str) -> None:
    before = tree(data)
    pull = ("pull", f"{data / 'registry' / 'shop'}{version}", "-o", data, "--force")
    assert "contains the input" in refused(2, *pull)
    assert tree(data) == before


COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
FORCED = [
    (name, flags)
    for name, command in COMMANDS.items()
    for flags in ([], ["--dry-run"])
    if {"--force", *flags} <= {flag for parameter in command.params for flag in parameter.opts}
    and name != "example"  # which takes a name
]


@pytest.mark.parametrize(("name", "flags"), FORCED)
def test_no_command_replaces_a_folder_that_contains_an_input(
    tmp_path: Path, name: str, flags: list[str]
) -> None:
    source = tmp_path / "data" / "input"
    source.parent.mkdir()
    source.touch()
    words: list[object] = [*flags]
    for parameter in COMMANDS[name].params:
        if parameter.required and parameter.name != "out":
            is_argument = parameter.param_type_name == "argument"
            words += [source] if is_argument else [parameter.opts[0], source]
    words += ["--file", source] if name == "recommend" else []
    words += ["--items", source] if name == "encode" else []
    words += ["--to", "flashrec"] if name == "export" else []
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (source.parent, tmp_path / "link" / "data"):
        said = refused(2, name, *words, "-o", out, "--force")
        assert f"{out} contains the input {source}" in said
    assert source.exists()


@pytest.mark.parametrize(
    "command",
    [
        "split events.csv",
        "prepare events.csv",
        "check items.jsonl events.csv",
        "init-model items.jsonl",
        "extend-model base shop.zarr",
        "build-codebook items.jsonl --embeddings vectors.npy",
        "add-items shop.zarr --remove gone.txt",
        "build-memory events.csv shop.zarr",
        "export shop.zarr --to minionerec",
        "make-sft shop.zarr items.jsonl events.csv",
        "pull registry/shop@1.0",
        "example movielens",
        "train base train.jsonl",
        "report shop.zarr",
    ],
)
def test_a_folder_that_sidtool_did_not_write_is_not_replaced(
    data: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(data)
    for name in ("precious/thesis.txt", "precious/sub/x"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(data / name, ["years of work"])
    before = tree(data)
    said = refused(2, *command.split(), "-o", "precious", "--force")
    assert (
        "precious exists already, and is no output of sidtool: it has sub" in said
        or "precious is a folder" in said
    )
    assert tree(data) == before


def test_an_option_that_is_spelled_like_the_output_is_no_input(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    for _ in range(2):
        done("export", "shop.zarr", "--to", "minionerec", "-o", "minionerec", "--force")
    assert (data / "minionerec" / "index.json").is_file()


@pytest.mark.parametrize("pattern", ["*.csv", "**/*.csv"])
def test_a_folder_that_contains_a_file_of_a_pattern_is_not_replaced(
    data: Path, pattern: str
) -> None:
    before = tree(data)
    said = refused(2, "split", data / pattern, "-o", data, "--force")
    assert f"contains the input {data / 'events.csv'}" in said
    assert tree(data) == before


@pytest.mark.parametrize("name", ["shop.zarr", "shop.zarr.zip"])
def test_a_bundle_is_replaced_by_its_next_version(data: Path, name: str) -> None:
    bundle = data / name
    if name.endswith(".zip"):
        done("pull", f"{data / 'registry' / 'shop'}@1.0", "-o", bundle)
    done("add-items", bundle, "--remove", data / "gone.txt", "-o", bundle, "--force")
    assert list(Bundle.broken(bundle)) == []


@pytest.mark.parametrize(
    "command",
    [
        "split events.csv -o events.csv",
        "split tables -o tables",
        "build-codebook items.jsonl --levels 4 --embeddings vectors.npy=1 -o vectors.npy",
        "build-codebook items.jsonl --embeddings vectors.npy --interactions events -o events",
        "build-memory events shop.zarr -o shop.zarr",
        "build-memory events shop.zarr.zip -o shop.zarr.zip",
        "build-memory events shop.zarr -o events",
        "export shop.zarr --to minionerec -o shop.zarr",
        "extend-model base shop.zarr -o shop.zarr",
        "report shop.zarr -o shop.zarr",
    ],
)
def test_an_input_is_not_replaced(
    data: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    done("split", "events.csv", "-o", "events")
    done("pull", "registry/shop@1.0", "-o", "shop.zarr.zip")
    for folder in ("base", "tables"):
        (data / folder).mkdir()
    shutil.copy("events.csv", "tables")
    before = tree(data)
    assert "is an input" in refused(2, *command.split(), "--force")
    assert tree(data) == before


def test_a_pull_never_replaces_a_registry(data: Path) -> None:
    registry = data / "registry" / "shop"
    before = tree(registry)
    assert "registry" in refused(2, "pull", f"{registry}@1.0", "-o", registry, "--force")
    version = next((registry / "versions").glob("1.0-*")) / "bundle.zarr"
    words = ("add-items", version, "--remove", data / "gone.txt")
    assert "registry" in refused(2, *words, "-o", version, "--force")
    assert tree(registry) == before


def test_a_push_never_damages_a_bundle_or_a_registry(data: Path) -> None:
    before = tree(data)
    for target in ("shop.zarr/sub", "registry/shop/versions", "registry/shop/versions/1.0"):
        assert "is inside of the" in refused(2, "push", data / "shop.zarr", data / target)
    assert tree(data) == before


def test_one_process_divides_examples_in_parts_among_threads(data: Path) -> None:
    done("split", data / "events.csv", "--parts", 2, "-o", data / "split")
    sft = ("make-sft", data / "shop.zarr", data / "items.jsonl", data / "split", "--threads", 2)
    done(*sft, "-o", f"{data}/threads/")
    done(*sft[:-2], "-o", f"{data}/one/")
    assert tree(data / "threads") == tree(data / "one")
    pytest.importorskip("ray")
    said = refused(2, *sft, "-o", f"{data}/ray/", "--engine", "ray")
    assert "--threads is for one process: leave out --engine" in said
