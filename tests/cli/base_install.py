"""Every command in an environment that has the base dependencies only.

`python -m tests.cli.base_install INPUTS OUTPUTS` runs each case in one process and prints, as JSON,
its exit code and its stderr. Where other packages are installed they are hidden first."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A command, and the extra that it needs; None if it works without."""

    words: tuple[object, ...]
    extra: str | None = None


def cases(inputs: Path, outputs: Path) -> dict[str, Case]:
    """The cases by name, which starts with the name of the command. `inputs` has the files of
    `tests.cli.road`, and texts.zarr, a bundle that was built with an encoder."""
    bundle, other, texts = (inputs / f"{name}.zarr" for name in ("shop", "other", "texts"))
    items, split, vectors = (inputs / name for name in ("items.jsonl", "split", "vectors.npy"))
    base, model, tuned = (inputs / name for name in ("base", "base+sid", "tuned"))
    build = ("build-codebook", items, "--levels", "4x4x8")
    train = ("train", model, inputs / "train.jsonl")
    add = ("add-items", bundle)
    push = ("push", bundle, outputs / "registry" / "shop")
    published = f"{outputs / 'registry' / 'shop'}@1.0"

    def out(name: str) -> tuple[object, ...]:
        return ("-o", outputs / name)

    return {
        "prepare": Case(("prepare", inputs / "events.csv", "--items", items, *out("prepared"))),
        "fit": Case(("fit", items, inputs / "events.csv", *out("fitted")), "train"),
        "check": Case(("check", items, inputs / "events.csv")),
        "build-codebook": Case((*build, "--embeddings", vectors, *out("built.zarr"))),
        "build-codebook: texts": Case(
            (*build, "--encoder", inputs / "encoder", *out("embedded.zarr")), "embed"
        ),
        "build-codebook: rq-vae": Case(
            (*build, "--method", "rq-vae", "--embeddings", vectors, *out("rq-vae.zarr")), "models"
        ),
        "inspect": Case(("inspect", bundle)),
        "inspect: s3": Case(("inspect", "s3://bucket/shop"), "s3"),
        "inspect: gs": Case(("inspect", "gs://bucket/shop"), "gcs"),
        "inspect: hf": Case(("inspect", "hf://org/shop"), "hub"),
        "inspect: https": Case(("inspect", "https://host/shop.zarr"), "http"),
        "verify": Case(("verify", bundle)),
        "encode": Case(("encode", bundle, "--embeddings", vectors)),
        "encode: items": Case(
            ("encode", texts, "--items", inputs / "items.parquet", *out("sids")), "embed"
        ),
        "embed": Case(
            ("embed", inputs / "items.parquet", "--encoder", inputs / "encoder", *out("vectors")),
            "embed",
        ),
        "make-sft: ray": Case(
            ("make-sft", bundle, items, split, *out("ray.jsonl"), "--engine", "ray"), "ray"
        ),
        "recommend: ray": Case(
            (
                *("recommend", tuned, "--file", inputs / "requests.parquet", "--engine", "ray"),
                *out("recommended"),
            ),
            "ray",
        ),
        "encode: texts": Case(("encode", texts, "red lamp"), "embed"),
        "decode": Case(("decode", bundle, "<s_a_1><s_b_1><s_c_1>")),
        "compare": Case(("compare", bundle, other)),
        "export": Case(("export", bundle, "--to", "openonerec", *out("map.parquet"))),
        "import": Case(("import", outputs / "map.parquet", *out("imported.zarr"))),
        "import: codebook": Case(
            (
                *("import", outputs / "map.parquet", "--codebook", inputs / "codebooks.npz"),
                *("--embeddings", vectors, "--fail-under", 0, *out("with-codebook.zarr")),
            )
        ),
        "import: encoder": Case(
            (
                *("import", outputs / "map.parquet", "--codebook", inputs / "codebooks.npz"),
                *("--encoder", inputs / "encoder", *out("with-encoder.zarr")),
            ),
            "embed",
        ),
        "init-model": Case(("init-model", items, *out("initialized")), "models"),
        "extend-model": Case(("extend-model", base, bundle, *out("extended")), "models"),
        "adopt": Case(("adopt", base, bundle, "--preset", "lc-rec", *out("adopted")), "models"),
        "merge": Case(("merge", inputs / "adapted", *out("merged")), "models"),
        "split": Case(("split", inputs / "events.csv", *out("split"))),
        "make-sft": Case(("make-sft", bundle, items, split, *out("train.jsonl"))),
        "make-sft: tokens": Case(
            ("make-sft", bundle, items, split, *out("sft.jsonl"), "--model", model), "models"
        ),
        "train": Case((*train, *out("trained")), "train"),
        "train: settings": Case((*train, *out("trained"), "--set", "logging_steps=1"), "train"),
        "rl": Case(("rl", tuned, inputs / "train.jsonl", *out("rewarded")), "train"),
        "settings": Case(("settings", "build-codebook")),
        "settings: model": Case(("settings", "init-model"), "models"),
        "settings: train": Case(("settings", "train"), "train"),
        "refresh": Case(("refresh", tuned, bundle, *out("refreshed")), "models"),
        "refresh: events": Case(("refresh", tuned, bundle, split, *out("refreshed")), "train"),
        "build-memory": Case(("build-memory", split, bundle, *out("memory.zarr"))),
        "tune-memory": Case(
            ("tune-memory", tuned, split, outputs / "memory.zarr", *out("mixed")), "models"
        ),
        "recommend": Case(("recommend", tuned, "--history", "b001"), "models"),
        "serve": Case(("serve", tuned), "serve"),
        "evaluate": Case(("evaluate", tuned, split), "models"),
        "evaluate-task": Case(("evaluate-task", tuned, "title-to-sid"), "models"),
        "evaluate-lists": Case(("evaluate-lists", tuned, split), "models"),
        "add-items": Case(
            (*add, inputs / "more.jsonl", "--embeddings", inputs / "more.npy", *out("more.zarr"))
        ),
        "add-items: texts": Case(
            ("add-items", texts, inputs / "more.jsonl", *out("more-texts.zarr")), "embed"
        ),
        "diff": Case(("diff", bundle, other)),
        "report": Case(("report", bundle, *out("page.html")), "report"),
        "align": Case(("align", other, "--to", bundle, *out("aligned.zarr"))),
        "rebind": Case(("rebind", tuned, bundle, *out("rebound")), "models"),
        "push": Case(push),
        "push: s3": Case(("push", bundle, "s3://bucket/shop"), "s3"),
        "pull": Case(("pull", published, *out("pulled.zarr"))),
        "log": Case(("log", bundle)),
        "tag": Case(("tag", published, "stable")),
        "policy": Case(("policy", outputs / "registry" / "shop")),
        "push: sign": Case((*push, "--sign", inputs / "key.pem"), "sign"),
    }


