import subprocess
import sys
from pathlib import Path

import pytest

from sidtool.cli.terminal.options import complete_reference, complete_task, setting_pairs
from sidtool.examples.tasks import TASKS
from tests.bundles import small_bundle
from tests.cli.road import done


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    small_bundle().save(folder / "shop.zarr")
    done("push", folder / "shop.zarr", folder / "published" / "shop", "--tag", "stable")
    return folder / "published" / "shop"


def test_versions_and_tags_of_a_local_registry_are_completed(registry: Path) -> None:
    assert complete_reference(str(registry)) == [f"{registry}@stable", f"{registry}@1.0"]
    assert complete_reference(f"{registry}@st") == [f"{registry}@stable"]


@pytest.mark.parametrize("word", ["", "shop.zarr", "s3://bucket/shop@", "\0@"])
def test_other_words_are_left_to_the_shell(word: str) -> None:
    assert complete_reference(word) == []


def test_a_damaged_registry_completes_nothing(tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text("{")
    assert complete_reference(str(tmp_path)) == []


def test_tasks_and_settings_are_completed() -> None:
    assert complete_task("title-to") == [name for name in TASKS if name.startswith("title-to")]
    assert setting_pairs("train", "lora_a") == ["lora_alpha="]
    assert setting_pairs("build-codebook", "bal") == ["balanced="]


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("sidtool build-codebook --method rq-v", {"rq-vae"}),
        *(
            pytest.param(words, completions, marks=pytest.mark.slow)
            for words, completions in (
                ("sidtool build-", {"build-codebook", "build-memory"}),
                ("sidtool build-codebook --collis", {"--collisions"}),
                ("sidtool recommend mod", set()),
            )
        ),
    ],
)
def test_bash_gets_commands_options_and_choices(words: str, completions: set[str]) -> None:
    count = words.count(" ")
    program = "import sys; sys.argv[0] = 'sidtool'; from sidtool.__main__ import main; main()"
    command = [sys.executable, "-c", program]
    env = {"COMP_WORDS": words, "COMP_CWORD": str(count), "_SIDTOOL_COMPLETE": "complete_bash"}
    root = Path(__file__).parents[3]
    ended = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert (ended.stderr, set(ended.stdout.split())) == ("", completions)
