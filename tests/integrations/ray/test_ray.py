"""Two workers of a Ray cluster make what one process makes, even if one of them is killed."""

from pathlib import Path

import pytest

from sidtool.base.errors import DataError
from sidtool.integrations.ray.run import RunOptions
from tests.integrations.ray.jobs import double, read_numbers, write_numbers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_of_two")]
RAY = RunOptions(engine="ray", workers=2)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    numbers = write_numbers(tmp_path / "in")
    double(tmp_path / "in", tmp_path / "alone", RunOptions())
    report = double(
        tmp_path / "in", tmp_path / "out", RAY, killed=2, marker=str(tmp_path / "marker")
    )
    assert (tmp_path / "marker").exists()
    assert read_numbers(tmp_path / "out") == [2 * n for n in numbers]
    assert report.counts == {"sum": sum(numbers)}
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_an_error_of_the_work_is_that_of_the_run(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in")
    with pytest.raises(DataError, match="9 is bad") as raised:
        double(tmp_path / "in", tmp_path / "out", RAY, bad=9)
    assert raised.value.shell_hint == "leave it out"
    assert not (tmp_path / "out").exists()
    double(tmp_path / "in", tmp_path / "out", RunOptions(engine="ray", resume=True))
    assert len(read_numbers(tmp_path / "out")) == 20
