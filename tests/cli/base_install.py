"""Every command in an environment that has the base dependencies only.

`python -m tests.cli.base_install INPUTS OUTPUTS` runs each case in one process and prints, as JSON,
its exit code and its stderr. Where other packages are installed they are hidden first."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

CASES: dict[str, str | None] = {
    "prepare events.csv --items items.jsonl -o OUT/prepared": None,
    "fit items.jsonl events.csv -o OUT/fitted": "train",
    "check items.jsonl events.csv": None,
    "build-codebook items.jsonl --levels 4x4x8 --embeddings vectors.npy -o OUT/built.zarr": None,
    "build-codebook items.jsonl --levels 4x4x8 --encoder encoder -o OUT/embedded.zarr": "embed",
    "build-codebook items.jsonl --levels 4x4x8 --method rq-vae --embeddings vectors.npy"
    " -o OUT/rq-vae.zarr": "models",
    "inspect shop.zarr": None,
    "inspect s3://bucket/shop": "s3",
    "inspect gs://bucket/shop": "gcs",
    "inspect hf://org/shop": "hub",
    "inspect https://host/shop.zarr": "http",
    "verify shop.zarr": None,
    "encode shop.zarr --embeddings vectors.npy": None,
    "encode texts.zarr --items items.parquet -o OUT/sids": "embed",
    "embed items.parquet --encoder encoder -o OUT/vectors": "embed",
    "make-sft shop.zarr items.jsonl split -o OUT/ray.jsonl --engine ray": "ray",
    "recommend tuned --file requests.parquet --engine ray -o OUT/recommended": "ray",
    "encode texts.zarr 'red lamp'": "embed",
    "decode shop.zarr <s_a_1><s_b_1><s_c_1>": None,
    "compare shop.zarr other.zarr": None,
    "export shop.zarr --to openonerec -o OUT/map.parquet": None,
    "import OUT/map.parquet -o OUT/imported.zarr": None,
    "import OUT/map.parquet --codebook codebooks.npz --embeddings vectors.npy --fail-under 0"
    " -o OUT/with-codebook.zarr": None,
    "import OUT/map.parquet --codebook codebooks.npz --encoder encoder"
    " -o OUT/with-encoder.zarr": "embed",
    "init-model items.jsonl -o OUT/initialized": "models",
    "extend-model base shop.zarr -o OUT/extended": "models",
    "adopt base shop.zarr --preset lc-rec -o OUT/adopted": "models",
    "merge adapted -o OUT/merged": "models",
    "split events.csv -o OUT/split": None,
    "make-sft shop.zarr items.jsonl split -o OUT/train.jsonl": None,
    "make-sft shop.zarr items.jsonl split -o OUT/sft.jsonl --model base+sid": "models",
    "train base+sid train.jsonl -o OUT/trained": "train",
    "train base+sid train.jsonl -o OUT/trained --set logging_steps=1": "train",
    "rl tuned train.jsonl -o OUT/rewarded": "train",
    "settings build-codebook": None,
    "settings init-model": "models",
    "settings train": "train",
    "refresh tuned shop.zarr -o OUT/refreshed": "models",
    "refresh tuned shop.zarr split -o OUT/refreshed": "train",
    "build-memory split shop.zarr -o OUT/memory.zarr": None,
    "tune-memory tuned split OUT/memory.zarr -o OUT/mixed": "models",
    "recommend tuned --history b001": "models",
    "serve tuned": "serve",
    "evaluate tuned split": "models",
    "evaluate-task tuned title-to-sid": "models",
    "evaluate-lists tuned split": "models",
    "add-items shop.zarr more.jsonl --embeddings more.npy -o OUT/more.zarr": None,
    "add-items texts.zarr more.jsonl -o OUT/more-texts.zarr": "embed",
    "diff shop.zarr other.zarr": None,
    "report shop.zarr -o OUT/page.html": "report",
    "align other.zarr --to shop.zarr -o OUT/aligned.zarr": None,
    "rebind tuned shop.zarr -o OUT/rebound": "models",
    "push shop.zarr OUT/registry/shop": None,
    "push shop.zarr s3://bucket/shop": "s3",
    "pull OUT/registry/shop@1.0 -o OUT/pulled.zarr": None,
    "log shop.zarr": None,
    "tag OUT/registry/shop@1.0 stable": None,
    "policy OUT/registry/shop": None,
    "push shop.zarr OUT/registry/shop --sign key.pem": "sign",
}
"""Command lines in a folder of inputs, and the extra that each needs; None if it works without."""


def words_of(line: str, inputs: Path, outputs: Path) -> list[str]:
    """The words of a command line, with the paths of inputs and of outputs, which are in OUT."""
    command, *words = shlex.split(line)
    placed = (str(inputs / word) if (inputs / word).exists() else word for word in words)
    return [command, *(re.sub(r"^OUT\b", str(outputs), word) for word in placed)]


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
    names = {line.partition(" ")[0] for line in ran["results"]}
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
    refused = ("with-encoder.zarr", "embedded.zarr", "initialized", "fitted", "trained", "merged")
    refused += ("refreshed", "sft.jsonl")
    assert not any((outputs / name).exists() for name in refused)


def hide_optional_packages() -> None:
    """Make every package impossible to find that a base install does not bring."""
    base = _requirements("sidtool")
    hidden = {
        package
        for package, distributions in metadata.packages_distributions().items()
        if not base.intersection(map(canonicalize_name, distributions))
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
        name = canonicalize_name(waiting.pop())
        if name in names:
            continue
        names.add(name)
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return names


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
    for name, extra in CASES.items():
        lines = [name]
        callback = callbacks[name.partition(" ")[0]]
        if extra and callback is not None and "dry_run" in callback.__annotations__:
            lines.append(f"{name} --dry-run")
        for line in lines:
            ended = CliRunner().invoke(app, words_of(line, inputs, outputs))
            error = ended.exception
            unexpected = error if not isinstance(error, SystemExit) else None
            results[line] = {
                "extra": extra,
                "code": ended.exit_code,
                "err": ended.stderr + (repr(unexpected) if unexpected else ""),
            }
    json.dump({"commands": sorted(map(str, callbacks)), "results": results}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
