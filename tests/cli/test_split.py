import json
from pathlib import Path

import pytest

from sidtool.data.split.files import read_split
from tests.cli.road import (
    N_USERS,
    TRAINING,
    Road,
    build_words,
    done,
    protocol_split,
    rated,
    refused,
    retire,
    tree,
)

PAIRS = [
    ("temporal", "temporal"),
    ("temporal", "given"),
    pytest.param("given", "leave-one-out", marks=pytest.mark.slow),
    pytest.param("leave-one-out", "temporal", marks=pytest.mark.slow),
]


def test_the_folder_and_what_is_printed(road: Road, tmp_path: Path) -> None:
    said = road.said["split"]
    names = {"train.parquet", "valid.parquet", "test.parquet", "split.json"}
    assert {path.name for path in road.split.iterdir()} == names
    assert f"of {N_USERS} users" in said.out
    step = f"next: sidtool build-codebook ITEMS -o BUNDLE.zarr --interactions {road.split}"
    assert said.last == f"{step} --encoder ENCODER"
    manifest = json.loads((road.split / "split.json").read_text())
    assert manifest["counts"]["test"] == N_USERS
    assert manifest["columns"] == {"user": "user_id", "item": "item_id", "order": "timestamp"}
    again = done("split", road.events, "-o", tmp_path / "again", "--json")
    assert again.json | {"sha256": manifest["sha256"]} == manifest
    assert tree(tmp_path / "again") == tree(road.split)


def test_parts_have_the_digests_of_one_process(road: Road, tmp_path: Path) -> None:
    stored = json.loads((road.split / "split.json").read_text())
    said = done("split", road.events, "-o", tmp_path / "parts", "--parts", 3, "--json")
    assert said.json["parts"] == 3
    different = {key for key in stored if stored[key] != said.json.get(key)}
    assert different == {"events_digest", "files", "sha256"}
    examples = ("make-sft", road.bundle, road.items, tmp_path / "parts", "-o", tmp_path / "a.jsonl")
    assert done(*examples, "--json").json["split"]["digest"] == stored["digest"]


def test_what_a_target_leaves_out_is_counted(road: Road, tmp_path: Path) -> None:
    events = rated(road.events, tmp_path / "rated.csv")
    said = done("split", events, "-o", tmp_path / "split", "--target", "rating>=4")
    stored = json.loads((tmp_path / "split" / "split.json").read_text())
    n_left_out = stored["counts"]["left_out"]
    assert f"{n_left_out} events behind a user's last target" in said.out
    assert "rating>=4" in said.out


def test_given_windows_are_counted(road: Road, tmp_path: Path) -> None:
    folder = protocol_split(road, tmp_path, "given")
    manifest = json.loads((folder / "split.json").read_text())
    assert manifest["counts"]["windows"] == len(read_split(folder).windows or ())
    windows = tmp_path / "train.csv"
    message = refused(2, "make-sft", road.bundle, road.items, windows, "-o", "x.jsonl")
    assert "holds windows" in message
    assert "sidtool split" in message


class Folders(dict[str, Path]):
    """A split, a bundle built with its co-occurrence, its training examples and a model trained on
    them, by protocol and kind, each made when it is first read. The models' bundles were built
    without interactions."""

    def __init__(self, road: Road, folder: Path) -> None:
        self.road, self.folder = road, folder

    def __missing__(self, key: str) -> Path:
        protocol, _, kind = key.partition(":")
        self[key] = out = self.folder / f"{protocol}-{kind}"
        road = self.road
        if kind == "split":
            self[key] = protocol_split(road, self.folder, protocol)
        elif kind == "bundle":
            interactions = ("--interactions", self[f"{protocol}:split"])
            done(*build_words(road, out, *interactions, "--set", "collaborative_dim=4"))
        elif kind == "examples":
            self[key] = out / "train.jsonl"
            made = ("make-sft", road.bundle, road.items, self[f"{protocol}:split"], "-o", self[key])
            done(*made, "--task", "next-item=1", "--model", road.model)
        else:
            done("train", road.model, self[f"{protocol}:examples"], "-o", out, *TRAINING)
        return self[key]


@pytest.fixture(scope="module")
def folders(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(road, tmp_path_factory.mktemp("protocols"))


def expect(code: int, *arguments: object) -> None:
    """Run a command that must succeed (0) or name both splits in its refusal (3)."""
    if code == 0:
        done(*arguments)
        return
    message = refused(3, *arguments)
    assert "may have learned from held-out events" in message
    assert message.count(" split ") >= 2


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_bundle_a_model_and_examples_of_a_different_split_are_refused(
    folders: dict[str, Path], road: Road, tmp_path: Path, one: str, other: str
) -> None:
    code = 0 if one == other else 3
    bundle, model = folders[f"{one}:bundle"], folders[f"{one}:model"]
    split = folders[f"{other}:split"]
    made = ("make-sft", bundle, road.items, split)
    expect(code, *made, "-o", tmp_path / "train.jsonl", "--dry-run")
    expect(code, "evaluate", model, split, "--limit", 2)
    expect(code, "evaluate-task", model, "next-item", split, "--limit", 2, "--num-beams", 2)
    train = ("train", model, folders[f"{other}:examples"], "-o", tmp_path / "out")
    expect(code, *train, *TRAINING)


def test_another_model_of_a_different_split_is_refused(folders: dict[str, Path]) -> None:
    measure = ("evaluate", folders["temporal:model"], folders["temporal:split"], "--limit", 2)
    expect(0, *measure, "--against", folders["temporal:model"])
    message = refused(3, *measure, "--against", folders["given:model"])
    assert message.startswith("error: the other model was made from split")


def test_a_teacher_of_another_split_is_refused(
    folders: dict[str, Path], road: Road, tmp_path: Path
) -> None:
    command = ("train", road.model, folders["temporal:examples"], "-o", tmp_path / "out", *TRAINING)
    expect(3, *command, "--teacher", folders["given:model"])
    expect(0, *command, "--teacher", folders["temporal:model"])


@pytest.mark.slow
def test_the_split_record_survives_the_life_cycle_of_a_bundle(
    folders: dict[str, Path], road: Road, tmp_path: Path
) -> None:
    """Added items, alignment and publication keep the split; so does binding a model to another
    bundle."""
    bundle = folders["leave-one-out:bundle"]
    retire(bundle, tmp_path / "fewer.zarr", "b003")
    done("align", bundle, "--to", road.bundle, "-o", tmp_path / "aligned.zarr")
    done("push", bundle, tmp_path / "registry/shop")
    made = (tmp_path / "fewer.zarr", tmp_path / "aligned.zarr", tmp_path / "registry/shop@latest")
    for path in made:
        command = ("make-sft", path, road.items, "--dry-run", "-o", tmp_path / "train.jsonl")
        expect(3, *command, folders["temporal:split"])
        expect(0, *command, folders["leave-one-out:split"])
    model = folders["leave-one-out:model"]
    done("rebind", model, tmp_path / "aligned.zarr", "-o", tmp_path / "bound")
    expect(3, "evaluate", tmp_path / "bound", folders["given:split"], "--limit", 2)
    expect(0, "evaluate", tmp_path / "bound", folders["leave-one-out:split"], "--limit", 2)
    swapped = ("evaluate", folders["temporal:model"], folders["temporal:split"], "--limit", 2)
    expect(3, *swapped, "--bundle", tmp_path / "aligned.zarr")
