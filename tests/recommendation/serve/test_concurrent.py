from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.model import LoadedModel
from sidtool.recommendation import RecommendOptions, Request, recommend
from tests.recommendation.serve.conftest import N_ITEMS

pytestmark = pytest.mark.filterwarnings("ignore::sidtool.base.errors.SidtoolWarning")

ITEMS = st.integers(0, N_ITEMS + 3).map("i{}".format)  # some are unknown
BODIES = st.fixed_dictionaries(
    {"history": st.lists(ITEMS, max_size=7)},
    optional={
        "deny": st.lists(ITEMS, max_size=5),
        "allow": st.lists(ITEMS, min_size=1, max_size=12),
        "k": st.integers(1, 8),
        "num_beams": st.sampled_from((8, 20)),
        "exclude_seen": st.booleans(),
    },
)
CALLS = st.lists(st.one_of(BODIES, st.lists(BODIES, min_size=1, max_size=4)), max_size=12)


@settings(max_examples=3, derandomize=True)
@given(calls=CALLS)
def test_concurrent_calls_get_what_recommend_gives(
    client: TestClient, shop: LoadedModel, calls: list[Any]
) -> None:
    bodies = []
    for number, call in enumerate(calls):
        if isinstance(call, dict):
            bodies.append({**call, "user": f"user {number}"})
        else:  # options are those of the whole call
            options = {name: call[0][name] for name in ("k", "num_beams") if name in call[0]}
            requests = [
                {key: part[key] for key in ("history", "deny", "allow") if key in part}
                | {"user": f"user {number}.{place}"}
                for place, part in enumerate(call)
            ]
            bodies.append({"requests": requests, **options})
    with ThreadPoolExecutor(max(len(bodies), 1)) as pool:
        answers = list(pool.map(lambda body: client.post("/v1/recommend", json=body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200
        if "requests" in body:
            options = {name: body[name] for name in body if name != "requests"}
            pairs = zip(body["requests"], answer.json()["answers"], strict=True)
            for request, got in pairs:
                check(shop, {**request, **options}, got)
        else:
            check(shop, body, answer.json())


def check(shop: LoadedModel, body: dict[str, Any], got: dict[str, Any]) -> None:
    """The answer to this request: same user and items, up to ties within rounding."""
    names = {"k": 5, "num_beams": 8, "exclude_seen": False}
    options = RecommendOptions(**{name: body.get(name, value) for name, value in names.items()})
    request = {key: value for key, value in body.items() if key not in names}
    (expected,) = recommend(shop, [Request.from_json(request)], options)
    assert got["user"] == expected.user
    assert (got["unknown"], got["missing"]) == (expected.unknown, expected.missing)
    scores = dict(zip(expected.items, expected.scores, strict=True))
    last = min(expected.scores, default=0.0)
    assert len(got["items"]) == len(set(got["items"])) == len(scores)
    for item, score in zip(got["items"], got["scores"], strict=True):
        assert abs(score - scores.get(item, last)) < 1e-4, (item, got, expected)
