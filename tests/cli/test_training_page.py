"""Every command of docs/training.md, run in order on a small shop."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.road import Road, done, write_lines

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
MANY = re.compile(r"\b\d{5,}\b")
"""Token budgets, which are reduced for a small shop."""


def commands() -> list[tuple[list[str], str | None]]:
    """The words of each command, and the standard input that `echo` pipes into it."""
    lines = (
        "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL))
        .replace("\\\n", " ")
        .splitlines()
    )
    result: list[tuple[list[str], str | None]] = []
    for line in filter(None, (MANY.sub("2000", line) for line in lines)):
        words = shlex.split(line, comments=True)
        piped = words[1] + "\n" if words[0] == "echo" else None
        result.append((words[words.index("sidtool") + 1 :], piped))
    return result


def test_every_command_of_the_page_runs(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in (
        ("shop.zarr", road.bundle),
        ("items.jsonl", road.items),
        ("base+sid", road.model),
    ):
        (tmp_path / name).symlink_to(source)
    (tmp_path / "interactions.csv").symlink_to(road.events)
    write_lines(tmp_path / "held-out.txt", ["b003", "b004"])
    (stages,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "stages.yaml").write_text(MANY.sub("2000", stages), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for words, piped in commands():
        done(*words, text=piped)
    assert {"tuned", "tuned-1-embeddings", "plain", "aligned", "mix"} <= {
        path.name for path in tmp_path.iterdir()
    }
