"""One damaged byte of a bundle, a memory, a split, training examples or a model: no command that
writes makes anything of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from sidtool.data.split.files import MANIFEST
from sidtool.model.contract.contract import CONTRACT
from sidtool.model.contract.folder import read_contract
from tests.cli.road import done, run
from tests.hostile.writing_commands import (
    RL_STEPS,
    STEPS,
    heavy_inputs,
    light_inputs,
    writing_command_names,
)

CASES = 1_000
SAMPLE = 20
NO_INPUTS = Path("inputs")
NOTHING_STORED = {"prepare", "check", "embed", "import", "init-model"}
"""Commands that read no artifact of sidtool."""
NOTHING_MADE = {"tag", "report", "build-codebook", "pull", "recommend", "evaluate"}
"""Commands that publish no digests, or that read artifacts in the ways of others; see the tests of
their rooms."""


@dataclass(frozen=True)
class Reading:
    """A command without its output, and the artifacts that it makes something of."""

    command: tuple[object, ...]
    sources: tuple[Path, ...]
    out: str = "out"

    def line(self, folder: Path) -> tuple[object, ...]:
        """The words of the command, with its output in a folder."""
        if self.command[0] == "push":
            return (*self.command, folder / self.out)
        return (*self.command, "-o", folder / self.out)


def light_readings(folder: Path) -> dict[str, Reading]:
    """The commands that load no model, by name."""
    bundle, other, split = folder / "shop.zarr", folder / "other.zarr", folder / "split"
    memory, items = folder / "memory.zarr", folder / "items.jsonl"
    zipped = folder / "shop.zarr.zip"
    add = ("--remove", folder / "retired.txt")
    earlier = ("--earlier", memory)
    extended = ("split", folder / "events.csv", "--extends", split)
    readings = {
        "add-items": Reading(("add-items", bundle, *add), (bundle,), "out.zarr"),
        "add-items to a zip": Reading(("add-items", zipped, *add), (zipped,), "out.zarr"),
        "align": Reading(("align", other, "--to", bundle), (other, bundle), "out.zarr"),
        "make-sft": Reading(("make-sft", bundle, items, split), (bundle, split), "train.jsonl"),
        "build-memory": Reading(("build-memory", split, bundle), (split, bundle), "out.zarr"),
        "build-memory --earlier": Reading(
            ("build-memory", split, bundle, *earlier), (memory,), "out.zarr"
        ),
        "split": Reading(extended, (split,)),
        "push of a bundle": Reading(("push", bundle), (bundle,)),
        "push of a memory": Reading(("push", memory), (memory,)),
    }
    for system, out in (("minionerec", "out"), ("openonerec", "out.parquet")):
        readings[f"export {system}"] = Reading(("export", bundle, "--to", system), (bundle,), out)
    return readings


def heavy_readings(folder: Path) -> dict[str, Reading]:
    """The commands that load models, by name."""
    bundle, newer, split = folder / "shop.zarr", folder / "shop2.zarr", folder / "split"
    memory, examples = folder / "memory.zarr", folder / "train.jsonl"
    model, tuned, mixed = folder / "model", folder / "tuned", folder / "mixed"
    adapted, bound = folder / "adapted", folder / "bound"
    sft = ("make-sft", bundle, folder / "items.jsonl", split, "--model", model)
    texts = folder / "texts.zarr"
    return {
        "extend-model": Reading(("extend-model", folder / "base", bundle), (bundle,)),
        "adopt": Reading(("adopt", folder / "foreign", bundle, "--preset", "lc-rec"), (bundle,)),
        "merge": Reading(("merge", adapted), (adapted,)),
        "rebind": Reading(("rebind", tuned, newer), (tuned, newer)),
        "rebind with a memory": Reading(("rebind", bound, newer), (bound,)),
        "refresh": Reading(("refresh", tuned, newer), (tuned, newer)),
        "refresh on events": Reading(("refresh", bound, newer, split), (bound, newer, split)),
        "tune-memory": Reading(
            ("tune-memory", mixed, split, memory, "--num-beams", 8), (mixed, split, memory)
        ),
        "make-sft with a model": Reading(sft, (model, bundle, split), "train.jsonl"),
        "train": Reading(("train", model, examples, *STEPS), (model, examples)),
        "rl": Reading(("rl", mixed, examples, *RL_STEPS), (mixed, examples)),
        "encode": Reading(("encode", texts, "--items", folder / "items.parquet"), (texts,)),
        "push of a model": Reading(("push", bound), (bound,)),
    }


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of the commands that load no model."""
    folder = tmp_path_factory.mktemp("light")
    light_inputs(folder)
    build = ("build-codebook", folder / "items.jsonl", "--levels", "4x4x8", "--embeddings")
    done(*build, folder / "vectors.npy", "-o", folder / "shop.zarr.zip")
    done("build-memory", folder / "split", folder / "shop.zarr", "-o", folder / "memory.zarr")
    return folder


