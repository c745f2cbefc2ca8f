"""README's code blocks, run on a small shop with a tiny encoder in place of the one from the
hub."""

import contextlib
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.road import done
from tests.doc_blocks import ENCODER, blocks, commands
from tests.encoders import tiny_encoder

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = ["lamp", "chair", "table", "red", "blue", "green", "small", "large", "oak", "steel"]
WORDS += ["glass", "garden", "kitchen", "office", "round", "square"]


def write_data(folder: Path) -> None:
    """A catalog and events with the columns of those that README's first block writes."""
    draw = random.Random(0)
    ids = range(1, 61)
    titles = [f"{item},{' '.join(draw.sample(WORDS, 4))} {item}" for item in ids]
    rows = [
        f"{user},{item},4,{time}"
        for user in range(40)
        for time, item in enumerate(draw.sample(ids, 6))
    ]
    folder.mkdir()
    tables = {"items": ("item_id,movie_title", titles)}
    tables["events"] = ("user_id,item_id,rating,timestamp", rows)
    for name, (header, lines) in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")


def commands_and_lines() -> list[tuple[str, list[str]]]:
    """README's commands, each with the output lines shown below it."""
    (road,) = [block for block in blocks(README, "console") if block.startswith("$ ")]
    steps = []
    for step in road.replace("\\\n", " ").split("$ ")[1:]:
        command, *lines = step.rstrip("\n").split("\n")
        steps.append((command, lines))
    return steps


def pattern_of(line: str) -> str:
    """A pattern for a line of output: numbers, digests, SIDs and titles vary, `...` is the rest."""
    shown, ellipsis, _ = line.partition("...")
    title = r"(?<=\d)\s+[A-Z].*(?=  <s_a_)"
    masked = re.sub(title, "  TITLE", shown.strip())
    masked = re.sub(r"[0-9a-f]{12}(?![a-z])|-?\.?\d[\d,.]*", "NUMBER", masked)
    pattern = re.sub(r"(?:\\ )+", r"\\s+", re.escape(masked))
    pattern = pattern.replace("TITLE", r"\S.*?")
    pattern = pattern.replace("NUMBER", r"(?:[0-9a-f]{12,}|-?\.?\d[\d,.x]*)")
    return pattern + ("" if ellipsis else r"\s*$")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which README's commands have run, and what each printed."""
    folder = tmp_path_factory.mktemp("shop")
    write_data(folder / "data")
    encoder = tiny_encoder(tmp_path_factory.mktemp("bert"), folder / "encoder")
    printed = []
    with contextlib.chdir(folder):
        for line, _ in commands_and_lines():
            (command,) = commands(f"```bash\n{line}\n```", "bash")
            words = (word.replace(ENCODER, str(encoder)) for word in command.words)
            ran = done(*words, text=command.piped)
            printed.append(ran.out + ran.err)
    shutil.copytree(folder / "bundle.zarr", folder / "shop" / "bundle.zarr")
    return folder, printed


def test_the_commands_print_what_the_readme_shows(shop: tuple[Path, list[str]]) -> None:
    for (command, lines), printed in zip(commands_and_lines(), shop[1], strict=True):
        assert lines, f"README shows no output of {command}"
        for line in lines:
            result = re.search(pattern_of(line), printed, flags=re.MULTILINE)
            assert result, f"{command} does not print a line like {line!r} but {printed}"
    assert (shop[0] / "tuned" / "sid.zarr" / "zarr.json").exists()


def test_the_python_block_prints_what_the_readme_shows(shop: tuple[Path, list[str]]) -> None:
    (program,) = blocks(README, "python")
    assert len(program.strip().splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys; assert 'torch' not in sys.modules"],
        cwd=shop[0],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^print\(.*\)  # (.*)$", program, flags=re.MULTILINE)
    printed = done.stdout.splitlines()
    for line, expected in zip(printed, shown, strict=True):
        assert re.fullmatch(pattern_of(expected), line), (line, expected)
    assert printed[1:3] == ["['50']", "(60, 3) uint16"]


def test_the_readme_is_short_and_has_one_table() -> None:
    assert len(README.splitlines()) <= 120
    without_sources = re.sub(r"<!--.*?-->\n\n?", "", README, flags=re.DOTALL)
    (table,) = re.findall(r"(?:^\|.*\|\n)+", without_sources, flags=re.MULTILINE)
    assert len(table.splitlines()) <= 2 + 6


def test_every_link_and_every_make_target_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for goal in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{goal}:", makefile, flags=re.MULTILINE), goal
