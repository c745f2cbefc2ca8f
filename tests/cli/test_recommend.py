"""The recommend command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from sidtool.base.options import read_ids
from sidtool.base.visible import visible
from sidtool.model.contract.folder import open_bundle_copy, read_contract, write_contract
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, N_USERS, Road, done, refused, run, write_lines

ITEMS = {f"b{n:03d}" for n in range(N_ITEMS)}


@pytest.mark.parametrize("k", [1, 50, 200])
def test_each_request_gets_exactly_k_different_items_in_input_order(
    road: Road, requests: list[dict[str, Any]], requests_file: Path, k: int
) -> None:
    ask = ("recommend", road.tuned, "--file", requests_file, "-k", k, "--no-exclude-seen")
    answers = done(*ask, "--json").lines
    assert [answer["user"] for answer in answers] == [request["user"] for request in requests]
    bundle = Bundle.open(road.bundle)
    for answer in answers:
        assert len(answer["items"]) == len(set(answer["items"])) == min(k, N_ITEMS)
        assert set(answer["items"]) <= ITEMS
        assert answer["scores"] == sorted(answer["scores"], reverse=True)
        assert answer["sids"] == [bundle.sid(item) for item in answer["items"]]
        assert answer["unknown"] == 0


def test_one_history_is_the_same_request_as_a_line_of_a_file(
    road: Road, requests: list[dict[str, Any]]
) -> None:
    history = requests[0]["history"]
    by_flag = done("recommend", road.tuned, "--history", ",".join(history), "--json").json
    by_stdin = done(
        "recommend",
        road.tuned,
        "--file",
        "-",
        "--json",
        text=json.dumps({"history": history}) + "\n",
    )
    assert by_flag == by_stdin.json
    assert len(by_flag["items"]) == 10
    table = done("recommend", road.tuned, "--history", ",".join(history)).out.splitlines()
    assert [line.split()[1] for line in table[1:]] == by_flag["items"]
    assert all(title in line for title, line in zip(by_flag["titles"], table[1:], strict=True))


def test_filters_are_respected(
    road: Road, requests: list[dict[str, Any]], requests_file: Path, tmp_path: Path
) -> None:
    ask = ("recommend", road.tuned, "--file", requests_file, "-k", 20, "--json")
    some, others = sorted(ITEMS)[::3], sorted(ITEMS)[::2]
    allow, deny = write_lines(tmp_path / "allow", some), write_lines(tmp_path / "deny", others)
    free = done(*ask, "--no-exclude-seen").lines
    assert any(
        set(answer["items"]) & set(r["history"]) for answer, r in zip(free, requests, strict=True)
    )
    for answer, request in zip(done(*ask).lines, requests, strict=True):
        assert len(answer["items"]) == 20
        assert not set(answer["items"]) & set(request["history"])
    for answer in done(*ask, "--allow", allow, "--no-exclude-seen").lines:
        assert set(answer["items"]) == set(some)  # twenty of them are all of them
    for answer in done(*ask, "--deny", deny).lines:
        assert len(answer["items"]) == 20
        assert not set(answer["items"]) & set(others)
    both = done(*ask, "--allow", allow, "--deny", deny, "--exclude-seen").lines
    for answer, request in zip(both, requests, strict=True):
        assert set(answer["items"]) == set(some) - set(others) - set(request["history"])


def test_candidates_are_scored_as_the_beam_scores_them(
    road: Road, requests_file: Path, tmp_path: Path
) -> None:
    wanted = sorted(ITEMS)[5:17]
    candidates = write_lines(tmp_path / "candidates", wanted)
    exact = done(
        "recommend",
        road.tuned,
        "--file",
        requests_file,
        "-k",
        12,
        "--candidates",
        candidates,
        "--json",
    ).lines
    everything = done(
        "recommend",
        road.tuned,
        "--file",
        requests_file,
        "-k",
        N_ITEMS,
        "--num-beams",
        100,
        "--no-exclude-seen",
        "--json",
    ).lines
    for one, all_ in zip(exact, everything, strict=True):
        scores = dict(zip(all_["items"], all_["scores"], strict=True))
        assert set(one["items"]) == set(wanted)
        assert one["scores"] == pytest.approx([scores[item] for item in one["items"]], abs=1e-4)
    command = ("recommend", road.tuned, "--file", requests_file, "--candidates", candidates)
    assert "allow list already" in refused(2, *command, "--allow", candidates)
    assert "at least 1" in refused(2, *command, "-k", -1)
    ran = done(
        "recommend", road.tuned, "--history", "b001,nope", "--candidates", candidates, "--json"
    )
    assert "warning: 1 id" in ran.err


def interrupted(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a command with `-o` that is interrupted when all lines are written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sidtool.recommendation.result_file.publish", interrupt)
        assert run(*arguments).code == 130


def test_an_output_file_is_continued_after_an_interruption(
    road: Road, requests_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    ask = ("recommend", road.tuned, "--file", requests_file, "-k", 5)
    ran = done(*ask, "-o", out)
    assert ran.out == ""
    whole = out.read_bytes()
    assert whole.decode() == done(*ask, "--json").out
    assert not partial.exists()
    assert "--force" in refused(2, *ask, "-o", out)
    for cut in (0, 1, len(whole) // 2, len(whole) - 1, len(whole)):  # within a line, or at its end
        out.unlink()
        interrupted(monkeypatch, *ask, "-o", out)
        (partial / "results.jsonl").write_bytes(whole[:cut])
        done(*ask, "-o", out, "--resume")
        assert out.read_bytes() == whole
        assert not partial.exists()
    partial.write_bytes(b"left by another run\n")
    done(*ask, "-o", out, "--force")
    assert out.read_bytes() == whole
    assert "--resume needs -o" in refused(2, *ask, "--resume")


def test_resuming_keeps_finished_lines(
    road: Road, requests_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    command = ("recommend", road.tuned, "--file", requests_file, "-k", 5, "-o", out)
    interrupted(monkeypatch, *command)
    (tmp_path / "out.jsonl.partial" / "results.jsonl").write_text('{"user": "kept"}\n')
    done(*command, "--resume")
    lines = out.read_text().splitlines()
    assert (lines[0], len(lines)) == ('{"user": "kept"}', N_USERS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("-k", 6), "with different options.k: 5, not 6"),
        (("--normalize", "vocabulary"), "options.normalize: None, not 'vocabulary'"),
        (("--deny", "denied.txt"), "options.deny: "),
        (("--candidates", "denied.txt"), "options.candidates: None, not "),
        (("--dtype", "bfloat16"), "dtype: 'torch.float32', not 'torch.bfloat16'"),
    ],
)
def test_an_output_is_not_continued_with_other_settings(
    road: Road,
    requests_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("denied.txt").write_text("b001\nb002\n")
    command = ("recommend", road.tuned, "--file", requests_file, "-k", 5, "-o", "out.jsonl")
    interrupted(monkeypatch, *command)
    assert message in refused(2, *command, "--resume", *changed)
    assert "{" not in refused(2, *command, "--resume", *changed)
    done(*command, "--resume")


def test_an_output_is_not_continued_with_another_model_or_other_requests(
    road: Road, requests_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    command = ("recommend", road.tuned, "--file", requests_file, "-k", 5, "-o", out)
    interrupted(monkeypatch, *command)
    retrained = tmp_path / "retrained"
    shutil.copytree(road.tuned, retrained)
    weights = load_file(retrained / "model.safetensors")
    name = min(weights)
    weights[name] = weights[name] + 1
    contract = read_contract(retrained)
    save_file(weights, retrained / "model.safetensors", metadata={"format": "pt"})
    write_contract(retrained, contract, open_bundle_copy(retrained, contract))
    other_model = ("recommend", retrained, *command[2:], "--resume")
    assert "with different model: " in refused(2, *other_model)
    lines = requests_file.read_text().splitlines()
    for wrong, message in (
        ([lines[1], lines[0], *lines[2:]], "request 1 is not the one"),
        (lines[:3], "answered 40 requests, not 3"),
    ):
        other = write_lines(tmp_path / "other.jsonl", wrong)
        refusal = refused(2, *command[:3], other, *command[4:], "--resume")
        assert message in refusal
    longer = write_lines(tmp_path / "longer.jsonl", [*lines, lines[0]])
    done(*command[:3], longer, *command[4:], "--resume")
    assert len(out.read_text().splitlines()) == len(lines) + 1


def test_unknown_ids_of_a_history_are_counted(road: Road) -> None:
    ran = done("recommend", road.tuned, "--history", "b001,nope,gone", "--json")
    assert ran.json["unknown"] == 2
    assert "warning: 2 ids" in ran.err


def test_a_history_without_any_item_of_the_bundle_is_refused(road: Road) -> None:
    bundle = Bundle.open(road.bundle)
    title = bundle.items.title(7)
    error = refused(1, "recommend", road.tuned, "--history", title)
    assert f"no item of the history, which begins with {title!r}" in error
    example = f"{bundle.items.ids[7]}, the id of {title!r}"
    assert error.splitlines()[-1] == f"hint: --history takes item ids, like {example}"
    assert "like b0" in refused(1, "recommend", road.tuned, "--history", "The Hunger Games")
    assert len(done("recommend", road.tuned, "--history", "", "--json").json["items"]) == 10


def test_fields_that_no_prompt_shows_are_refused(road: Road) -> None:
    ask = ("recommend", road.tuned, "--history", "b001", "--fields")
    error = refused(2, *ask, '{"user": {"age": 24}, "time": 880000000}')
    assert "does not show time, user.age of --fields" in error
    assert "hint: it shows no fields" in error


@pytest.mark.parametrize("line", ["{", "{}", '{"history": ["\\ud83d"]}'])
def test_a_malformed_request_is_exit_1(road: Road, line: str) -> None:
    ran = run(
        "recommend",
        road.tuned,
        "--file",
        "-",
        "--json",
        text='{"history": ["b001"]}\n' + line + "\n",
    )
    assert ran.code == 1
    assert ran.err.startswith("error: ")


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
    assert run(*ask, requests, "-o", out).code == 1
    assert out.read_text() == ran.out


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


@pytest.mark.parametrize(
    ("id_", "separator"), [("b007 ", "\n"), (" b007", "\r\n"), ("b007\u2028", "\r\n")]
)
def test_ids_of_a_list_are_taken_as_they_stand(
    road: Road, tmp_path: Path, id_: str, separator: str
) -> None:
    deny = tmp_path / "deny"
    deny.write_bytes(separator.join(["b001", "", id_, "b002"]).encode())
    assert read_ids(deny) == ("b001", id_, "b002")
    ask = ("recommend", road.tuned, "--history", "b003", "-k", 5, "--json", "--deny", deny)
    ran = done(*ask)
    assert ran.err.endswith(
        f"warning: the deny list has 1 of 3 ids that the bundle lacks: {visible(repr(id_))}\n"
    )
    assert "1 of 3 ids" in refused(1, *ask, "--strict")


def test_a_list_of_ids_that_is_not_utf8_is_named_by_its_line(road: Road, tmp_path: Path) -> None:
    deny = tmp_path / "deny"
    deny.write_bytes(b"b001\nb002\n\xff\n")
    message = refused(1, "recommend", road.tuned, "--history", "b003", "--deny", deny)
    assert message == f"error: {deny}, line 3: not UTF-8"


def test_a_request_that_is_not_utf8_is_named_by_its_line(road: Road, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(b'{"history": ["b001"]}\n\n{"history": ["\xff"]}\n')
    ran = run("recommend", road.tuned, "--file", requests, "--json")
    assert (ran.code, ran.err) == (1, "error: line 3 of the requests is not UTF-8\n")


def test_a_list_of_ids_may_begin_with_a_byte_order_mark(road: Road, tmp_path: Path) -> None:
    deny = tmp_path / "deny"
    history = ("--history", "b001", "--no-exclude-seen")
    ask = ("recommend", road.tuned, *history, "-k", N_ITEMS, "--json")
    deny.write_text("b007\nb008\n", encoding="utf-8-sig")
    assert set(done(*ask, "--deny", deny).json["items"]) == ITEMS - {"b007", "b008"}


def test_only_a_compatible_bundle_is_accepted(road: Road) -> None:
    ask = ("recommend", road.tuned, "--history", "b001,b002", "--json")
    own = done(*ask)
    for bundle in (road.bundle, road.zipped):
        assert done(*ask, "--bundle", bundle) == own
    message = refused(3, *ask, "--bundle", road.other)
    ours, theirs = (Bundle.open(path).identity.codebook[:12] for path in (road.other, road.bundle))
    assert ours in message
    assert theirs in message
    assert "hint: train a model for this bundle" in message
    refused(3, "evaluate", road.tuned, road.split, "--bundle", road.other)
    assert "sidtool extend-model" in refused(3, "recommend", road.base, "--history", "b001")


@pytest.mark.slow
def test_a_coprocess_is_answered_line_by_line(
    road: Road, requests: list[dict[str, Any]], requests_file: Path
) -> None:
    expected = done("recommend", road.tuned, "--file", requests_file, "--json").lines
    command = [sys.executable, "-m", "sidtool", "recommend", str(road.tuned), "--file", "-"]
    with subprocess.Popen(
        [*command, "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as coprocess:
        assert coprocess.stdin is not None
        assert coprocess.stdout is not None
        for request, answer in zip(requests[:3], expected, strict=False):
            coprocess.stdin.write(json.dumps(request) + "\n")
            coprocess.stdin.flush()
            # the next request is written when this one was answered
            line = json.loads(coprocess.stdout.readline())
            assert (line["user"], line["items"]) == (answer["user"], answer["items"])
        coprocess.stdin.close()
        assert coprocess.stdout.read() == ""
    assert coprocess.returncode == 0
