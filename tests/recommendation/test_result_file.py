import os
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.recommendation.requests import Request
from sidtool.recommendation.result_file import DIGEST_BYTES, result_file

REQUESTS = [Request(str(number), (f"i{number}",)) for number in range(4)]
WHOLE = "".join(f'{{"n": "{request.user}"}}\n' for request in REQUESTS).encode()


class _Killed(Exception):
    pass


def write(out: Path, requests: list[Request], *, stop: bool = False, **file_options: Any) -> None:
    """Answer each request with its user; `stop` fails when all lines are written."""
    with result_file(out, {"k": 1}, **({"resume": True, "force": False} | file_options)) as file:
        for request in file.remaining(requests):
            file.write({"n": request.user})
        if stop:
            raise _Killed


def interrupted(out: Path) -> Path:
    """The work folder of a run that stopped when all lines were written."""
    with pytest.raises(_Killed):
        write(out, REQUESTS, stop=True)
    return out.with_name("out.jsonl.partial")


@pytest.mark.parametrize("n_bytes", [0, 3, len(WHOLE) // 2, len(WHOLE) - 1, len(WHOLE)])
@pytest.mark.parametrize("digest_bytes", [0, 5, 2 * DIGEST_BYTES, 4 * DIGEST_BYTES])
def test_cut_off_lines_and_digests_resume(tmp_path: Path, n_bytes: int, digest_bytes: int) -> None:
    out = tmp_path / "out.jsonl"
    work = interrupted(out)
    (work / "results.jsonl").write_bytes(WHOLE[:n_bytes])
    digests = work / "requests.sha256"
    digests.write_bytes(digests.read_bytes()[:digest_bytes])
    write(out, REQUESTS)
    assert out.read_bytes() == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (REQUESTS[::-1], "request 1 is not the one"),
        ([*REQUESTS[:3], REQUESTS[0]], "request 4 is not the one"),
        (REQUESTS[:3], "answered 4 requests, not 3"),
        ([], "answered 4 requests, not 0"),
        ([Request("0", ("i0",), deny=("i1",)), *REQUESTS[1:]], "request 1 is not the one"),
        ([Request("0", text="i0"), *REQUESTS[1:]], "request 1 is not the one"),
    ],
)
def test_other_requests_are_refused(tmp_path: Path, requests: list[Request], message: str) -> None:
    out = tmp_path / "out.jsonl"
    interrupted(out)
    with pytest.raises(UsageError, match=message):
        write(out, requests)
    write(out, REQUESTS)
    assert out.read_bytes() == WHOLE


def test_more_requests_of_the_same_stream_are_answered(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    interrupted(out)
    write(out, [*REQUESTS, Request("4")])
    assert out.read_bytes() == WHOLE + b'{"n": "4"}\n'


def test_a_run_that_failed_before_its_first_line_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(_Killed):
        write(tmp_path / "out.jsonl", [], stop=True)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_continued_after_its_last_answer(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    child = os.fork()
    if not child:
        try:
            with result_file(out, {"k": 1}, resume=True, force=False) as file:
                for request in file.remaining(REQUESTS[:3]):
                    file.write({"n": request.user})
                os._exit(0)  # as if it was killed: no buffer is written
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with result_file(out, {"k": 1}, resume=True, force=False) as file:
        assert len(file.answered) == 3
        for request in file.remaining(REQUESTS):
            file.write({"n": request.user})
    assert out.read_bytes() == WHOLE


def test_without_resume_the_run_starts_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    interrupted(out)
    write(out, REQUESTS[:2], resume=False)
    assert out.read_bytes() == WHOLE[: len(WHOLE) // 2]


def test_a_published_file_is_not_written_again(tmp_path: Path) -> None:
    """No handle on the output is open when it appears: what a caller writes later is lost."""
    out = tmp_path / "out.jsonl"
    with result_file(out, {}, resume=False, force=False) as file:
        for request in file.remaining(REQUESTS):
            file.write({"n": request.user})
    with pytest.raises(ValueError, match="closed file"):
        file.results.write(b"late")
    assert out.read_bytes() == WHOLE


def test_two_runs_do_not_share_unfinished_work(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with result_file(out, {"k": 1}, resume=False, force=False) as file:
        for resume in (False, True):
            with pytest.raises(UsageError, match="is being written by process"):
                write(out, REQUESTS, resume=resume)
        for request in file.remaining(REQUESTS):
            file.write({"n": request.user})
    assert out.read_bytes() == WHOLE


def test_what_an_interrupted_run_answered_is_counted(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lines = [{"user": "0", "error": "no text"}, {"items": [], "missing": 2}, {"missing": 0}]

    def answer_some() -> None:
        with result_file(out, {}, resume=True, force=False) as file:
            for _, line in zip(file.remaining(REQUESTS), lines, strict=False):
                file.write(line)
            raise _Killed

    with pytest.raises(_Killed):
        answer_some()
    with result_file(out, {}, resume=True, force=False) as file:
        outcome = file.outcome
        assert (outcome.requests, outcome.bad, outcome.short) == (3, 1, 1)
        with pytest.raises(DataError, match="no text"):
            outcome.raise_bad()
