import json
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.base.work_folder import RUN_FILE, open_work_folder

RUN = {"model": "abc", "options": {"k": 5, "deny": None}, "settings": {"lr": 0.1, "names": ["a"]}}
RESTART = "--force starts again"


def opened(work: Path, fingerprint: dict[str, Any], *, force: bool = False) -> list[str]:
    """Open a work folder; the names that are in it then."""
    open_work_folder(work, fingerprint, restart=RESTART, force=force)
    return sorted(path.name for path in work.iterdir())


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of an interrupted run with one finished step."""
    work = tmp_path / "out.partial"
    assert opened(work, RUN) == [RUN_FILE]
    (work / "step-1").write_text("done")
    return work


def test_the_same_run_keeps_its_work(work: Path) -> None:
    assert opened(work, json.loads(json.dumps(RUN))) == [RUN_FILE, "step-1"]
    assert opened(work, RUN, force=True) == [RUN_FILE, "step-1"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**RUN, "model": "xyz"}, "different model: 'abc', not 'xyz'"),
        ({**RUN, "options": {"k": 9, "deny": None}}, "different options.k: 5, not 9"),
        ({**RUN, "options": {"deny": None}}, "different options.k: 5, not None"),
        ({**RUN, "processes": 2}, "different processes: None, not 2"),
        (
            {**RUN, "settings": {"lr": 0.2, "names": []}},
            "different settings.lr: 0.1, not 0.2; settings.names: ['a'], not []",
        ),
        ({}, "different model: 'abc', not None; options.k: 5, not None; settings.lr: "),
        ({**RUN, **{f"more{n}": n for n in range(7)}}, "more4: None, not 4; and 2 more"),
        ({**RUN, "model": "x" * 99}, f"'{'x' * 56}..."),
    ],
)
def test_another_run_is_refused_with_what_differs(
    work: Path, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        opened(work, other)
    assert str(refused.value).startswith(f"{work} has an unfinished run with different ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert RESTART in str(refused.value.shell_hint)
    assert (work / "step-1").exists()
    assert opened(work, other, force=True) == [RUN_FILE]


DAMAGE = {
    "empty": b"",
    "half": b'{"model": "ab',
    "a list": b"[1]",
    "null": b"null",
    "a number": b"5",
    "no UTF-8": b'{"model": "\xff"}',
    "nested": b"[" * 100_000,
    "zeros": b"\0" * 64,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_one_line_with_the_way_out(work: Path, damage: str) -> None:
    (work / RUN_FILE).write_bytes(DAMAGE[damage])
    with pytest.raises(DataError, match=r"run\.json is damaged") as refused:
        opened(work, RUN)
    assert "\n" not in str(refused.value)
    assert refused.value.shell_hint == RESTART
    assert opened(work, RUN, force=True) == [RUN_FILE]
    assert json.loads((work / RUN_FILE).read_text()) == RUN


@pytest.mark.parametrize("left", ["a file", "no record", "nothing"])
def test_work_without_a_record_starts_again(tmp_path: Path, left: str) -> None:
    work = tmp_path / "out.partial"
    if left == "a file":
        work.write_text("of an older version")
    elif left == "no record":
        (work / "step-1").mkdir(parents=True)
    assert opened(work, RUN) == [RUN_FILE]
