"""Every command that writes, with small inputs, for the tests of crashes, full disks and second
writers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidtool.cli.main import app
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import TINY, catalog, done, foreign_model, interactions, vectors, write_lines
from tests.data.split.lines import request_lines
from tests.encoders import tiny_encoder

N_ITEMS = 12
STEPS = (
    *("--set", "num_train_epochs=1", "--set", "per_device_train_batch_size=16"),
    *("--set", "eval_users=4", "--set", "save_strategy=steps", "--set", "save_steps=4"),
    *("--set", "eval_strategy=steps", "--set", "eval_steps=4"),
)


RL_STEPS = (
    *("--set", "num_generations=4", "--set", "per_device_train_batch_size=8"),
    *("--set", "max_steps=4", "--set", "eval_users=4", "--allow-worse-slices"),
    *("--set", "save_strategy=steps", "--set", "save_steps=2"),
    *("--set", "eval_strategy=steps", "--set", "eval_steps=2"),
)


@dataclass(frozen=True)
class Writing:
    """A command without `-o OUT`, and one that makes another output at the same place.

    Without `older`, the command writes to a registry: OUT in its words is the folder of a bundle
    there, which has a version already."""

    command: tuple[object, ...]
    older: tuple[object, ...] = ()
    out: str = "out"
    resumes: bool = False
    """whether a run that failed leaves unfinished work for the next one"""

    def line(self, folder: Path, *more: object) -> tuple[object, ...]:
        """The words of the command, with its output in a folder."""
        out = str(folder / self.out)
        if not self.older:
            return tuple(str(word).replace("OUT", out) for word in self.command)
        return (*self.command, "-o", out, *more)

    def older_line(self, folder: Path) -> tuple[object, ...]:
        """The words of the command that makes the older output."""
        return (*self.older, "-o", folder / self.out)


def own_codebook(bundle: Path, out: Path) -> None:
    """The codebook of a bundle, as MiniOneRec stores one; without the columns that balance."""
    codebook = Bundle.open(bundle).require_codebook()
    levels = [level[:, : codebook.dim] for level in codebook.levels]
    np.savez(out, **{f"codebook_{number}": level for number, level in enumerate(levels)})


def light_inputs(folder: Path) -> None:
    """The inputs of the commands that load no model."""
    catalog(folder / "items.jsonl")
    catalog(folder / "more.jsonl", n=64)
    interactions(folder / "events.csv")
    header, *events = (folder / "events.csv").read_text().splitlines()
    # times in seconds since 1970, and ratings from 1 to 5
    rated = [f"{event}0000000,{1 + number % 5}" for number, event in enumerate(events)]
    write_lines(folder / "rated.csv", [f"{header},rating", *rated])
    vectors(folder / "vectors.npy")
    vectors(folder / "other.npy", seed=9)
    write_lines(folder / "retired.txt", ["b001"])
    build = ("build-codebook", folder / "items.jsonl", "--levels", "4x4x8", "--embeddings")
    done(*build, folder / "vectors.npy", "-o", folder / "shop.zarr")
    done(*build, folder / "other.npy", "-o", folder / "other.zarr")
    retired = ("--remove", folder / "retired.txt")
    done("add-items", folder / "shop.zarr", *retired, "-o", folder / "shop2.zarr")
    done("split", folder / "events.csv", "-o", folder / "split")
    done("export", folder / "shop.zarr", "--to", "openonerec", "-o", folder / "map.parquet")
    done("push", folder / "shop.zarr", folder / "registry" / "shop")
    own_codebook(folder / "shop.zarr", folder / "codebooks.npz")


def heavy_inputs(folder: Path) -> None:
    """The inputs of the commands that load models, made from the light ones."""
    done("init-model", folder / "items.jsonl", "-o", folder / "base", "--vocab-size", 280, *TINY)
    done("extend-model", folder / "base", folder / "shop.zarr", "-o", folder / "model")
    bundle, items = folder / "shop.zarr", folder / "items.jsonl"
    foreign_model(folder / "model", folder / "foreign")
    sft = ("make-sft", bundle, items, folder / "split", "--model", folder / "model")
    done(*sft, "-o", folder / "train.jsonl")
    train = ("train", folder / "model", folder / "train.jsonl", *STEPS)
    done(*train, "-o", folder / "tuned")
    done(*train, "--stage", "lora", "-o", folder / "adapted")
    done("build-memory", folder / "split", bundle, "-o", folder / "memory.zarr")
    # a bundle whose ids are numbers, for the engines that need them
    by_line = ("--items", items, "--keys", "line")
    done("export", bundle, "--to", "minionerec", *by_line, "-o", folder / "lines")
    index = folder / "lines" / "index.json"
    done("import", index, "--levels", "4x4x8", "-o", folder / "numbered.zarr")
    extend = ("extend-model", folder / "base", folder / "numbered.zarr", "--init", "mean")
    done(*extend, "-o", folder / "numbered")
    (folder / "bert").mkdir()
    encoder = tiny_encoder(folder / "bert", folder / "encoder")
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    build = ("build-codebook", items, "--levels", "4x4x8", "--encoder", encoder)
    done(*build, "-o", folder / "texts.zarr")
    lines = request_lines(folder / "split")
    write_lines(folder / "requests.jsonl", lines[:8])


def light_commands(folder: Path) -> dict[str, Writing]:
    """The commands that load no model, by name."""
    bundle, other = folder / "shop.zarr", folder / "other.zarr"
    items, split, events = folder / "items.jsonl", folder / "split", folder / "events.csv"
    build = ("build-codebook", items, "--levels", "4x4x8", "--embeddings", folder / "vectors.npy")
    seeded = (*build, "--seed", 1)
    codebook = ("--codebook", folder / "codebooks.npz", "--embeddings", folder / "vectors.npy")
    from_map = ("import", folder / "map.parquet")
    rated = ("split", folder / "rated.csv")
    prepare = ("prepare", events, "--items", items)
    sft = ("make-sft", bundle, items, split)
    add = ("add-items", bundle, "--remove", folder / "retired.txt")
    memory = ("build-memory", split, bundle)
    cases = {
        "build-codebook": Writing(build, seeded, resumes=True),
        "build-codebook to zip": Writing(build, seeded, out="out.zarr.zip", resumes=True),
        "import": Writing(from_map, build),
        "import with codebook": Writing((*from_map, *codebook, "--fail-under", 0), build),
        "split": Writing(("split", events), ("split", events, "--protocol", "temporal")),
        "split with feedback": Writing(
            (*rated, "--times", "--feedback", "rating"), (*rated, "--target", "rating>=2")
        ),
        "check": Writing(("check", items, events), ("check", folder / "more.jsonl", events)),
        "prepare": Writing(prepare, (*prepare, "--min-history", 6)),
        "make-sft": Writing(sft, (*sft, "--seed", 1), out="train.jsonl"),
        "add-items": Writing(add, build, out="out.zarr"),
        "align": Writing(("align", other, "--to", bundle), build),
        "build-memory": Writing((*memory, "--tune"), (*memory, "--neighbors", 2)),
        "report": Writing(("report", bundle), ("report", other), out="page.html"),
        "pull": Writing(("pull", f"{folder / 'registry' / 'shop'}@1.0"), build, resumes=True),
        "push": Writing(("push", folder / "shop2.zarr", "OUT"), out="shop"),
        "tag": Writing(("tag", "OUT@1.0", "stable"), out="shop"),
    }
    outputs = {"minionerec": "out", "openonerec": "out.parquet", "flashrec": "out.json"}
    for system, out in outputs.items():
        command = ("export", bundle, "--to", system)
        cases[f"export {system}"] = Writing(command, ("export", other, *command[2:]), out=out)
    return cases


def heavy_commands(folder: Path) -> dict[str, Writing]:
    """The commands that load models, by name."""
    bundle, items = folder / "shop.zarr", folder / "items.jsonl"
    init = ("init-model", items, "--vocab-size", 280, *TINY)
    extend = ("extend-model", folder / "base", bundle)
    train = ("train", folder / "model", folder / "train.jsonl", *STEPS)
    recommend = ("recommend", folder / "tuned", "--file", folder / "requests.jsonl")
    refresh = ("refresh", folder / "tuned", folder / "shop2.zarr")
    tune = ("tune-memory", folder / "tuned", folder / "split", folder / "memory.zarr")
    engine = ("export", folder / "numbered.zarr", "--model", folder / "numbered", "--to")
    rl = ("rl", folder / "tuned", folder / "train.jsonl", *RL_STEPS)
    embed = ("embed", folder / "items.parquet", "--encoder", folder / "encoder")
    encode = ("encode", folder / "texts.zarr", "--items", folder / "items.parquet")
    return {
        "export xllm": Writing((*engine, "xllm"), ("export", bundle, "--to", "flashrec")),
        "init-model": Writing(init, (*init, "--seed", 1)),
        "extend-model": Writing(extend, (*extend, "--seed", 1)),
        "adopt": Writing(("adopt", folder / "foreign", bundle, "--preset", "lc-rec"), init),
        "merge": Writing(("merge", folder / "adapted"), init),
        "rebind": Writing(("rebind", folder / "tuned", folder / "shop2.zarr"), init),
        "refresh": Writing(refresh, init),
        "refresh on events": Writing((*refresh, folder / "split"), init, resumes=True),
        "tune-memory": Writing((*tune, "--num-beams", 10), init),
        "train": Writing(train, (*train, "--set", "learning_rate=0.01"), resumes=True),
        "train lora": Writing((*train, "--stage", "lora"), init, resumes=True),
        "rl": Writing(rl, init, resumes=True),
        "embed": Writing(embed, init, resumes=True),
        "encode": Writing(encode, init, resumes=True),
        "recommend": Writing(recommend, (*recommend, "-k", 3), out="out.jsonl", resumes=True),
    }


def writing_command_names() -> set[str]:
    """The registered commands that have the option `-o`, and those that write to a registry; but
    `fit`, which runs others, and `example`, which needs a network."""
    names = {"push", "tag"}
    for command in app.registered_commands:
        callback: Callable[..., object] | None = command.callback
        is_other = command.name in ("fit", "example")
        if callback is not None and "out" in callback.__annotations__ and not is_other:
            names.add(str(command.name))
    return names
