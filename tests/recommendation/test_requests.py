import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError
from sidtool.base.options import required
from sidtool.recommendation import requests as module
from sidtool.recommendation.recommendations import user_requests
from sidtool.recommendation.requests import (
    BadRequest,
    Request,
    parse_request,
    read_request_file,
    read_request_stream,
)
from sidtool.recommendation.result_file import write_result_table
from tests.cli.road import write_lines
from tests.data.tables.files import write_table


def test_requests_of_json_lines() -> None:
    # what a split's example holds out passes
    held_out = b'"item": "c", "position": 2, "feedback": {"rating": 5}, "rest": []'
    lines = [b'{"user": 7, "history": ["a", "b"], ' + held_out + b"}\n", b"\n"]
    lines += [b'{"history": [], "allow": [], "deny": ["x"]}']
    first, second = read_request_stream(io.BytesIO(b"".join(lines)))
    assert first == Request("7", ("a", "b"))
    assert second == Request(None, (), (), ("x",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "is not a JSON object"),
        ('{"text": 3}', "is a string, not 3"),
        ('{"user": "u"}', "has the key 'history' or 'text'"),
        ('{"user": "u", "history": null}', r'this one has \["user"\]$'),
        *((line, "is not JSON") for line in ("NULL", "\x00", '{"history": []} {}')),
        ('{"history": [], "user": NaN}', "NaN is not JSON"),
        ('{"history": [], "user": 1e999}', "beyond the range"),
        ('{"history": [], "user": ' + "9" * 5000 + "}", "too many digits"),
        ('{"history": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deep"),
        ('{"history": ["a"], "deny": ["b"], "deny": []}', "occurs twice"),
        ('{"history": ["\\ud83d"]}', "surrogate"),
        *((line, "is not UTF-8") for line in (b'{"history": ["\xff"]}', b"\xff\xfe{\x00}\x00")),
        *(
            (f'{{"history": [], "user": {user}}}', "a string or an integer")
            for user in ('["u"]', "true", "1.5")
        ),
        *(
            (f'{{"history": {history}}}', "a list of item ids")
            for history in ('"a,b"', "[true]", "[1.0]", '{"0": "a"}', "[null]", '[["a"]]')
        ),
        ('{"history": [], "allow": "a"}', "a list of item ids"),
        ('{"history": [], "deny": 0}', "a list of item ids"),
        *(
            (f'{{"history": [], "{key}": ["a"]}}', f"the key '{key}', known are user, history, ")
            for key in ("exclude", "Deny", "label")
        ),
        ('{"histroy": ["a"]}', "the key 'histroy'"),
        ("{" + ",".join(f'"{n}": 0' for n in range(10_000)) + "}", "the key '0'"),
        ('{"' + "x" * 100_000 + '": 0}', "the key 'xxx"),
    ],
)
def test_a_bad_line_is_refused_in_one_short_line(line: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_request(line if isinstance(line, bytes) else line.encode(), 7)
    text = str(caught.value)
    assert text.startswith("line 7 of the requests")
    assert len(text) < 250
    assert "\n" not in text


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_bad_line_is_in_the_place_of_its_answer(end: str) -> None:
    texts = ['\ufeff{"history": ["a"]}', "{", "", '{"history": ["b\u2028c"]}', "[]"]
    stream = io.BytesIO((end or "\n").join(texts).encode() + end.encode())
    first, second, third, fourth = read_request_stream(stream)
    assert (first, third) == (Request(history=("a",)), Request(history=("b\u2028c",)))
    assert isinstance(fourth, BadRequest)
    assert [request.line for request in (first, second, third, fourth)] == [1, 2, 4, 5]
    assert second.to_json() == {"line": 2, "error": str(second.error)}


def test_a_line_without_an_end_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_LIMIT", 1 << 10)
    line = b'{"history": ["a"]}\n'
    stream = io.BytesIO(line + b"[" * 5000 + b"\n" + line)
    first, second, third = read_request_stream(stream)
    assert first == third == Request(history=("a",))
    assert isinstance(second, BadRequest)
    assert [request.line for request in (first, second, third)] == [1, 2, 3]


IDS = "a list of item ids, strings or integers"


@pytest.mark.parametrize(
    ("key", "value", "kind", "shown"),
    [
        ("history", "12", IDS, '"12"'),
        ("history", [1, 2.5], IDS, "[1, 2.5]"),
        ("history", {"a"}, IDS, "\"{'a'}\""),
        ("deny", "i1", IDS, '"i1"'),
        ("allow", 5, IDS, "5"),
        ("text", 3, "a string", "3"),
        ("user", True, "a string or an integer", "true"),
        ("fields", None, "a Fields", "null"),
    ],
)
def test_a_request_in_python_is_checked_as_a_body_is(
    key: str, value: Any, kind: str, shown: str
) -> None:
    message = f"{key!r} of a request is {kind}, not {shown}"
    with pytest.raises(DataError) as caught:
        Request(**{key: value})
    assert str(caught.value) == message
    if key != "fields" and not isinstance(value, set):
        with pytest.raises(DataError, match=re.escape(message)):
            Request.from_json({"history": [], key: value})


def test_a_request_takes_lists_and_a_number_of_a_user() -> None:
    user: Any = 7
    history = ["a", "b"]
    request = Request(user, history, deny=())
    assert request == Request("7", ("a", "b"))
    user = np.int64(7)
    assert Request(user, history) == request
    assert hash(request) == hash(Request("7", ("a", "b")))
    kinds = get_type_hints(Request)
    for key in ("history", "allow", "deny"):  # a type checker takes them, too
        assert required(kinds[key]) == Sequence[str]


def test_users_become_requests_in_order(tmp_path: Path) -> None:
    table = {"user": list("uvu"), "item": list("abc"), "time": ["2", "1", "1"]}
    events = write_table(tmp_path / "x.csv", table)
    assert user_requests(events) == [Request("u", ("c", "a")), Request("v", ("b",))]
    requests = user_requests(events, ["v", "gone", "u"])
    assert (requests[0], requests[2]) == (Request("v", ("b",)), Request("u", ("c", "a")))
    bad = requests[1]
    assert bad.to_json() == {"user": "gone", "error": f"user 'gone' has no events in {events}"}


def test_parquet_requests_are_those_of_json_lines(tmp_path: Path) -> None:
    rows = [
        {"user": "u", "history": ["a", "b"], "allow": None, "text": None},
        {"user": None, "history": None, "allow": ["c"], "text": "red"},
        {"user": "w", "history": [], "allow": None, "text": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    write_lines(tmp_path / "x.jsonl", rows)
    files = (tmp_path / "x.parquet", tmp_path / "x.jsonl")
    parquet, lines = (list(read_request_file(path)) for path in files)
    assert parquet == lines
    numbers = pa.table({"user": [7], "history": [[1, 2]]})
    pq.write_table(numbers, tmp_path / "n.parquet")
    assert list(read_request_file(tmp_path / "n.parquet")) == [Request("7", ("1", "2"))]


def test_rows_of_parquet_requests_may_have_other_fields_of_events(tmp_path: Path) -> None:
    rows = [
        {"history": ["a"], "fields": {"event": {"rating": [4]}}},
        {"history": ["a", "b"], "fields": {"event": {"device": ["tv", None]}}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    requests = list(read_request_file(tmp_path / "x.parquet"))
    assert requests == [Request.from_json(row) for row in rows]


def test_bad_rows_of_parquet_requests_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"history": [["a"], None]}), tmp_path / "x.parquet")
    good, bad = read_request_file(tmp_path / "x.parquet")
    assert good == Request(None, ("a",))
    assert f"row 2 of {tmp_path / 'x.parquet'}" in str(bad.error)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as requests"):
        list(read_request_file(tmp_path / "torn.parquet"))
    with pytest.raises(DataError, match=r"no request file .*gone\.parquet$"):
        read_request_file(tmp_path / "gone.parquet")
    with pytest.raises(DataError, match="no request file") as caught:
        read_request_file(tmp_path)
    assert caught.value.shell_hint == "--engine ray answers a folder of Parquet"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no request file") as caught:
        read_request_file(tmp_path / "pipe")
    assert caught.value.shell_hint == "--file - reads a pipe"


def test_ids_may_be_integers() -> None:
    line = b'{"user": 7, "history": [1, "b"], "allow": [2, 3], "deny": [3]}'
    assert parse_request(line, 1) == Request("7", ("1", "b"), ("2", "3"), ("3",))
    assert Request(history=[np.int64(1)]) == Request(history=("1",))


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
