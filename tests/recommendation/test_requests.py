"""Requests as JSON Lines, and output files that survive an interruption."""

import io
import re
from typing import Any

import pytest

from sidtool.base.errors import DataError
from sidtool.recommendation import requests as module
from sidtool.recommendation.requests import BadRequest, Request, parse_request, read_request_stream


def test_requests_of_json_lines() -> None:
    lines = [
        b'{"user": 7, "history": ["a", "b"], "item": "c"}\n',
        b"\n",
        b'{"history": [], "allow": [], "deny": ["x"]}',
    ]
    first, second = read_request_stream(io.BytesIO(b"".join(lines)))
    assert first == Request("7", ("a", "b"))
    assert second == Request(None, (), (), ("x",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "is not a JSON object"),
        ('{"text": 3}', "is a string, not 3"),
        ('{"user": "u"}', "has the key 'history' or 'text'"),
        ('{"history": "a,b"}', "a list of item ids"),
        ('{"history": [1]}', "a list of item ids"),
        ("NULL", "is not JSON"),
        ("\x00", "is not JSON"),
        ('{"history": []} {}', "is not JSON"),
        ('{"history": [], "user": NaN}', "NaN is not JSON"),
        ('{"history": [], "user": 1e999}', "beyond the range"),
        ('{"history": [], "user": ' + "9" * 5000 + "}", "too many digits"),
        ('{"history": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deep"),
        ('{"history": ["a"], "deny": ["b"], "deny": []}', "occurs twice"),
        ('{"history": ["\\ud83d"]}', "surrogate"),
        (b'{"history": ["\xff"]}', "is not UTF-8"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8"),
        ('{"history": [], "user": ["u"]}', "a string or an integer"),
        ('{"history": [], "user": true}', "a string or an integer"),
        ('{"history": [], "user": 1.5}', "a string or an integer"),
        ('{"history": {"0": "a"}}', "a list of item ids"),
        ('{"history": [null]}', "a list of item ids"),
        ('{"history": [["a"]]}', "a list of item ids"),
        ('{"history": [], "allow": "a"}', "a list of item ids"),
        ('{"history": [], "deny": 0}', "a list of item ids"),
        ('{"history": [], "denny": ["a"]}', "but 'deny'"),
        ('{"history": [], "Deny": ["a"]}', "but 'deny'"),
        ('{"histroy": ["a"]}', "but 'history'"),
        ("{" + ",".join(f'"{n}": 0' for n in range(10_000)) + "}", "has the key 'history'"),
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
    assert isinstance(second, BadRequest)
    assert isinstance(fourth, BadRequest)
    assert [each.line for each in (first, second, third, fourth)] == [1, 2, 4, 5]
    assert second.to_json() == {"line": 2, "error": str(second.error)}


def test_a_line_without_an_end_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_LIMIT", 1 << 10)
    line = b'{"history": ["a"]}\n'
    stream = io.BytesIO(line + b"[" * 5000 + b"\n" + line)
    first, second, third = read_request_stream(stream)
    assert first == third == Request(history=("a",))
    assert isinstance(second, BadRequest)
    assert [each.line for each in (first, second, third)] == [1, 2, 3]


def test_keys_of_other_purposes_pass() -> None:
    line = b'{"history": ["a"], "item": "b", "time": 3, "label": {"x": [1]}}'
    assert parse_request(line, 1) == Request(history=("a",))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "history",
            "12",
            "'history' of a request is a list of item ids, which are strings, not \"12\"",
        ),
        (
            "history",
            [1, 2],
            "'history' of a request is a list of item ids, which are strings, not [1, 2]",
        ),
        (
            "history",
            {"a"},
            "'history' of a request is a list of item ids, which are strings, not \"{'a'}\"",
        ),
        ("deny", "i1", "'deny' of a request is a list of item ids, which are strings, not \"i1\""),
        ("allow", 5, "'allow' of a request is a list of item ids, which are strings, not 5"),
        ("text", 3, "'text' of a request is a string, not 3"),
        ("user", True, "'user' of a request is a string or an integer, not true"),
        ("fields", None, "'fields' of a request is a Fields, not null"),
    ],
)
def test_a_request_in_python_is_checked_as_a_body_is(key: str, value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Request(**{key: value})
    assert str(caught.value) == message
    if key != "fields" and not isinstance(value, set):
        with pytest.raises(DataError, match=re.escape(message)):
            Request.from_json({"history": [], key: value})


def test_a_request_takes_lists_and_a_number_of_a_user() -> None:
    user: Any = 7
    history: Any = ["a", "b"]
    request = Request(user, history, deny=())
    assert request == Request("7", ("a", "b"))
    assert hash(request) == hash(Request("7", ("a", "b")))
