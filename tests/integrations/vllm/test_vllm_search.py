"""Beam search by an engine against sidtool's decoder on the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.integrations.vllm.engine import engine_arguments, engine_model
from sidtool.integrations.vllm.row_constraint import EngineSettings, RowConstraint
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.integrations.vllm.cases import TokenEngine, save_model, vllm_config, vllm_interfaces

__all__ = ["vllm_interfaces"]

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("vllm_interfaces")


@pytest.fixture(scope="module", params=["block", "table"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # ten codes per level: sorted as texts they are in another order, and some have no item
    bundle = small_bundle(60, (5, 12, 9), duplicates=True)
    out = tmp_path_factory.mktemp("engine") / "model"
    return save_model(out, bundle, layout=request.param)


@pytest.fixture(scope="module")
def own(folder: Path) -> LoadedModel:
    return load_model_folder(folder)


def engine_of(folder: Path, loaded: LoadedModel, normalize: Any = None, beams: int = 12) -> Any:
    arguments = engine_arguments(folder, num_beams=beams, normalize=normalize)
    constraint = RowConstraint.of(EngineSettings(str(folder), normalize=normalize))
    return TokenEngine(loaded.model, constraint, vllm_config(folder, **arguments))


@pytest.mark.parametrize(
    "normalize", ["level", "trie", pytest.param("vocabulary", marks=pytest.mark.slow)]
)
def test_items_and_order_are_those_of_recommend(
    folder: Path, own: LoadedModel, normalize: Any
) -> None:
    requests = [
        Request("a", ("i1", "i2")),
        Request("b", (), deny=("i3", "i4", "gone")),
        Request("c", ("i7",), allow=tuple(f"i{row}" for row in range(9))),
        Request("d", ("i9",) * 7, allow=("i5",), deny=("i5",)),
    ]
    options = RecommendOptions(k=5, num_beams=12, normalize=normalize)
    engine = engine_of(folder, own, normalize)
    with pytest.warns(SidtoolWarning):
        want = list(recommend(own, requests, options))
    with pytest.warns(SidtoolWarning):
        answers = list(recommend(engine_model(engine), requests, options))
    for answer, other in zip(answers, want, strict=True):
        assert (answer.items, answer.scores) == (other.items, pytest.approx(other.scores, abs=1e-4))
        assert answer.missing == other.missing
    assert set(engine.lengths) == {12}


def test_a_beam_wider_than_the_catalog_returns_the_catalog(folder: Path, own: LoadedModel) -> None:
    bundle: Bundle = own.bundle
    engine = engine_model(engine_of(folder, own, beams=60))
    (answer,) = recommend(engine, [Request()], RecommendOptions(k=60, num_beams=60))
    assert set(answer.items) == set(bundle.items.ids)


def test_what_an_engine_cannot_do_is_said(folder: Path, own: LoadedModel) -> None:
    engine = engine_model(engine_of(folder, own))
    for options, message in (
        (RecommendOptions(k=3, num_beams=13), "13 beams are too many: the engine was started"),
        (RecommendOptions(k=3, num_beams=9, normalize="trie"), "the engine does so over 'level'"),
    ):
        with pytest.raises(UsageError, match=message):
            list(recommend(engine, [Request()], options))
    for priors, targets, message in (
        ([object()], None, "cannot be mixed with a memory"),
        (None, [4], "follows no targets"),
    ):
        with pytest.raises(UsageError, match=message):
            engine.beam_search._check(9, "level", priors, targets)
    with pytest.raises(UsageError, match="does not score candidates"):
        list(recommend(engine, [Request()], RecommendOptions(k=3), candidates=["i1"]))
    with pytest.raises(UsageError, match="num_beams must be at least 1, not 0"):
        engine_arguments(folder, num_beams=0)
    with pytest.raises(UsageError, match="normalize must be one of level, trie, vocabulary"):
        engine_arguments(folder, normalize="levels")
    plain = TokenEngine(own.model, engine.beam_search.constraint, vllm_config(folder))
    with pytest.raises(UsageError, match="logprobs_mode 'raw_logprobs'"):
        engine_model(plain)
