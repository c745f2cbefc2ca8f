import asyncio
import json
import logging
import tracemalloc
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request as HttpRequest

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split.record import SplitReference
from sidtool.model.contract.contract import MemoryBinding
from sidtool.model.load import LoadedModel
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import answer_each, recommend
from sidtool.recommendation.requests import BadRequest, Recommendation, Request
from sidtool.recommendation.serve.app import read_body
from sidtool.recommendation.serve.batcher import Busy
from sidtool.recommendation.serve.bodies import read_vectors
from sidtool.recommendation.serve.log import log_to_stderr, log_warning
from sidtool.recommendation.serve.serve_options import ServeLimits
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.make.encode import decode, encode
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.memory.rerankers import reranked_model
from tests.recommendation.serve.conftest import N_ITEMS, OPTIONS, MakeClient
from tests.recommendation.test_recommend_lists import list_shop
from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sidtool.base.errors.SidtoolWarning")

REQUESTS: list[dict[str, Any]] = [
    {"user": "ann", "history": ["i1", "i2"]},
    {"user": 7, "history": ["i3"], "deny": ["i4", "i5"], "item": "i6", "position": 1},
    {"history": ["i6", "nobody"], "allow": [f"i{n}" for n in range(0, 60, 3)]},
    {"history": []},
    {"user": "\u202e[/b]", "history": ["i9"] * 12, "deny": ["no such item"]},
]


