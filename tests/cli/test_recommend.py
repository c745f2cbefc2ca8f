import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sidtool.cli import recommend
from sidtool.data.split.files import user_histories
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, N_USERS, Road, done, interrupt, refused, run, write_lines

ITEMS = {f"b{n:03d}" for n in range(N_ITEMS)}


def test_one_history_is_the_same_request_as_a_line_of_a_file(
    road: Road, requests: list[dict[str, Any]]
) -> None:
    ask = ("recommend", road.tuned)
    history = ",".join(requests[0]["history"])
    by_flag = done(*ask, "--history", history, "--json").json
    line = json.dumps({"history": requests[0]["history"]}) + "\n"
    assert by_flag == done(*ask, "--file", "-", "--json", text=line).json
    assert len(by_flag["items"]) == 10
    table = done(*ask, "--history", history).out.splitlines()
    assert [line.split()[1] for line in table[1:]] == by_flag["items"]
    assert all(title in line for title, line in zip(by_flag["titles"], table[1:], strict=True))


def interrupted(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a command with `-o` that is interrupted when all lines are written."""
    with monkeypatch.context() as patched:
        patched.setattr("sidtool.recommendation.result_file.publish", interrupt)
        assert run(*arguments).code == 130


def test_an_output_file_is_continued_after_an_interruption(
    road: Road, requests_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    ask = ("recommend", road.tuned, "--file", requests_file, "-k", 5)
    written = done(*ask, "-o", out)
    whole = out.read_bytes()
    assert written.out == ""
    assert f"{out}: answers to {len(whole.splitlines())} requests\n" in written.err
    assert whole.decode() == done(*ask, "--json").out
    assert "--force" in refused(2, *ask, "-o", out)
    out.unlink()
    interrupted(monkeypatch, *ask, "-o", out)
    (partial / "results.jsonl").write_bytes(whole[: len(whole) // 2])
    done(*ask, "-o", out, "--resume")
    assert (out.read_bytes(), partial.exists()) == (whole, False)
    partial.write_bytes(b"left by another run\n")
    done(*ask, "-o", out, "--force")
    assert out.read_bytes() == whole


def test_an_output_is_not_continued_with_other_settings(
    road: Road, requests_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = write_lines(tmp_path / "denied.txt", ["b001"])
    command = ("recommend", road.tuned, "--file", requests_file, "-o", tmp_path / "out.jsonl")
    interrupted(monkeypatch, *command)
    message = refused(2, *command, "--resume", "-k", 6, "--deny", denied)
    assert "has an unfinished run with different " in message
    assert "options.k: 10, not 6" in message
    done(*command, "--resume")


def test_unknown_ids_of_a_history_are_counted(road: Road) -> None:
    ran = done("recommend", road.tuned, "--history", "b001,nope,gone", "--json")
    assert ran.json["unknown"] == 2
    assert "warning: 2 ids" in ran.err


def test_a_history_without_any_item_of_the_bundle_is_refused(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(road.bundle)
    title = bundle.items.title(7)
    error = refused(1, "recommend", road.tuned, "--history", title)
    assert f"no item of the history, which begins with {title!r}" in error
    example = f"{bundle.items.ids[7]}, the id of {title!r}"
    assert error.splitlines()[-1] == f"hint: --history takes item ids, like {example}"
    assert "like b0" in refused(1, "recommend", road.tuned, "--history", "The Hunger Games")
    assert len(done("recommend", road.tuned, "--history", "", "--json").json["items"]) == 10
    lines = ["user_id,item_id,timestamp", "u,B1,1", "v,B2,1", "w,B3,1"]
    events = write_lines(tmp_path / "events.csv", lines)
    words = ("recommend", road.tuned, "--events", events)
    assert "no item of 3 histories; the first begins with 'B1'" in refused(1, *words, "--all-users")
    assert "hint: --events takes item ids, like b0" in refused(1, *words, "--user", "v")
    monkeypatch.setattr(recommend, "BLOCK", 2)
    assert "no item of 3 histories" in refused(1, *words, "--all-users")
    write_lines(events, [*lines, "x,b001,1"])
    assert "answers to 4 requests" in done(*words, "--all-users", "-o", tmp_path / "o.jsonl").err


MIXED = ('\ufeff{"user": "[/b]", "history": ["b001"]}', "{", '{"history": ["b002"]}', "[]")


def test_bad_lines_are_reported_in_their_place(road: Road, tmp_path: Path) -> None:
    requests = write_lines(tmp_path / "requests.jsonl", MIXED)
    ask = ("recommend", road.tuned, "-k", 3, "--file")
    ran = run(*ask, requests, "--json")
    assert ran.code == 1
    assert ran.err.startswith("error: 2 of 4 requests cannot be answered; the first: line 2 ")
    assert ran.err.count("\n") == 1
    first, second, third, fourth = ran.lines
    assert first["user"] == "[/b]"
    assert [second["line"], fourth["line"]] == [2, 4]
    assert "line 4 of the requests is not a JSON object" in fourth["error"]
    for answer, item in ((first, "b001"), (third, "b002")):
        expected = done("recommend", road.tuned, "-k", 3, "--history", item, "--json").json
        assert answer["items"] == expected["items"]
    assert run(*ask, "-", "--json", text=requests.read_text()).out == ran.out
    table = run(*ask, requests)
    assert table.out.splitlines()[0] == "[/b]"
    assert "line 2 of the requests is not JSON" in table.out
    out = tmp_path / "out.jsonl"
    written = run(*ask, requests, "-o", out)
    assert (written.code, out.read_text()) == (1, ran.out)
    assert f"{out}: answers to 2 requests\n" in written.err


def test_strict_stops_at_the_first_bad_line(road: Road, tmp_path: Path) -> None:
    requests = write_lines(tmp_path / "requests.jsonl", MIXED)
    ask = ("recommend", road.tuned, "-k", 3, "--file", requests, "--strict")
    ran = run(*ask, "--json")
    assert (ran.code, len(ran.lines)) == (1, 1)
    assert ran.err.startswith("error: line 2 of the requests is not JSON")
    assert run(*ask, "-o", tmp_path / "out.jsonl").code == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_fewer_items_than_k_are_a_warning(road: Road, requests_file: Path) -> None:
    ask = ("recommend", road.tuned, "--file", requests_file, "-k", 70, "--no-exclude-seen")
    ran = done(*ask, "--json")
    assert ran.err.startswith(f"warning: {N_USERS} of {N_USERS} requests have fewer than 70 items")
    assert {answer["missing"] for answer in ran.lines} == {70 - N_ITEMS}


def test_a_list_of_ids_that_is_not_utf8_is_named_by_its_line(road: Road, tmp_path: Path) -> None:
    deny = tmp_path / "deny"
    deny.write_bytes(b"b001\nb002\n\xff\n")
    message = refused(1, "recommend", road.tuned, "--history", "b003", "--deny", deny)
    assert message == f"error: {deny}, line 3: not UTF-8"


def test_only_a_compatible_bundle_is_accepted(road: Road) -> None:
    ask = ("recommend", road.tuned, "--history", "b001,b002", "--json")
    expected = done(*ask)
    for bundle in (road.bundle, road.zipped):
        assert done(*ask, "--bundle", bundle) == expected
    message = refused(3, *ask, "--bundle", road.other)
    ours, theirs = (Bundle.open(path).identity.codebook[:12] for path in (road.other, road.bundle))
    assert ours in message
    assert theirs in message
    assert "hint: sidtool refresh brings the model to this bundle" in message
    refused(3, "evaluate", road.tuned, road.split, "--bundle", road.other)
    assert "sidtool extend-model" in refused(3, "recommend", road.base, "--history", "b001")


def test_users_are_answered_as_their_histories_are(road: Road, tmp_path: Path) -> None:
    common = ("recommend", road.tuned, "-k", 3, "--exclude-seen", "--json")
    histories = user_histories(road.events)
    requests = [{"user": user, "history": histories[user][0]} for user in ("u3", "u1")]
    expected = done(*common, "--file", write_lines(tmp_path / "requests.jsonl", requests)).lines
    for events in (road.events, road.split):
        assert done(*common, "--events", events, "--user", "u3", "--user", "u1").lines == expected
    users = write_lines(tmp_path / "users.txt", ["u3", "u1"])
    assert done(*common, "--events", road.events, "--users", users).lines == expected
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
