"""One damaged byte of a bundle, a memory, a split, training examples or a model: no command that
writes makes anything of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from sidtool.data.split import MANIFEST
from sidtool.model.contract import CONTRACT, read_contract
from tests.cli.road import done, run
from tests.hostile.documents import replaced
from tests.hostile.writing_commands import (
    Writing,
    heavy_commands,
    heavy_inputs,
    light_commands,
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
ARTIFACTS = {"split", "train.jsonl", "model", "tuned", "adapted", "bound", "shop.zarr.zip"}
"""Names of artifacts beside those of bundles and memories."""


def sources(reading: Writing) -> list[Path]:
    """The artifacts that a command makes something of."""
    paths = [word for word in reading.command if isinstance(word, Path)]
    return [path for path in paths if path.suffix == ".zarr" or path.name in ARTIFACTS]


def readings_of(commands: dict[str, Writing]) -> dict[str, Writing]:
    """Those that make something of artifacts. A push is tried to a new registry below."""
    others = NOTHING_MADE | {"push"}
    return {
        name: command
        for name, command in commands.items()
        if command.command[0] not in others and "xllm" not in command.command and sources(command)
    }


def reading(*command: object, out: str = "out") -> Writing:
    """A command of which no older output is made."""
    return Writing(command, command, out)


def light_readings(folder: Path) -> dict[str, Writing]:
    """The commands that load no model, by name."""
    bundle, memory, split = folder / "shop.zarr", folder / "memory.zarr", folder / "split"
    add = ("add-items", folder / "shop.zarr.zip", "--remove", folder / "retired.txt")
    return readings_of(light_commands(folder)) | {
        "add-items to a zip": reading(*add, out="out.zarr"),
        "build-memory --earlier": reading("build-memory", split, bundle, "--earlier", memory),
        "split --extends": reading("split", folder / "events.csv", "--extends", split),
        "push of a bundle": Writing(("push", bundle, "OUT")),
        "push of a memory": Writing(("push", memory, "OUT")),
    }


def heavy_readings(folder: Path) -> dict[str, Writing]:
    """The commands that load models, by name."""
    bound, newer, split = folder / "bound", folder / "shop2.zarr", folder / "split"
    sft = ("make-sft", folder / "shop.zarr", folder / "items.jsonl", split)
    return readings_of(heavy_commands(folder)) | {
        "rebind with a memory": reading("rebind", bound, newer),
        "refresh with a memory": reading("refresh", bound, newer, split),
        "make-sft with a model": reading(*sft, "--model", folder / "model", out="train.jsonl"),
        "push of a model": Writing(("push", bound, "OUT")),
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
    inputs = (light / "tuned", light / "split", light / "memory.zarr", "--num-beams", 10)
    done("tune-memory", *inputs, "-o", light / "bound")
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


def damages(readings: dict[str, Writing], n: int, seed: int) -> Iterator[tuple[Writing, Path, int]]:
    """Commands in turn, each with a byte of one of its sources."""
    random = Random(seed)
    for number in range(n):
        reading = list(readings.values())[number % len(readings)]
        artifact = random.choice(sources(reading))
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


def check(readings: dict[str, Writing], n: int, folder: Path) -> None:
    """Run each command without damage, and then commands with one damaged byte each."""
    for name, reading in readings.items():
        done(*reading.line(folder / name))
    refused = 0
    for number, (reading, path, place) in enumerate(damages(readings, n, seed=n)):
        damaged = bytearray(path.read_bytes())
        damaged[place] ^= 1 << number % 8
        with replaced(path, bytes(damaged)) as before:
            equal = same_values(path, before)
            ran = None if equal else run(*reading.line(folder / str(number)))
        if ran is None:
            continue
        what = (reading.command[0], path, place, ran.code, ran.err)
        assert ran.code in (1, 3), what
        assert "Traceback" not in ran.err, what
        assert not (folder / str(number) / reading.out).exists(), what
        refused += 1
    assert refused > 0.9 * n  # of the others only white space changed


def test_every_writing_command_has_sources_or_none() -> None:
    readings = light_readings(NO_INPUTS) | heavy_readings(NO_INPUTS)
    named = {str(reading.command[0]) for reading in readings.values()}
    assert named | NOTHING_STORED | NOTHING_MADE >= writing_command_names()


def test_a_damaged_byte_is_never_published(light: Path, tmp_path: Path) -> None:
    check(light_readings(light), SAMPLE, tmp_path)


@pytest.mark.slow
def test_a_thousand_damaged_bytes_are_never_published(heavy: Path, tmp_path: Path) -> None:
    check(light_readings(heavy) | heavy_readings(heavy), CASES, tmp_path)