def check_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal but for the last bits of the scores, which depend on what shares a batch."""
    assert got.keys() == expected.keys()
    assert got["scores"] == pytest.approx(expected["scores"], abs=1e-4)
    assert {**got, "scores": None} == {**expected, "scores": None}


def as_json(answer: Recommendation | BadRequest) -> dict[str, Any]:
    return json.loads(json.dumps(answer.to_json()))


def test_many_requests_are_answered_in_order(client: TestClient, shop: LoadedModel) -> None:
    bodies = [*REQUESTS, {"text": "a lamp"}, {"histroy": []}, [], *reversed(REQUESTS)]
    answer = client.post("/v1/recommend", json={"requests": bodies})
    assert answer.status_code == 200
    answers = answer.json()["answers"]
    good = [Request.from_json(body) for body in REQUESTS]
    expected = [*answer_each(shop, [*good, *reversed(good)], OPTIONS.recommend)]
    n_good = len(good)
    for got, one in zip([*answers[:n_good], *answers[-n_good:]], expected, strict=True):
        check_equal(got, as_json(one))
    text, misspelled, foreign = answers[n_good:-n_good]
    assert [failure["line"] for failure in (text, misspelled, foreign)] == [6, 7, 8]
    assert text["error"].startswith("line 6 of the requests: the model was not trained")
    assert "the key 'histroy'" in misspelled["error"]
    assert "not a JSON object" in foreign["error"]
    assert client.post("/v1/recommend", json={"requests": []}).json() == {"answers": []}


def test_candidates_are_scored_exactly(client: TestClient, shop: LoadedModel) -> None:
    candidates = ["i9", "i2", "i30", "i2"]
    request = Request(history=("i1",), deny=("i30",))
    options = replace(OPTIONS.recommend, k=4)
    (expected,) = recommend(shop, [request], options, candidates=candidates)
    body = {"history": ["i1"], "deny": ["i30"], "candidates": candidates}
    check_equal(client.post("/v1/score", json=body).json(), as_json(expected))
    best = client.post("/v1/score", json={**body, "k": 1}).json()
    assert best["items"] == list(expected.items[:1])


def test_the_filters_of_the_service_hold_for_all_requests(make_client: MakeClient) -> None:
    filters = RecommendOptions(k=60, allow=tuple(f"i{n}" for n in range(9)), deny=("i4",))
    client = make_client(recommend=filters)
    answer = client.post("/v1/recommend", json={"history": ["i1"], "deny": ["i5"]}).json()
    assert set(answer["items"]) == {f"i{n}" for n in range(9)} - {"i4", "i5"}
    scored = {"history": ["i1"], "candidates": ["i3", "i4", "i20"]}
    assert client.post("/v1/score", json=scored).json()["items"] == ["i3"]


def test_vectors_are_encoded_and_sids_decoded(client: TestClient, shop: LoadedModel) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    answer = client.post("/v1/encode", json={"vectors": vectors.tolist()})
    expected = [asdict(encoding) for encoding in encode(shop.bundle, vectors=vectors)]
    assert answer.json()["encodings"] == json.loads(json.dumps(expected))
    texts = [f"first {shop.bundle.sid('i3')} then <s_a_1>", ""]
    answer = client.post("/v1/decode", json={"texts": texts})
    expected = [[asdict(sid) for sid in decode(shop.bundle, text)] for text in texts]
    assert answer.json()["decoded"] == json.loads(json.dumps(expected))
    refused = client.post("/v1/encode", json={"vectors": [[1.0, 2.0]]})
    assert refused.status_code == 422
    assert "expected (n, 8)" in refused.json()["error"]
    response = client.post("/v1/encode", json={"texts": ["a lamp"]})
    assert response.status_code == 422  # the bundle names no encoder


def test_vectors_of_texts_take_no_more_memory_than_the_body() -> None:
    """An array of texts has room for the longest one at each place."""
    body = json.dumps({"vectors": [["x" * 5_000] + [""] * 5_000]}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="list of lists of numbers"):
            read_vectors(body)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_vectors_may_have_large_whole_numbers() -> None:
    vectors = read_vectors(b'{"vectors": [[100000000000000000000, 1]]}')
    np.testing.assert_array_equal(vectors, np.array([[1e20, 1]], dtype=np.float32))


WRONG_BODIES: list[tuple[str, bytes, int, str]] = [
    ("recommend", b"", 422, "not JSON"),
    ("recommend", b"{", 422, "not JSON"),
    ("recommend", b"[\n]", 422, "not a JSON object"),
    ("recommend", b"\xff", 422, "not UTF-8"),
    ("recommend", b'{"history": [NaN]}', 422, "not JSON"),
    ("recommend", b"{}", 422, "'history' or 'text'"),
    ("recommend", b'{"history": "i1"}', 422, "list of item ids"),
    ("recommend", b'{"history": [], "k": "9"}', 422, "'k' is a whole number"),
    ("recommend", b'{"history": [], "k": true}', 422, "'k' is a whole number"),
    ("recommend", b'{"history": [], "k": 0}', 400, "at least 1"),
    ("recommend", b'{"history": [], "num_beams": -3}', 400, "at least 1"),
    ("recommend", b'{"history": [], "k": 257}', 400, "limit of this service is 256"),
    ("recommend", b'{"history": [], "exclude_seen": 1}', 422, "true or false"),
    ("recommend", b'{"history": [], "explain": true}', 400, "needs a memory"),
    ("recommend", b'{"history": [], "num_beam": 9}', 422, "the key 'num_beam', known are user"),
    ("recommend", b'{"history": [], "exclude": ["i1"]}', 422, "the key 'exclude'"),
    ("recommend", b'{"history": [], "memory_weight": 0}', 422, "the key 'memory_weight'"),
    ("recommend", b'{"history": [], "candidates": ["i1"]}', 422, "/v1/score"),
    ("recommend", b'{"text": "a lamp"}', 422, "not trained to find items by text"),
    ("recommend", b'{"requests": {}}', 422, "list of requests"),
    ("recommend", b'{"requests": [], "history": []}', 422, "the key 'history'"),
    ("recommend", b'{"requests": [{"history": [], "k": 3}]}', 422, "'k' stands beside"),
    ("recommend", b'{"history": [], "list": 3, "k": 3}', 422, "has no 'k'"),
    ("recommend", b'{"history": [], "list": true}', 422, "a whole number"),
    ("recommend", b'{"history": [], "list": 1000000}', 400, "too many"),
    ("recommend", b'{"history": [], "list": 3}', 422, "not trained on lists"),
    ("score", b'{"history": [], "candidates": ["i1"], "list": 3}', 422, "has no 'candidates'"),
    ("score", b'{"history": []}', 422, "'candidates'"),
    ("score", b'{"history": [], "candidates": []}', 422, "at least one"),
    ("score", b'{"history": [], "candidates": ["nobody"]}', 422, "'nobody' is not in the bundle"),
    ("encode", b'{"texts": "a"}', 422, "list of strings"),
    ("encode", b'{"texts": []}', 422, "empty"),
    ("encode", b'{"vectors": [[1], [1, 2]]}', 422, "same length"),
    ("encode", b'{"vectors": [["1e999"]]}', 422, "numbers"),
    ("encode", b'{"vectors": [["1", "2", "3", "4", "5", "6", "7", "8"]]}', 422, "numbers"),
    ("encode", b'{"vectors": [[true, true, true, true, true, true, true, true]]}', 422, "numbers"),
    ("encode", b'{"vectors": [[true, 2, 3, 4, 5, 6, 7, 8]]}', 422, "numbers"),
    ("encode", b'{"vectors": [[1e39, 2, 3, 4, 5, 6, 7, 8]]}', 422, "numbers"),
    ("decode", b'{"texts": [1]}', 422, "list of strings"),
    ("decode", b'{"text": "a"}', 422, "known are texts"),
]


@pytest.mark.parametrize(("endpoint", "body", "status", "message"), WRONG_BODIES)
def test_a_wrong_body_is_refused_in_one_line(
    client: TestClient, endpoint: str, body: bytes, status: int, message: str
) -> None:
    answer = client.post(f"/v1/{endpoint}", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert message in error
    assert error.isprintable()


def test_what_does_not_exist_is_refused_as_all_else(client: TestClient) -> None:
    assert client.get("/v1/recommend").json() == {"error": "Method Not Allowed"}
    assert client.post("/v2/recommend").json() == {"error": "Not Found"}
    assert client.get("/v2/recommend").status_code == 404
    elsewhere = client.post("/v1/recommend/", headers={"host": "other"}, follow_redirects=False)
    assert elsewhere.status_code == 404
    assert "location" not in elsewhere.headers


def test_a_long_body_is_refused_whatever_it_says_of_its_length(make_client: MakeClient) -> None:
    client = make_client(max_body=100)
    long = json.dumps({"history": ["i1"] * 40}).encode()
    assert client.post("/v1/recommend", content=long).status_code == 413
    pieces = client.post("/v1/recommend", content=iter([long[:60], long[60:]]))
    assert pieces.status_code == 413
    assert "more than 100 bytes" in pieces.json()["error"]
    assert client.post("/v1/recommend", json={"history": ["i1"]}).status_code == 200


def test_a_token_is_required_everywhere_but_for_probes(make_client: MakeClient) -> None:
    client = make_client(token="open sesame")
    for method, path in (("post", "/v1/recommend"), ("get", "/metrics"), ("get", "/openapi.json")):
        for header in ("", "Bearer ", "Bearer open", "Basic open sesame", "bearer open sesame"):
            answer = client.request(method, path, headers={"authorization": header})
            assert answer.status_code == 401, (path, header)
            assert answer.headers["www-authenticate"] == "Bearer"
    good = {"authorization": "Bearer open sesame"}
    assert client.post("/v1/recommend", json=REQUESTS[0], headers=good).status_code == 200
    assert client.get("/metrics", headers=good).status_code == 200
    assert client.get("/healthz").json() == {"ok": True}
    assert client.get("/readyz").status_code == 200
    with pytest.raises(UsageError, match="characters that are not ASCII"):
        replace(OPTIONS, token="\u00e9")


def test_a_full_queue_is_429_with_the_time_to_wait(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(max_waiting=3)
    assert client.post("/v1/recommend", json={"requests": REQUESTS}).status_code == 422
    assert client.post("/v1/recommend", json={"requests": REQUESTS[:3]}).status_code == 200

    def refuse(*_: object) -> None:
        raise Busy(7)

    monkeypatch.setattr("sidtool.recommendation.serve.batcher.Batcher.submit", refuse)
    answer = client.post("/v1/recommend", json=REQUESTS[0])
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert "try again in 7 s" in answer.json()["error"]
    monkeypatch.setattr(client.app.state.service, "_side_calls", [Future()] * 32)
    assert client.post("/v1/decode", json={"texts": ["a"]}).status_code == 429


def test_an_answer_that_takes_too_long_is_503(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(seconds=0.05)
    monkeypatch.setattr("sidtool.recommendation.serve.batcher.Batcher.submit", lambda *_: None)
    answer = client.post("/v1/recommend", json=REQUESTS[0])
    assert answer.status_code == 503
    assert "time limit" in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "status", "message"),
    [(100, 408, "did not arrive within"), (101, 413, "has more than 100 bytes")],
)
def test_a_body_that_does_not_end_in_time_is_refused(
    length: int, status: int, message: str
) -> None:
    pieces = [b"x" * length]

    async def receive() -> Any:
        if not pieces:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": pieces.pop(), "more_body": True}

    limits = ServeLimits(max_body=100, seconds=0.02, batch_seconds=0)
    request = HttpRequest({"type": "http", "headers": []}, receive)
    with pytest.raises(Exception, match=message) as caught:
        asyncio.run(read_body(request, limits))
    assert caught.value.status_code == status  # type: ignore[attr-defined]


def test_an_error_that_nobody_foresaw_says_nothing_of_the_body(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret history")

    for place in ("search.beam.beam_search", "serve.bodies.Request.from_json"):
        logged = caplog.at_level("DEBUG", "sidtool.recommendation.serve")
        with monkeypatch.context() as patched, logged:
            patched.setattr(f"sidtool.recommendation.{place}", fail)
            answer = client.post("/v1/recommend", json={"history": ["i1"]})
            wait_until(lambda: client.get("/healthz").status_code == 503)
        assert answer.status_code == 500
        assert "secret" not in answer.text
    assert client.get("/readyz").status_code == 503
    assert client.post("/v1/recommend", json={"history": ["i1"]}).status_code == 200
    wait_until(lambda: client.get("/healthz").json() == {"ok": True})
    messages = [record.getMessage() for record in caplog.records]
    # of the request, of the trial after it, and of the body
    assert sum("RuntimeError at test_app.py" in message for message in messages) == 3
    assert not any(
        "secret" in message or record.exc_info
        for message, record in zip(messages, caplog.records, strict=True)
    )
    assert client.post("/v1/recommend", json={"history": ["i1"]}).status_code == 200


def test_a_line_of_the_log_says_nothing_of_an_error_but_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with log_to_stderr(verbose=False):
        try:
            raise RuntimeError("the secret history")
        except RuntimeError:
            logging.getLogger("uvicorn.error").exception("a call failed")
        log_warning(UserWarning("be careful"))
    first, second = capsys.readouterr().err.splitlines()
    assert " error: a call failed: RuntimeError at test_app.py:" in first
    assert "secret" not in first
    assert second.endswith(" warning: be careful")


def test_readiness_names_what_is_served(
    client: TestClient, shop: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = client.get("/readyz").json()
    assert value["ready"] is True
    assert (value["bundle"], value["items"]) == (shop.bundle.digest, N_ITEMS)
    assert value["not_taken"] is None
    monkeypatch.setattr(client.app.state.service, "is_draining", True)
    assert client.get("/readyz").json()["error"] == "the service is ending"


def test_readiness_counts_no_retired_items(make_client: MakeClient, shop: LoadedModel) -> None:
    retired = np.arange(N_ITEMS) < 3
    fewer = Bundle.of(replace(shop.bundle.items, retired=retired), None, "reassign", name="fewer")
    client = make_client(replace(shop, bundle=fewer))
    assert client.get("/readyz").json()["items"] == N_ITEMS - 3
    assert f"sidtool_items {N_ITEMS - 3}.0" in client.get("/metrics").text


def test_seen_items_are_left_out_where_the_model_says_that_targets_never_repeat(
    make_client: MakeClient, shop: LoadedModel
) -> None:
    split = SplitReference("leave-one-out", "0" * 64, targets_repeat=False)
    binding = MemoryBinding("0" * 64, 0.0, 1.0, {}, split=split)
    loaded = replace(shop, contract=replace(shop.contract, memory=binding))
    body = {"history": ["i1", "i2"], "k": N_ITEMS}

    def seen(client: TestClient, path: str = "/v1/recommend", **more: Any) -> set[str]:
        items = client.post(path, json={**body, **more}).json()["items"]
        return set(items) & {"i1", "i2", "i3"}

    client = make_client(loaded)
    assert client.get("/readyz").json()["exclude_seen"] is True
    assert client.get("/readyz").json()["seen"].startswith("seen items removed: at most 1")
    assert seen(client) == {"i3"}
    assert seen(client, exclude_seen=False) == {"i1", "i2", "i3"}
    named = {"path": "/v1/score", "candidates": ["i1", "i3"], "k": 2}
    assert seen(client, **named) == {"i1", "i3"}
    assert seen(client, **named, exclude_seen=True) == {"i3"}
    assert seen(make_client()) == {"i1", "i2", "i3"}
    with_seen = make_client(loaded, recommend=RecommendOptions(exclude_seen=False))
    assert seen(with_seen) == {"i1", "i2", "i3"}


@pytest.mark.parametrize("body", REQUESTS)
def test_a_re_ranked_request_gets_the_line_of_recommend(
    make_client: MakeClient, body: dict[str, Any]
) -> None:
    loaded = reranked_model()
    (expected,) = recommend(loaded, [Request.from_json(body)], OPTIONS.recommend)
    answer = make_client(loaded).post("/v1/recommend", json={**body, "explain": True})
    raised = answer.json().pop("explanations")
    check_equal(
        {**answer.json(), "explanations": None}, {**as_json(expected), "explanations": None}
    )
    assert any(part.get("raised_by") for part in raised) == (len(body["history"]) > 0)


def test_metrics_count_calls_by_path_and_status(make_client: MakeClient) -> None:
    client = make_client()
    for body in REQUESTS:
        client.post("/v1/recommend", json=body)
    client.post("/v1/recommend", content=b"{")
    client.get("/some/path")
    lines = client.get("/metrics").text.splitlines()
    assert 'sidtool_calls_total{path="/v1/recommend",status="200"} 5.0' in lines
    assert 'sidtool_calls_total{path="/v1/recommend",status="422"} 1.0' in lines
    assert 'sidtool_calls_total{path="other",status="404"} 1.0' in lines
    assert "sidtool_batch_requests_sum 5.0" in lines
    assert f"sidtool_items {N_ITEMS}.0" in lines
    assert "sidtool_waiting_requests 0.0" in lines


def test_the_page_and_openapi_list_the_endpoints(client: TestClient) -> None:
    openapi = client.get("/openapi.json").json()
    assert set(openapi["paths"]) == {
        *("/v1/recommend", "/v1/score", "/v1/encode", "/v1/decode"),
        *("/healthz", "/readyz", "/metrics"),
    }
    body = openapi["paths"]["/v1/recommend"]["post"]["requestBody"]
    one, many = body["content"]["application/json"]["schema"]["oneOf"]
    assert {"user", "history", "text", "allow", "deny", "fields", "k"} <= set(one["properties"])
    assert many["required"] == ["requests"]


def test_a_catalog_without_items_is_served(make_client: MakeClient) -> None:
    client = make_client(loaded_model(small_bundle(1)))
    answer = client.post("/v1/recommend", json={"history": ["i0"]}).json()
    assert (answer["items"], answer["missing"]) == (["i0"], 4)


def test_a_list_is_that_of_recommend(make_client: MakeClient) -> None:
    model = list_shop()
    client = make_client(model)
    options = replace(OPTIONS.recommend, k=3, list=True)
    requests = [{"history": ["i1", "i2"]}, {"history": ["i3"], "deny": ["i4"]}]
    expected = list(recommend(model, map(Request.from_json, requests), options))
    answers = client.post("/v1/recommend", json={"requests": requests, "list": 3}).json()["answers"]
    for got, answer in zip(answers, expected, strict=True):
        assert got["items"] == list(answer.items)
        assert got["list_score"] == pytest.approx(answer.list_score, abs=1e-4)


def test_a_service_of_lists_scores_candidates_after_the_prompt_of_histories(
    make_client: MakeClient,
) -> None:
    model = list_shop()
    client = make_client(model, recommend=replace(OPTIONS.recommend, k=3, list=True))
    candidates = ["i3", "i9"]
    (expected,) = recommend(model, [["i1"]], RecommendOptions(k=2), candidates=candidates)
    body = {"history": ["i1"], "candidates": candidates}
    check_equal(client.post("/v1/score", json=body).json(), as_json(expected))
