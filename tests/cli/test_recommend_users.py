"""Recommendations for users of a file of events, or of a split."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sidtool.data.split.histories import user_histories
from tests.cli.road import Road, done, refused, run, write_lines


def by_requests(road: Road, folder: Path, users: list[str], *more: object) -> list[Any]:
    """The answers to requests with the histories of users, as a script would write them."""
    histories = user_histories(road.events)
    requests = [{"user": user, "history": histories[user][0]} for user in users]
    path = write_lines(folder / "requests.jsonl", requests)
    return done("recommend", road.tuned, "--file", path, "-k", 3, *more, "--json").lines


def test_users_are_answered_as_their_histories_are(road: Road, tmp_path: Path) -> None:
    expected = by_requests(road, tmp_path, ["u3", "u1"], "--exclude-seen")
    common = ("recommend", road.tuned, "-k", 3, "--exclude-seen", "--json")
    chosen = ("--user", "u3", "--user", "u1")
    for events in (road.events, road.split):
        assert done(*common, "--events", events, *chosen).lines == expected
    users = write_lines(tmp_path / "users.txt", ["u3", "u1"])
    assert done(*common, "--events", road.events, "--users", users).lines == expected
    histories = user_histories(road.events)
    for answer in expected:
        assert not set(answer["items"]) & set(histories[answer["user"]][0])


def test_all_users_are_answered_into_parquet(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    command = ("recommend", road.tuned, "--events", road.split, "--all-users", "-k", 2)
    done(*command, "-o", out)
    rows = pq.read_table(out).to_pylist()
    assert [row["user"] for row in rows] == list(user_histories(road.split))
    lines = tmp_path / "out.jsonl"
    done(*command, "-o", lines)
    for row, line in zip(rows, lines.read_text(encoding="utf-8").splitlines(), strict=True):
        assert {name: row[name] for name in json.loads(line)} == json.loads(line)


def test_an_unknown_user_is_an_error_in_its_place(road: Road, tmp_path: Path) -> None:
    events = ("recommend", road.tuned, "--events", road.events, "-k", 2)
    assert "user 'nobody' has no events" in refused(1, *events, "--user", "nobody")
    users = write_lines(tmp_path / "users.txt", ["u1", "nobody", "u2"])
    ran = run(*events, "--users", users, "--json")
    assert ran.code == 1
    assert [answer["user"] for answer in ran.lines] == ["u1", "nobody", "u2"]
    assert "error" in ran.lines[1]
