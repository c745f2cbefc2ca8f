"""A tiny shop on disk with every artifact, and commands run in this process, for the tests of the
command line."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import typer
from click.testing import CliRunner

from sidtool.cli.main import app
from sidtool.data.split import read_split, write_examples

N_ITEMS, N_USERS = 60, 40
KINDS, COLORS = ("lamp", "soap", "novel", "kettle"), ("red", "blue", "green")
TINY = ("--preset", "gpt2-tiny", "--set", "n_layer=1", "--set", "n_embd=16", "--set", "n_head=2")
"""The smallest shape of `init-model`."""
EPOCH = ("--set", "num_train_epochs=1", "--set", "per_device_train_batch_size=16")
TRAINING = (*EPOCH, "--set", "eval_strategy=no", "--set", "save_strategy=no")
"""One epoch, without validation and checkpoints, which take a third of the time."""


@dataclass(frozen=True)
class Ran:
    """The result of a command: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; fails if there is anything else."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The JSON Lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").rpartition("\n")[2]


@cache
def _command() -> Any:
    """Every command with its options, which take longer to make than most commands to run."""
    return typer.main.get_command(app)


def flags(command: str) -> set[str]:
    """The flags of a command. Raises KeyError for an unknown one."""
    parameters = _command().commands[command].params
    return {flag for option in parameters for flag in (*option.opts, *option.secondary_opts)}


def run(*arguments: object, env: dict[str, str] | None = None, text: str | None = None) -> Ran:
    """Run a command in this process; `text` is its standard input. An exception that it does not
    handle is raised."""
    clean = {name: None for name in os.environ if name.startswith("SIDTOOL_")}
    result = CliRunner().invoke(
        _command(), [str(word) for word in arguments], env={**clean, **(env or {})}, input=text
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def done(*arguments: object, **keywords: Any) -> Ran:
    """Run a command that must exit with 0."""
    ran = run(*arguments, **keywords)
    assert ran.code == 0, ran.err
    return ran


def interrupt(*_: object, **__: object) -> None:
    """In place of a function that is interrupted."""
    raise KeyboardInterrupt


def refused(code: int, *arguments: object, **keywords: Any) -> str:
    """Run a command that must fail with this exit code, one error line, at most one hint line, and
    no result; returns these lines."""
    ran = run(*arguments, **keywords)
    assert (ran.code, ran.out) == (code, ""), (ran.code, ran.out, ran.err)
    assert "Traceback" not in ran.err
    lines = [line for line in ran.err.splitlines() if not line.startswith("warning:")]
    assert lines[0].startswith("error: "), ran.err
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), ran.err
    return "\n".join(lines)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative path, for comparing before and after."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    """JSON Lines, or plain lines where they are strings."""
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return path


def retire(bundle: object, out: Path, *items: str) -> Path:
    """The next version of a bundle, without these items."""
    gone = write_lines(out.with_name(f"without-{items[0]}.txt"), items)
    done("add-items", bundle, "-o", out, "--remove", gone)
    return out


def link(folder: Path, targets: Mapping[str, Path]) -> None:
    """Name other files and folders in a folder."""
    for name, target in targets.items():
        (folder / name).symlink_to(target)


def catalog(path: Path, n: int = N_ITEMS) -> Path:
    """Items "b000", "b001" ... with a color, a kind and a number as title."""
    rows = (
        {
            "item_id": f"b{n:03d}",
            "title": f"{COLORS[n % 3]} {KINDS[n % 4]} {n}",
            "description": f"A {KINDS[n % 4]}.",
        }
        for n in range(n)
    )
    return write_lines(path, rows)


def interactions(path: Path) -> Path:
    """Users who go through the catalog in steps of one from a random item, five to twelve items
    each."""
    rng = np.random.default_rng(1)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in range(N_USERS):
            start, length = rng.integers(N_ITEMS), rng.integers(5, 13)
            writer.writerows(
                (f"u{user}", f"b{(start + step) % N_ITEMS:03d}", 100 + step)
                for step in range(length)
            )
    return path


def rated(events: Path, path: Path) -> Path:
    """Events of a file with ratings from 1 to 5."""
    header, *rows = events.read_text(encoding="utf-8").splitlines()
    lines = (f"{row},{number % 5 + 1}" for number, row in enumerate(rows))
    return write_lines(path, [f"{header},rating", *lines])


def vectors(path: Path, seed: int = 0) -> Path:
    """Vectors of the items, similar within a kind, and a file of their ids, in random order."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 8))[np.arange(N_ITEMS) % 4] + 0.5 * rng.normal(size=(N_ITEMS, 8))
    order = rng.permutation(N_ITEMS)
    np.save(path, rows[order].astype(np.float32))
    write_lines(path.with_suffix(".ids.txt"), (f"b{n:03d}" for n in order))
    return path


