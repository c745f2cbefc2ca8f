"""The hostile requests of `test_requests`, as bodies of calls to a service."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from sidtool.model import LoadedModel
from sidtool.recommendation import Recommendation, RecommendOptions, Request
from sidtool.recommendation.serve import ServeOptions, make_app
from tests.bundles import small_bundle
from tests.hostile.harness import CARELESS, cases, count, is_printable
from tests.hostile.test_requests import N_ITEMS, VALUES, check_answer, lines
from tests.loaded import loaded_model
from tests.recommendation.serve.conftest import open_service

OPTIONS = RecommendOptions(k=4, num_beams=8)
ENDPOINTS = ("recommend", "score", "encode", "decode")


@pytest.fixture(scope="module")
def shop() -> LoadedModel:
    return loaded_model(small_bundle(N_ITEMS), "llama")


@pytest.fixture(scope="module")
def client(shop: LoadedModel) -> Iterator[TestClient]:
    options = ServeOptions("tiny", recommend=OPTIONS, poll_seconds=3600)
    app = make_app(options, open_service(shop, options))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def refusal(answer: Any) -> str:
    """The line of a refusal; fails unless it is one, with a status of the client's fault."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    value = answer.json()
    assert set(value) <= {"error", "hint"}, value
    for line in value.values():
        assert line.strip()
        assert is_printable(line)
        assert "\n" not in line
        assert not any(word in line for word in CARELESS), line
    count(refused=True)
    return str(value["error"])


@cases(150, most=4000)
@given(line_and_request=lines())
def test_a_body_is_answered_as_its_line_or_refused(
    client: TestClient, line_and_request: tuple[bytes, Request | None]
) -> None:
    line, request = line_and_request
    answer = client.post("/v1/recommend", content=line)
    if answer.status_code != 200:
        refusal(answer)
        # this model has no prompt for texts, and a body may begin with a byte order mark
        assert request is None or request.text is not None
        return
    count(refused=False)
    value = json.loads(answer.content)
    if request is None:
        assert line.startswith(b"\xef\xbb\xbf")
        return
    assert value["user"] == request.user
    check_answer(request, Recommendation(**value), OPTIONS, None)


BODIES = st.one_of(
    st.binary(max_size=60),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(
            ("history", "requests", "candidates", "k", "num_beams", "explain", "texts", "vectors")
        ),
        VALUES,
        max_size=4,
    ).map(lambda value: json.dumps(value).encode()),
)


@cases(200, most=6000)
@given(endpoint=st.sampled_from(ENDPOINTS), body=BODIES)
def test_any_bytes_are_answered_or_refused(client: TestClient, endpoint: str, body: bytes) -> None:
    answer = client.post(f"/v1/{endpoint}", content=body)
    if answer.status_code == 200:
        count(refused=False)
        json.loads(answer.content)
    else:
        refusal(answer)
