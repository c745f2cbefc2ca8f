"""The README's own blocks, run as they stand on a small shop; only the encoder is another, since
tests have no hub."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.encoders import tiny_encoder

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = [
    "lamp",
    "chair",
    "table",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "oak",
    "steel",
    "glass",
    "garden",
    "kitchen",
    "office",
    "round",
    "square",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def write_shop(folder: Path) -> None:
    draw = random.Random(0)
    ids = [f"B{number:02d}" for number in range(1, 61)]
    titles = {item: " ".join(draw.sample(WORDS, 4)) + f" {item}" for item in ids}
    lines = [json.dumps({"item_id": item, "title": title}) for item, title in titles.items()]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    rows = [
        f"u{user},{item},{time}"
        for user in range(40)
        for time, item in enumerate(draw.sample(ids, 6))
    ]
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the README's shell block has run, and what it printed."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    encoder = tiny_encoder(tmp_path_factory.mktemp("bert"), folder / "encoder")
    (script,) = blocks("bash")
    script = script.replace("sentence-transformers/all-MiniLM-L6-v2", str(encoder))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_road_runs_as_written(shop: tuple[Path, str]) -> None:
    folder, printed = shop
    answer = json.loads(printed.strip().splitlines()[-1])
    assert answer["user"] == "ann"
    assert len(set(answer["items"])) == 5
    assert "B03" not in answer["items"]
    assert (folder / "tuned" / "sid.zarr" / "zarr.json").exists()
    assert "item-knn" in printed


def test_the_python_block_runs_as_written(shop: tuple[Path, str]) -> None:
    (program,) = blocks("python")
    assert len(program.strip().splitlines()) <= 12
    check = "\nimport sys; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program + check], cwd=shop[0], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_link_and_every_make_target_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for goal in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{goal}:", makefile, flags=re.MULTILINE), goal