def windows(folder: Path, events: Path) -> dict[str, Path]:
    """Events as three files of windows: the last window of each user is test, the one before it
    validation. The first window of users with odd numbers is left out, so that this is no leave-
    one-out split."""
    with events.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts: dict[str, list[list[str]]] = {"train": [], "valid": [], "test": []}
    for user in dict.fromkeys(row["user_id"] for row in rows):
        items = [row["item_id"] for row in rows if row["user_id"] == user]
        first = 1 + int(user[1:]) % 2
        for place in range(first, len(items)):
            part = {len(items) - 1: "test", len(items) - 2: "valid"}.get(place, "train")
            parts[part].append([user, json.dumps(items[first - 1 : place]), items[place]])
    paths = {}
    for part, lines in parts.items():
        paths[part] = folder / f"{part}.csv"
        with paths[part].open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["user_id", "history_item_id", "item_id"])
            writer.writerows(lines)
    return paths


def foreign_model(model: Path, folder: Path) -> Path:
    """A model as another system leaves it: the SID tokens of one of ours, without what sidtool
    stores beside them."""
    shutil.copytree(model, folder)
    shutil.rmtree(folder / "sid.zarr")
    (folder / "sid.json").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["sidtool"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def protocol_split(road: "Road", folder: Path, protocol: str) -> Path:
    """The split folder of the shop's events under one of the three protocols."""
    folder.mkdir(exist_ok=True)
    out = folder / f"{protocol}-split"
    if protocol != "given":
        done("split", road.events, "-o", out, "--protocol", protocol)
        return out
    paths = windows(folder, road.events)
    more = ("--protocol", "given", "--valid", paths["valid"], "--test", paths["test"])
    done("split", paths["train"], "-o", out, *more)
    return out


def build_words(road: "Road", out: Path, *more: object) -> tuple[object, ...]:
    """The words of `build-codebook` on the shop's items and vectors."""
    options = ("--embeddings", road.vectors, "--levels", "4x4x8")
    return ("build-codebook", road.items, "-o", out, *options, *more)


def make_sft(road: "Road", out: Path, *more: object) -> tuple[object, ...]:
    """The words of `make-sft` on the shop's bundle, items and events."""
    return ("make-sft", road.bundle, road.items, road.events, "-o", out, *more)


def train(road: "Road", out: Path, *more: object) -> tuple[object, ...]:
    """The words of `train` on the shop's extended model and its examples."""
    return ("train", road.model, road.examples, "-o", out, *more)


@dataclass(frozen=True)
class Road:
    """The artifacts of the command line, each made by the command that makes it, and what each
    command printed."""

    folder: Path
    said: dict[str, Ran]

    def __getattr__(self, name: str) -> Path:
        return self.folder / FILES[name]


FILES = {"items": "items.jsonl", "events": "events.csv", "vectors": "vectors.npy"}
FILES |= {"bundle": "shop.zarr", "zipped": "shop.zarr.zip", "other": "other.zarr", "base": "base"}
FILES |= {"model": "base+sid", "examples": "train.jsonl", "valid": "valid.jsonl", "split": "split"}
FILES |= {"test": "test.jsonl", "tuned": "tuned", "foreign": "foreign"}
FILES |= {"foreign_map": "foreign-maps/index.json"}


def walk(folder: Path) -> Road:
    """Run the commands from `split` to `train` once."""
    said: dict[str, Ran] = {}
    road = Road(folder, said)
    catalog(road.items), interactions(road.events), vectors(road.vectors)
    said["split"] = done("split", road.events, "-o", road.split)
    write_examples(road.test, read_split(road.split).test)
    build = ("build-codebook", road.items, "--levels", "4x4x8", "--embeddings")
    said["build-codebook"] = done(*build, road.vectors, "-o", road.bundle)
    done(*build, road.vectors, "-o", road.zipped)
    done(*build, vectors(folder / "other.npy", seed=9), "-o", road.other)
    said["init-model"] = done("init-model", road.items, "-o", road.base, "--vocab-size", 300, *TINY)
    said["extend-model"] = done("extend-model", road.base, road.bundle, "-o", road.model)
    foreign_model(road.model, road.foreign)
    done("export", road.bundle, "--to", "minionerec", "-o", road.foreign_map.parent)
    sft = ("make-sft", road.bundle, road.items, road.split, "-o", road.examples)
    said["make-sft"] = done(*sft, "--model", road.model)
    said["train"] = done(*train(road, road.tuned, *EPOCH, "--set", "eval_users=8"))
    return road
