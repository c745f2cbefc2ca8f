import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.options import read_ids
from sidtool.model import LoadedModel
from sidtool.recommendation import (
    BadRequest,
    Outcome,
    Recommendation,
    RecommendOptions,
    Request,
    answer_each,
)
from sidtool.recommendation.requests import parse_request, read_request_stream
from sidtool.recommendation.serve import ServeOptions, make_app
from tests.bundles import small_bundle
from tests.hostile.harness import CARELESS, call, cases, count, is_printable
from tests.loaded import loaded_model
from tests.recommendation.serve.conftest import open_service

N_ITEMS = 60
KEYS = ("user", "history", "text", "allow", "deny")
Line = tuple[bytes, Request | None]
LISTS = ("history", "allow", "deny")
TARGET_KEYS = ("item", "position", "feedback", "rest")
UNKNOWN_KEYS = ("time", "ts", "label", "", "\x00", "[/b]", "\u202e", "Ünïcode", "__class__")
UNKNOWN_KEYS += ("histroy", "denny", "Deny", "allowed", "TEXT", "users", "history_ids")

STRANGE_TEXTS = ("", "i1", "i59", " i1", "i1\u2028", "nobody", "<s_a_1>", "[/b]", "\x1b[2J")
LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(st.sampled_from(STRANGE_TEXTS), st.text(LETTERS, max_size=12))
KNOWN_IDS = st.integers(0, N_ITEMS - 1).map("i{}".format)
IDS = st.lists(st.one_of(KNOWN_IDS, TEXTS), max_size=6)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
GOOD_VALUES = {
    "user": st.one_of(st.none(), st.integers(), TEXTS),
    "text": st.one_of(st.none(), TEXTS),
    **{key: st.one_of(st.none(), IDS, st.lists(st.integers())) for key in LISTS},
}
SPELLINGS = ("NaN", "-Infinity", "1e999", "9" * 5000, '"\\ud83d"', '["\\udfff"]', "01", "'i1'")
SPELLINGS += ("[" * 3000 + "]" * 3000, '{"a": 1, "a": 2}', '"\n"', "", "nul", "[1,]")
INVALID_SPELLINGS = st.sampled_from(SPELLINGS)
"""What is no value of a request, or no JSON at all."""


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Keys and values of a request that is mostly right."""
    pairs: list[tuple[str, Any]] = []
    for key in KEYS:
        if draw(st.integers(0, 3)) > (2 if key in ("allow", "deny") else 0):
            wrong = draw(st.integers(0, 39)) == 0
            pairs.append((key, draw(VALUES if wrong else GOOD_VALUES[key])))
    if draw(st.integers(0, 4)) == 0:
        pairs.append((draw(st.sampled_from(TARGET_KEYS)), draw(VALUES)))
    if draw(st.integers(0, 24)) == 0:
        pairs.append((draw(st.sampled_from((*UNKNOWN_KEYS, *KEYS))), draw(VALUES)))
    return draw(st.permutations(pairs))


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """A line, and the request that it is, or None if it is none."""
    pairs = draw(members())
    ascii_ = draw(st.booleans())
    parts = [(json.dumps(key), json.dumps(value, ensure_ascii=ascii_)) for key, value in pairs]
    expected = request_of(pairs)
    if draw(st.integers(0, 19)) == 0:
        parts.append(('"item"', draw(INVALID_SPELLINGS)))
        expected = None
    space = draw(st.sampled_from(("", " ", "\t", " \r ")))
    text = ",".join(f"{space}{key}{space}:{value}" for key, value in parts)
    line = f"{space}{{{text}{space}}}{space}".encode()
    if draw(st.integers(0, 24)) == 0:
        line = draw(st.sampled_from((b"\xff", b"\xef\xbb\xbf", b"[", b"\x00", b"x"))) + line
        expected = None
    return line, expected


def request_of(pairs: Sequence[tuple[str, Any]]) -> Request | None:
    """What the documentation of requests says of these keys and values."""
    keys = [key for key, _ in pairs]
    values = dict(pairs)
    if len(values) < len(keys) or set(keys) & set(UNKNOWN_KEYS):
        return None
    for key in LISTS:
        value = values.get(key)
        if value is not None and not (isinstance(value, list) and all_ids(value)):
            return None
    user, text = values.get("user"), values.get("text")
    if type(user) not in (type(None), str, int) or type(text) not in (type(None), str):
        return None
    if values.get("history") is None and text is None:
        return None
    return Request(
        user=None if user is None else str(user),
        history=tuple(map(str, values.get("history") or ())),
        allow=None if values.get("allow") is None else tuple(map(str, values["allow"])),
        deny=tuple(map(str, values.get("deny") or ())),
        text=text,
    )


def all_ids(values: list[Any]) -> bool:
    return all(type(value) in (str, int) for value in values)


@cases(600)
@given(line_and_request=lines(), number=st.integers(2, 1 << 40))
def test_a_line_is_its_request_or_refused(line_and_request: Line, number: int) -> None:
    line, expected = line_and_request
    request = call(parse_request, line, number, input_bytes=len(line))
    assert request == expected
    assert request is None or request.line == number


@cases(400)
@given(line_and_request=lines(), data=st.data())
def test_a_damaged_line_is_refused_or_means_what_it_says(
    line_and_request: Line, data: st.DataObject
) -> None:
    line = bytearray(line_and_request[0])
    for _ in range(data.draw(st.integers(1, 3))):
        first, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(line))] * 2)))
        line[first : min(stop, first + 4)] = data.draw(st.binary(max_size=3))
    request = call(parse_request, bytes(line), 2, input_bytes=len(line))
    if request is not None:
        # a second parser, of which the value need not be the same key by key
        value = json.loads(line.decode("utf-8"))
        assert request == request_of(list(value.items()))


@cases(100)
@given(
    stream_lines=st.lists(st.one_of(lines(), st.just((b"", None)), st.just((b" \t", None)))),
    end=st.sampled_from((b"\n", b"\r\n")),
    mark=st.sampled_from((b"", b"\xef\xbb\xbf")),
    last_ends=st.booleans(),
)
def test_a_stream_has_a_request_or_an_error_for_each_line(
    stream_lines: list[Line], end: bytes, mark: bytes, last_ends: bool
) -> None:
    # a line feed within a line makes two of it
    stream_lines = [(line, request) for line, request in stream_lines if b"\n" not in line]
    content = mark + end.join(line for line, _ in stream_lines) + (end if last_ends else b"")
    requests = call(lambda: list(read_request_stream(io.BytesIO(content))))
    assert requests is not None
    stored = enumerate(stream_lines, 1)
    expected = [(number, request) for number, (line, request) in stored if line.strip()]
    assert len(requests) == len(expected)
    for request, (number, expected_request) in zip(requests, expected, strict=True):
        assert request.line == number
        if expected_request is None:
            assert isinstance(request, BadRequest) or (number == 1 and not mark)
        else:
            assert request == expected_request


@pytest.fixture(scope="module")
def shop() -> LoadedModel:
    return loaded_model(small_bundle(N_ITEMS), "llama")


OPTIONS = st.builds(
    RecommendOptions,
    k=st.one_of(st.integers(1, 70), st.just(10**30)),
    num_beams=st.one_of(st.integers(1, 70), st.just(10**30)),
    normalize=st.sampled_from((None, "level", "trie", "vocabulary")),
    exclude_seen=st.booleans(),
    allow=st.one_of(st.none(), st.none(), IDS.map(tuple)),
    deny=st.one_of(st.just(()), IDS.map(tuple)),
    strict=st.integers(0, 9).map(lambda number: number == 0),
)


@cases(40, most=4000)
@given(
    stream_lines=st.lists(lines(), max_size=4),
    options=OPTIONS,
    candidates=st.one_of(st.none(), st.none(), st.lists(KNOWN_IDS, min_size=1, max_size=5)),
)
def test_every_request_is_answered_within_its_filters(
    shop: LoadedModel,
    stream_lines: list[Line],
    options: RecommendOptions,
    candidates: list[str] | None,
) -> None:
    requests = list(read_request_stream(io.BytesIO(b"\n".join(line for line, _ in stream_lines))))
    outcome = Outcome()
    answers = call(
        lambda: list(outcome.count(answer_each(shop, requests, options, candidates=candidates)))
    )
    if answers is None:  # the options are wrong, whatever the requests
        return
    assert len(answers) == len(requests) == outcome.requests
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, BadRequest):
            assert answer is request
        elif isinstance(answer, Recommendation):
            check_answer(request, answer, options, candidates)
        else:  # the model was not trained for texts, and strict options refuse ids
            assert request.text is not None or options.strict
            assert f"line {request.line}" in str(answer.error)


def check_answer(
    request: Request,
    answer: Recommendation,
    options: RecommendOptions,
    candidates: list[str] | None,
) -> None:
    """Exactly the items that the filters leave, as many as were asked for."""
    eligible = {f"i{number}" for number in range(N_ITEMS)}
    for allowed in (options.allow, request.allow, candidates):
        if allowed is not None:
            eligible &= set(allowed)
    eligible -= {*options.deny, *request.deny}
    if options.exclude_seen:
        eligible -= set(request.history)
    assert set(answer.items) <= eligible
    assert len(answer.items) == len(set(answer.items)) == min(options.k, len(eligible))
    assert answer.missing == options.k - len(answer.items)
    assert answer.unknown == sum(not is_item(item) for item in request.history)
    assert answer.unknown_allowed == sum(not is_item(item) for item in request.allow or ())
    assert answer.unknown_denied == sum(not is_item(item) for item in request.deny)
    assert list(answer.scores) == sorted(answer.scores, reverse=True)


def is_item(text: str) -> bool:
    return text in {f"i{number}" for number in range(N_ITEMS)}


@cases(200)
@given(content=st.one_of(st.binary(max_size=40), TEXTS.map(str.encode)), parts=IDS)
def test_a_list_of_ids_has_them_as_they_stand(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, parts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile-ids.txt"
    path.write_bytes(content + b"\n" + "\r\n".join(parts).encode())
    ids = call(read_ids, path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        assert ids is None
        return
    if ids is not None:
        lines_ = text.removeprefix("\ufeff").split("\n")
        lines_ = [line.removesuffix("\r") for line in lines_]
        assert ids == tuple(filter(None, lines_))


@pytest.fixture(scope="module")
def client(shop: LoadedModel) -> Iterator[TestClient]:
    options = ServeOptions("tiny", recommend=RecommendOptions(k=4, num_beams=8), poll_seconds=3600)
    app = make_app(options, open_service(shop, options))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


MEMBERS = ("history", "requests", "candidates", "k", "num_beams", "explain", "texts", "vectors")
OBJECTS = st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=4)
BODIES = st.one_of(
    lines().map(lambda line_and_request: line_and_request[0]),
    st.binary(max_size=60),
    *(values.map(lambda value: json.dumps(value).encode()) for values in (VALUES, OBJECTS)),
)


@cases(200, most=6000)
@given(endpoint=st.sampled_from(("recommend", "score", "encode", "decode")), body=BODIES)
def test_any_bytes_are_answered_or_refused(client: TestClient, endpoint: str, body: bytes) -> None:
    answer = client.post(f"/v1/{endpoint}", content=body)
    count(refused=answer.status_code != 200)
    value = json.loads(answer.content)
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
        assert set(value) <= {"error", "hint"}, value
        for line in value.values():
            assert line.strip()
            assert is_printable(line)
            assert "\n" not in line
            assert not any(word in line for word in CARELESS), line