def check_base_install(python: str, inputs: Path, outputs: Path, path: Path) -> None:
    """Run every case with a Python; `path` is the folder of the package `tests`."""
    outputs.mkdir()
    ended = subprocess.run(
        [python, "-m", "tests.cli.base_install", str(inputs), str(outputs)],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=outputs,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    ran = json.loads(ended.stdout)
    names = {name.partition(":")[0].partition(",")[0] for name in ran["results"]}
    assert names == set(ran["commands"]) - {"example"}  # which needs a network
    for name, result in ran["results"].items():
        if result["extra"] is None:
            assert result["code"] == 0, (name, result)
            continue
        assert result["err"].count("\n") == 1, (name, result)
        line = result["err"].rstrip("\n")
        assert result["code"] == 1, (name, result)
        assert line.startswith("error: "), (name, line)
        assert line.endswith(f" is not installed: pip install 'sidtool[{result['extra']}]'"), line
    refused = (
        "with-encoder.zarr",
        "embedded.zarr",
        "initialized",
        "fitted",
        "trained",
        "merged",
        "refreshed",
        "sft.jsonl",
    )
    assert not any((outputs / name).exists() for name in refused)


def hide_optional_packages() -> None:
    """Make every package impossible to find that a base install does not bring."""
    base = _requirements("sidtool")
    hidden = {
        package
        for package, distributions in metadata.packages_distributions().items()
        if not base.intersection(map(_canonical, distributions))
    }

    class BaseFinder(PathFinder):
        """Finds modules on the path, but for the hidden ones."""

        @classmethod
        def find_spec(
            cls, fullname: str, path: Any = None, target: Any = None
        ) -> ModuleSpec | None:
            if fullname.partition(".")[0] in hidden:
                return None
            return super().find_spec(fullname, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = BaseFinder


def _requirements(distribution: str) -> set[str]:
    """The canonical names of a distribution and of all that it requires without extras."""
    names: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = _canonical(waiting.pop())
        if name in names:
            continue
        names.add(name)
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return names


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(inputs: Path, outputs: Path) -> None:
    """Import every public name and run every case; run it again with --dry-run where it fails and
    its command has that flag."""
    hide_optional_packages()
    import sidtool
    from sidtool.base.errors import MissingPackageError

    need_an_extra = {}
    for public in sidtool.__all__:
        try:
            getattr(sidtool, public)
        except MissingPackageError as error:
            need_an_extra[public] = str(error)
    # a subclass of one of transformers
    assert need_an_extra.keys() == {"SidLogitsProcessor"}
    assert "pip install 'sidtool[models]'" in need_an_extra["SidLogitsProcessor"]
    from typer.testing import CliRunner

    from sidtool.cli.main import app

    callbacks: dict[str | None, Callable[..., Any] | None] = {
        command.name: command.callback for command in app.registered_commands
    }
    results = {}
    for name, case in cases(inputs, outputs).items():
        lines = {name: case.words}
        callback = callbacks[str(case.words[0])]
        if case.extra and callback is not None and "dry_run" in callback.__annotations__:
            lines[f"{name}, dry run"] = (*case.words, "--dry-run")
        for label, words in lines.items():
            ended = CliRunner().invoke(app, [str(word) for word in words])
            error = ended.exception
            unexpected = error if not isinstance(error, SystemExit) else None
            results[label] = {
                "extra": case.extra,
                "code": ended.exit_code,
                "err": ended.stderr + (repr(unexpected) if unexpected else ""),
            }
    json.dump({"commands": sorted(map(str, callbacks)), "results": results}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
