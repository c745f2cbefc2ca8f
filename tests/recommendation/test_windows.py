import io
import os
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.recommendation.requests import BadRequest, Request, read_request_stream
from sidtool.recommendation.windows import LiveRequests, arriving_requests

LINE = b'{"history": ["i%d"]}\n'


def items(window: list[Request | BadRequest]) -> list[str]:
    return [request.history[0] if isinstance(request, Request) else "bad" for request in window]


@given(
    content=st.lists(
        st.sampled_from((LINE % 1, LINE % 22, b"\n", b" \r\n", b"{\n", b"\xff\n", b"[]", b"{}\n"))
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    size=st.integers(1, 4),
)
def test_a_pipe_has_the_requests_of_a_file(content: bytes, cuts: list[int], size: int) -> None:
    reading, writing = os.pipe()
    places = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})

    def write() -> None:
        for start, stop in pairwise(places):
            os.write(writing, content[start:stop])
            time.sleep(0.0005)
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as stream:
        windows = list(LiveRequests(stream).windows(size))
    writer.join()
    assert all(0 < len(window) <= size for window in windows)
    requests = [request for window in windows for request in window]
    expected = list(read_request_stream(io.BytesIO(content)))
    assert list(map(repr, requests)) == list(map(repr, expected))
    assert [request.line for request in requests] == [request.line for request in expected]


def test_a_window_ends_where_the_input_pauses() -> None:
    reading, writing = os.pipe()
    # the writing end is closed first, so that nobody waits for it after a failure
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as pipe:
        windows = LiveRequests(stream).windows(3)
        pipe.write(LINE % 1)
        assert items(next(windows)) == ["i1"]
        # neither a blank line nor a part of one is a request to wait for
        pipe.write(LINE % 2 + b"\n \n")
        assert items(next(windows)) == ["i2"]
        pipe.write(LINE % 3 + b'{"hist')
        assert items(next(windows)) == ["i3"]
        pipe.write(b'ory": ["i4"]}\n' + b"".join(LINE % number for number in range(5, 9)))
        assert items(next(windows)) == ["i4", "i5", "i6"]
        assert items(next(windows)) == ["i7", "i8"]
        pipe.write(b"[")
        pipe.close()
        assert items(next(windows)) == ["bad"]
        assert next(windows, None) is None


def test_an_error_of_the_input_ends_the_windows() -> None:
    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            raise OSError("the input is gone")

    with pytest.raises(OSError, match="the input is gone"):
        list(LiveRequests(Broken()).windows(3))


def test_what_cannot_pause_is_read_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(LINE % 1)
    with path.open("rb") as stream:
        requests = arriving_requests(stream)
        assert not isinstance(requests, LiveRequests)
        assert items(list(requests)) == ["i1"]
    assert not isinstance(arriving_requests(io.BytesIO(LINE)), LiveRequests)
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert isinstance(arriving_requests(stream), LiveRequests)
