import json
import os
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cli.road import flags

FOLDER = Path(__file__).parents[3] / "examples" / "ray"


def test_every_option_of_the_script_is_one_of_its_command() -> None:
    text = (FOLDER / "run.sh").read_text()
    ray_options = re.search(r"^ray=\((.*)\)$", text, re.M)
    assert ray_options is not None
    lines = re.findall(r"^(?:unless \S+ )?(sidtool .*)$", text, re.M)
    assert len(lines) == 9
    for line in lines:
        line = line.replace('"${ray[@]}"', ray_options[1])
        assert named_flags(line) <= flags(line.split()[1])
    assert sum('"${ray[@]}"' in line for line in lines) == 7


def test_a_second_call_makes_what_is_missing(tmp_path: Path) -> None:
    """By a `sidtool` that writes its words to a log, and makes its output."""
    fake = tmp_path / "bin" / "sidtool"
    fake.parent.mkdir()
    outputs = '[ "$1" != -o ] || mkdir -p "$2"'
    script = [
        "#!/bin/bash",
        'echo "$1" >> "$LOG"',
        f"while [ $# -gt 0 ]; do {outputs}; shift; done",
    ]
    fake.write_text("\n".join(script) + "\n")
    fake.chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    environ = os.environ | {"LOG": str(tmp_path / "log")}
    environ["PATH"] = f"{fake.parent}:{environ['PATH']}"
    environ.pop("CLUSTER", None)
    inputs = ("items", "events", "requests", "encoder", "model")
    call = ["bash", str(FOLDER / "run.sh"), *inputs, str(out)]
    subprocess.run(call, check=True, env=environ)
    assert len((tmp_path / "log").read_text().split()) == 9
    (out / "memory.zarr").rmdir()
    subprocess.run(call, check=True, env=environ)
    assert (tmp_path / "log").read_text().split()[9:] == ["build-memory", "evaluate"]


def test_the_cluster_of_the_example_is_one_of_ray() -> None:
    pytest.importorskip("ray")
    cluster = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    schema = json.loads((files("ray") / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    assert types["worker"]["min_workers"] <= cluster["max_workers"]


def test_the_service_of_the_example_has_options_that_exist() -> None:
    (line,) = re.findall(r"^exec sidtool (serve .*)$", (FOLDER / "serve.sh").read_text(), re.M)
    assert {"--engine", "--token-file"} <= named_flags(line) <= flags("serve")


def named_flags(line: str) -> set[str]:
    return set(re.findall(r" (--?[a-z][a-z-]*)", line))
