"""Requests as JSON Lines, and output files that survive an interruption."""

import pytest

from sidtool.errors import DataError
from sidtool.recommendation.requests import Request, read_requests


def test_requests_of_json_lines() -> None:
    lines = [
        '{"user": 7, "history": ["a", "b"], "item": "c"}\n',
        "\n",
        '{"history": [], "allow": [], "deny": ["x"]}',
    ]
    first, second = read_requests(lines)
    assert first == Request("7", ("a", "b"))
    assert second == Request(None, (), (), ("x",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"text": 3}', "is a string, not 3"),
        ('{"user": "u"}', "has the key 'history' or 'text'"),
        ('{"history": "a,b"}', "a list of item ids"),
        ('{"history": [1]}', "a list of item ids"),
    ],
)
def test_a_malformed_request_is_named_by_its_line(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_requests(["\n", line]))
    assert "line 2 of the requests" in str(caught.value)