@pytest.fixture(scope="module")
def heavy(light: Path) -> Path:
    """The inputs of all commands."""
    (light / "memory.zarr").rename(light / "earlier.zarr")
    heavy_inputs(light)
    mixed = (light / "mixed", light / "split", light / "memory.zarr", "--num-beams", 8)
    done("tune-memory", *mixed, "-o", light / "bound")
    return light


def files_of(artifact: Path) -> list[Path]:
    """The files of an artifact that its digests cover, and its root document."""
    if artifact.suffix == ".jsonl":
        meta = artifact.with_name(artifact.name + ".meta.json")
        return [artifact, meta, artifact.with_name("valid.jsonl")]
    if not (artifact / CONTRACT).exists():
        return [path for path in artifact.rglob("*") if path.is_file()] or [artifact]
    names = [CONTRACT, *read_contract(artifact).files]
    nested = [path for path in artifact.glob("*.zarr/**/*") if path.is_file()]
    return list(dict.fromkeys([*(artifact / name for name in names), *nested]))


def damages(readings: dict[str, Reading], n: int, seed: int) -> Iterator[tuple[Reading, Path, int]]:
    """Commands in turn, each with a byte of one of its sources."""
    random = Random(seed)
    for number in range(n):
        reading = list(readings.values())[number % len(readings)]
        artifact = random.choice(reading.sources)
        path = random.choice(sorted(files_of(artifact)))
        yield reading, path, random.randrange(path.stat().st_size)


def same_values(path: Path, data: bytes) -> bool:
    """Whether a document has the values of other bytes: white space may differ."""
    if path.name not in (CONTRACT, MANIFEST) and not path.name.endswith(".meta.json"):
        return False
    try:
        return bool(json.loads(path.read_bytes()) == json.loads(data))
    except ValueError:
        return False


def check(readings: dict[str, Reading], n: int, folder: Path) -> dict[str, int]:
    """Run commands with one damaged byte each; the number of refusals, and of equal values."""
    counts = {"refused": 0, "white space": 0}
    for number, (reading, path, place) in enumerate(damages(readings, n, seed=n)):
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[place] ^= 1 << number % 8
        path.write_bytes(damaged)
        try:
            equal = same_values(path, before)
            ran = None if equal else run(*reading.line(folder / str(number)))
        finally:
            path.write_bytes(before)
        if ran is None:
            counts["white space"] += 1
            continue
        what = (reading.command[0], path, place, ran.code, ran.err)
        assert ran.code in (1, 3), what
        assert "Traceback" not in ran.err, what
        assert not (folder / str(number) / reading.out).exists(), what
        counts["refused"] += 1
    return counts


def test_every_writing_command_has_sources_or_none() -> None:
    readings = light_readings(NO_INPUTS) | heavy_readings(NO_INPUTS)
    named = {str(reading.command[0]) for reading in readings.values()}
    assert named | NOTHING_STORED | NOTHING_MADE >= writing_command_names()


def test_a_damaged_byte_is_never_published(light: Path, tmp_path: Path) -> None:
    readings = light_readings(light)
    for name, reading in readings.items():
        done(*reading.line(tmp_path / name))  # without damage
    counts = check(readings, SAMPLE, tmp_path)
    assert counts["refused"] > SAMPLE * 0.9


@pytest.mark.slow
def test_a_thousand_damaged_bytes_are_never_published(heavy: Path, tmp_path: Path) -> None:
    readings = light_readings(heavy) | heavy_readings(heavy)
    for name, reading in readings.items():
        done(*reading.line(tmp_path / name))
    counts = check(readings, CASES, tmp_path)
    assert counts["refused"] > CASES * 0.9
