import json
from pathlib import Path

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Items, Query, compose_queries, read_queries
from sidtool.data.tables.json_tables import HEAD_ROWS
from tests.data.tables.files import write_table

ITEMS = Items(
    ("a", "b", "c"), ("One", "", "Three"), ("", "", ""), {"genre": ("Comedy", "", "Drama")}, "", ""
)


def test_queries_are_read(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    second = '{"item": 7, "text": "x", "user": 9, "more": 1}\n'
    path.write_text('{"item": "a", "text": " a  funny\\nfilm "}\n\n' + second)
    queries = (Query("a", "a funny film"), Query("7", "x", "9"))
    assert read_queries(path) == queries
    (tmp_path / "queries-2.jsonl").write_text('{"item": "b", "text": "y"}\n')
    assert read_queries(tmp_path / "*.jsonl") == (Query("b", "y"), *queries)


@pytest.mark.parametrize("name", ["queries.parquet", "queries.csv", "queries.tsv", "queries.json"])
def test_queries_are_read_from_tables(tmp_path: Path, name: str) -> None:
    table = {"item": ["a", "7"], "text": [" a  film ", "x"], "user": ["", "9"]}
    path = write_table(tmp_path / name, table)
    assert read_queries(path) == (Query("a", "a film"), Query("7", "x", "9"))
    broken = write_table(tmp_path / f"broken-{name}", {"item": ["a", ""], "text": ["x", "y"]})
    with pytest.raises(DataError, match="row 2: a query has an item and a text"):
        read_queries(broken)
    with pytest.raises(UsageError, match="no column 'text' for the queries"):
        read_queries(write_table(tmp_path / f"other-{name}", {"item": ["a"]}))


def test_users_of_late_rows_of_a_json_file_are_read(tmp_path: Path) -> None:
    rows = [{"item": "a", "text": "x"}] * HEAD_ROWS + [{"item": "a", "text": "x", "user": "u"}]
    (path := tmp_path / "queries.json").write_text(json.dumps(rows))
    assert read_queries(path)[-1].user == "u"  # else its event is trained on if it is held out


@pytest.mark.parametrize(
    "line",
    [
        '{"item": "a"}',
        '{"text": "a"}',
        '{"item": "a", "text": "  "}',
        "[]",
        "{",
        '{"item": true, "text": "x"}',
        '{"item": "", "text": "x"}',
        '{"item": 1.0, "text": "x"}',
        '{"item": "a", "text": "x", "user": ["u"]}',
        '{"item": "a", "text": "x", "user": ""}',
        '{"item": "a", "item": "b", "text": "x"}',
        '{"item": "a", "text": "\\ud800"}',
        '{"item": "a", "text": 1}',
    ],
)
def test_malformed_queries_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text('{"item": 1, "text": "x"}\n' + line)
    with pytest.raises(DataError, match=r"queries\.jsonl, line 2"):
        read_queries(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no queries"):
        read_queries(path)


def test_queries_are_composed_of_columns() -> None:
    made = compose_queries(ITEMS, "{genre} like {title}")
    assert made == (Query("a", "Comedy like One"), Query("c", "Drama like Three"))
    with pytest.raises(UsageError, match="'year'"):
        compose_queries(ITEMS, "{genre} of {year}")
