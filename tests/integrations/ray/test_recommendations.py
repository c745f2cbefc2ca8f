"""Recommendations over a folder are those of one process, row for row."""

import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.integrations.ray.recommendations import recommend_folder
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import answer_each
from sidtool.recommendation.requests import read_request_file
from sidtool.recommendation.result_file import write_result_table
from tests.bundles import small_bundle
from tests.cli.road import write_lines
from tests.integrations.ray.sources import LoadedSource
from tests.loaded import loaded_model
from tests.memory.rerankers import reranked_model


def write_requests(folder: Path) -> list[dict[str, Any]]:
    """Requests of 21 users in three files: one unknown item, one request that is none."""
    rows: list[dict[str, Any]] = [
        {"user": f"u{n}", "history": [f"i{n}", f"i{2 * n}"], "deny": [f"i{n + 1}"]}
        for n in range(21)
    ]
    rows[5]["history"] = ["gone", "i3"]
    rows[13]["history"] = None
    folder.mkdir()
    for number, part in enumerate((rows[:3], rows[3:4], rows[4:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{number}.parquet")
    return rows


@pytest.mark.parametrize(
    ("shard_rows", "reranked"), [(4, False), (8, False), (100, False), (4, True)]
)
def test_the_rows_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int, reranked: bool
) -> None:
    monkeypatch.setattr("sidtool.recommendation.recommendations.WINDOW", 4)
    loaded = loaded_model(small_bundle(60))
    source: Any = LoadedSource(reranked_model() if reranked else loaded)
    rows = write_requests(tmp_path / "requests")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    options = RecommendOptions(k=3, exclude_seen=True)
    with warnings.catch_warnings(record=True) as one_process:
        warnings.simplefilter("always", SidtoolWarning)
        requests = read_request_file(tmp_path / "all.parquet")
        answers = [answer.to_json() for answer in answer_each(source.load(), requests, options)]
    write_lines(tmp_path / "lines", answers)
    write_result_table(tmp_path / "lines", tmp_path / "one.parquet")
    with warnings.catch_warnings(record=True) as over_folder:
        warnings.simplefilter("always", SidtoolWarning)
        outcome = recommend_folder(
            source,
            str(tmp_path / "requests"),
            str(tmp_path / "out"),
            options,
            shard_rows=shard_rows,
        )
    assert [str(each.message) for each in over_folder if each.category is SidtoolWarning] == [
        str(each.message) for each in one_process if each.category is SidtoolWarning
    ]
    expected = pq.read_table(tmp_path / "one.parquet").to_pylist()
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) == -(-21 // shard_rows)
    actual = [row for part in parts for row in pq.read_table(part).to_pylist()]
    bad = 13
    assert actual[bad]["line"] == expected[bad]["line"] == bad + 1
    assert actual[bad]["error"].startswith(f"row 14 of {tmp_path / 'requests'}: ")
    assert [row for n, row in enumerate(actual) if n != bad] == [
        row for n, row in enumerate(expected) if n != bad
    ]
    assert (outcome.requests, outcome.bad, outcome.short) == (21, 1, 0)
    with pytest.raises(DataError, match="row 14 of"):
        outcome.raise_bad()


def test_stop_raises_the_error_of_a_bad_request(tmp_path: Path) -> None:
    source: Any = LoadedSource(loaded_model(small_bundle(60)))
    write_requests(tmp_path / "requests")
    places = (str(tmp_path / "requests"), str(tmp_path / "out"))
    with pytest.raises(DataError, match="row 14 of"):
        recommend_folder(source, *places, stop=True)
    assert not (tmp_path / "out").exists()
