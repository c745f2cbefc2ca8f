"""A service of a tiny model in memory, and one on disk with a registry."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sidtool.model import LoadedModel
from sidtool.recommendation import RecommendOptions
from sidtool.recommendation.serve import Service, Sources, make_app
from sidtool.recommendation.serve.batcher import Served
from sidtool.recommendation.serve.serve_options import ServeLimits, ServeOptions, Version
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.waiting import DEADLOCK

N_ITEMS = 60
OPTIONS = ServeOptions(
    "tiny",
    recommend=RecommendOptions(k=5, num_beams=8),
    limits=ServeLimits(seconds=DEADLOCK),
    poll_seconds=3600,
)

MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def shop() -> LoadedModel:
    return loaded_model(small_bundle(N_ITEMS), "llama")


def open_service(
    loaded: LoadedModel, options: ServeOptions = OPTIONS, version: str = "v1"
) -> Service:
    """A service of a model in memory, which has no files to look at."""
    served = Served.of(loaded, Version(version), options.recommend)
    return Service(options, Sources(options, Path("nowhere")), served)


@pytest.fixture(scope="module")
def make_client(shop: LoadedModel) -> Iterator[MakeClient]:
    """A function that starts a service in this process and returns a client of it; fields of the
    options and of the limits are keywords."""
    with ExitStack() as clients:

        def make(loaded: LoadedModel = shop, **fields: Any) -> TestClient:
            names = ServeLimits.__dataclass_fields__
            limits = {name: fields.pop(name) for name in list(fields) if name in names}
            options = replace(OPTIONS, limits=replace(OPTIONS.limits, **limits), **fields)
            app = make_app(options, open_service(loaded, options))
            return clients.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture(scope="module")
def client(make_client: MakeClient) -> TestClient:
    return make_client()
