"""Requests of users, and requests and results in Parquet."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError
from sidtool.recommendation.recommendations import user_requests
from sidtool.recommendation.requests import BadRequest, Request, read_request_file
from sidtool.recommendation.result_file import write_result_table
from tests.cli.road import write_lines
from tests.data.tables.files import write_table


def test_users_become_requests_in_order(tmp_path: Path) -> None:
    table = {"user": list("uvu"), "item": list("abc"), "time": ["2", "1", "1"]}
    events = write_table(tmp_path / "x.csv", table)
    assert user_requests(events) == [Request("u", ("c", "a")), Request("v", ("b",))]
    chosen = user_requests(events, ["v", "gone", "u"])
    assert chosen[0] == Request("v", ("b",))
    assert chosen[2] == Request("u", ("c", "a"))
    bad = chosen[1]
    assert isinstance(bad, BadRequest)
    assert bad.to_json() == {"user": "gone", "error": f"user 'gone' has no events in {events}"}


def test_parquet_requests_are_those_of_json_lines(tmp_path: Path) -> None:
    rows = [
        {"user": "u", "history": ["a", "b"], "allow": None, "text": None},
        {"user": None, "history": None, "allow": ["c"], "text": "red"},
        {"user": "w", "history": [], "allow": None, "text": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    write_lines(tmp_path / "x.jsonl", rows)
    assert list(read_request_file(tmp_path / "x.parquet")) == list(
        read_request_file(tmp_path / "x.jsonl")
    )
    numbers = pa.table({"user": [7], "history": [[1, 2]]})
    pq.write_table(numbers, tmp_path / "n.parquet")
    assert list(read_request_file(tmp_path / "n.parquet")) == [Request("7", ("1", "2"))]


def test_bad_rows_of_parquet_requests_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"history": [["a"], None]}), tmp_path / "x.parquet")
    good, bad = read_request_file(tmp_path / "x.parquet")
    assert good == Request(None, ("a",))
    assert isinstance(bad, BadRequest)
    assert f"row 2 of {tmp_path / 'x.parquet'}" in str(bad.error)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as requests"):
        list(read_request_file(tmp_path / "torn.parquet"))
    with pytest.raises(DataError, match="no request file"):
        read_request_file(tmp_path / "gone.parquet")


def test_results_are_a_table(tmp_path: Path) -> None:
    answer = {"user": "u", "items": ["a"], "scores": [-0.5], "sids": ["<s_a_1>"], "titles": ["A"]}
    counts = {"unknown": 0, "unknown_allowed": 0, "unknown_denied": 0, "missing": 1}
    explanations = [{"memory_share": 0.5, "because_of": {"b": 1.0}}]
    lines = [{**answer, **counts, "explanations": explanations}, {"line": 2, "error": "it is bad"}]
    write_result_table(write_lines(tmp_path / "x.jsonl", lines), tmp_path / "x.parquet")
    first, second = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert {name: first[name] for name in answer | counts} == answer | counts
    assert json.loads(first["explanations"]) == explanations
    assert (second["line"], second["error"], second["items"]) == (2, "it is bad", None)
