import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.memory.memory import Memory
from sidtool.memory.mixture.gate import Gate
from sidtool.memory.mixture.index import MemoryIndex, MemoryOptions, WeightedMemory
from sidtool.model.contract.contract import MEMORY_COPY, MemoryBinding
from sidtool.model.load import LoadedModel, choose_memory
from sidtool.model.prompt.prompts import TextPrompt
from sidtool.recommendation import recommendations as module
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import recommend, recommend_to_file
from sidtool.recommendation.requests import Recommendation, Request
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.memory.cases import small_memory

pytestmark = pytest.mark.filterwarnings("ignore:.*in the histories")


def shop(
    architecture: str = "qwen2", *, duplicates: bool = False, retired: tuple[int, ...] = ()
) -> LoadedModel:
    bundle = small_bundle(60, duplicates=duplicates)
    bundle.items.retired[list(retired)] = True
    loaded = loaded_model(bundle, architecture)
    return replace(loaded, contract=replace(loaded.contract, normalize="trie"))


def mixed(loaded: LoadedModel, weight: float, power: float = 2.0) -> LoadedModel:
    memory = WeightedMemory(small_memory(loaded.bundle), weight, power)
    return replace(loaded, memory=memory)


def answer(loaded: LoadedModel, request: Request, **options: Any) -> Recommendation:
    (result,) = recommend(loaded, [request], RecommendOptions(num_beams=60, **options))
    return result


def memory_ranking(loaded: LoadedModel, history: tuple[str, ...], power: float) -> list[str]:
    """The ids of all items with memory mass, best first, equal ones in SID order."""
    bundle = loaded.bundle
    index = MemoryIndex.of(loaded.memory.memory, bundle)
    (distribution,) = index.distributions([bundle.items.rows(history)], power)
    order = np.lexsort((distribution.positions, -distribution.log_probs))
    rows = bundle.active[distribution.positions[order]]
    return [bundle.items.ids[row] for row in rows.tolist()]


HISTORY = ("i3", "i17", "unknown", "i5")


@pytest.mark.parametrize("duplicates", [False, True])
def test_weight_0_is_the_model_alone(duplicates: bool) -> None:
    loaded = shop(duplicates=duplicates)
    for request in (Request(history=HISTORY), Request(history=("i9",))):
        assert answer(mixed(loaded, 0.0), request) == answer(loaded, request)


@pytest.mark.parametrize(("duplicates", "power"), [(False, 0.5), (True, 1.0), (False, 3.0)])
def test_weight_1_is_the_memory_alone(duplicates: bool, power: float) -> None:
    loaded = mixed(shop(duplicates=duplicates, retired=(2, 30)), 1.0, power)
    expected = memory_ranking(loaded, HISTORY, power)
    for k in (1, 5, len(expected)):
        assert answer(loaded, Request(history=HISTORY), k=k).items == tuple(expected[:k])


def test_a_memory_that_decides_alone_answers_without_the_model(monkeypatch: Any) -> None:
    alone, request = mixed(shop(), 1.0), Request(history=HISTORY)
    known = memory_ranking(alone, HISTORY, 2.0)
    ranked = answer(alone, request, k=60)
    unknown = set(ranked.items[len(known) :])
    by_model = [item for item in answer(shop(), request, k=60).items if item in unknown]
    assert list(ranked.items) == known + by_model  # the model orders what the memory lacks

    def forward(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is asked")

    monkeypatch.setattr(type(alone.model), "forward", forward)
    unseen = [item for item in known if item not in HISTORY]
    result = answer(alone, request, k=len(unseen), exclude_seen=True)
    assert list(result.items) == unseen
    scores = dict(zip(ranked.items, ranked.scores, strict=True))
    np.testing.assert_allclose(result.scores, [scores[item] for item in unseen], rtol=1e-6)
    with pytest.raises(AssertionError, match="the model is asked"):
        answer(alone, request, k=len(known) + 1)


@pytest.mark.parametrize(("architecture", "duplicates"), [("qwen2", False), ("t5", True)])
def test_candidates_are_ranked_by_the_mixture(architecture: str, duplicates: bool) -> None:
    loaded = mixed(shop(architecture, duplicates=duplicates), 0.4)
    everything = answer(loaded, Request(history=HISTORY), k=60)
    candidates = everything.items[::-3]
    options = RecommendOptions(k=60, exclude_seen=True)
    request = Request(history=HISTORY)
    (result,) = recommend(loaded, [request], options, candidates=candidates)
    expected = [item for item in everything.items if item in candidates and item not in HISTORY]
    assert list(result.items) == expected
    scores = dict(zip(everything.items, everything.scores, strict=True))
    np.testing.assert_allclose(result.scores, [scores[item] for item in expected], atol=1e-5)


def test_explanations_name_the_history_that_the_memory_spoke_from() -> None:
    loaded = mixed(shop(), 0.5)
    result = answer(loaded, Request(history=HISTORY), k=60, explain=True)
    assert len(result.explanations) == len(result.items)
    from_memory = set(memory_ranking(loaded, HISTORY, 2.0))
    for item, explanation in zip(result.items, result.explanations, strict=True):
        is_remembered = item in from_memory
        assert (explanation.memory_share > 0) == bool(explanation.because_of) == is_remembered
        assert set(explanation.because_of) <= set(HISTORY)
        shares = list(explanation.because_of.values())
        assert shares == sorted(shares, reverse=True)
        assert not shares or sum(shares) == pytest.approx(1)
    assert json.loads(json.dumps(result.to_json()))["explanations"][0]["memory_share"] <= 1
    with pytest.raises(UsageError, match="--explain needs a memory"):
        answer(shop(), Request(history=HISTORY), explain=True)


@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
def test_other_normalizations_are_refused(normalize: Any) -> None:
    with pytest.raises(UsageError, match=f"normalized over the trie, not the {normalize}"):
        answer(mixed(shop(), 0.5), Request(history=HISTORY), normalize=normalize)
    answer(mixed(shop(), 0.0), Request(history=HISTORY), normalize=normalize)


def test_a_memory_of_another_bundle_is_refused() -> None:
    loaded = shop()
    other = WeightedMemory(small_memory(small_bundle(60, seed=1)))
    with pytest.raises(CompatibilityError, match="no later version of it"):
        answer(replace(loaded, memory=other), Request(history=HISTORY))


@pytest.mark.parametrize(
    ("weight", "power"), [(-0.1, 1), (1.1, 1), (float("nan"), 1), (0.5, 0), (0.5, float("inf"))]
)
def test_weights_and_powers_out_of_range_are_refused(weight: float, power: float) -> None:
    memory: Any = None
    with pytest.raises(UsageError, match=r"the (weight|power) of a memory"):
        WeightedMemory(memory, weight, power)


def test_a_run_with_another_memory_is_not_resumed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW", 1)
    loaded = shop()
    out = tmp_path / "out.jsonl"

    def requests() -> Any:
        yield Request(history=HISTORY)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(mixed(loaded, 0.5), requests(), out)
    for other in (loaded, mixed(loaded, 0.4), mixed(loaded, 0.5, 1.0)):
        with pytest.raises(UsageError):
            recommend_to_file(other, [Request(history=HISTORY)], out, resume=True)
    recommend_to_file(mixed(loaded, 0.5), [Request(history=HISTORY)], out, resume=True)
    assert len(out.read_text().splitlines()) == 1


def test_a_later_bundle_keeps_the_memory_of_its_items(tmp_path: Path) -> None:
    """After add-items rows have moved; the memory is found by the ids."""
    from tests.memory.test_build import BUNDLE, GROWN

    memory = small_memory(BUNDLE)
    history = ("i3", "i17", "i5")
    memory.save(tmp_path / "m.zarr")
    by_bundle = []
    for bundle in (BUNDLE, GROWN):
        index = MemoryIndex.of(Memory.open(tmp_path / "m.zarr"), bundle)
        (distribution,) = index.distributions([bundle.items.rows(history)], 2.0)
        ids = [bundle.items.ids[row] for row in bundle.active[distribution.positions].tolist()]
        by_bundle.append(dict(zip(ids, distribution.log_probs.tolist(), strict=True)))
    assert by_bundle[0] == pytest.approx(by_bundle[1])


def test_a_gate_gives_each_request_its_own_weight() -> None:
    loaded = shop()
    memory = small_memory(loaded.bundle)
    gate = Gate((0.0,) * 5, (1.0,) * 5, (0.3, -0.8, 0.5, -0.4, 0.1), 0.2)
    gated = replace(loaded, memory=WeightedMemory(memory, 0.0, 2.0, gate))
    requests = [Request(history=HISTORY), Request(history=("i9", "i8")), Request(history=("i2",))]
    results = list(recommend(gated, requests, RecommendOptions(num_beams=60)))
    index = MemoryIndex.of(memory, loaded.bundle)
    weights = set()
    for request, result in zip(requests, results, strict=True):
        rows = [loaded.bundle.items.rows(request.history)]
        (weight,) = gate.weights(index.features(rows, index.distributions(rows, 2.0))).tolist()
        weights.add(weight)
        expected = answer(replace(loaded, memory=WeightedMemory(memory, weight, 2.0)), request)
        assert result.items == expected.items
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
    assert len(weights) == 3


def test_a_weight_replaces_the_gate_of_a_contract(tmp_path: Path) -> None:
    loaded = shop()
    memory = small_memory(loaded.bundle)
    memory.save(tmp_path / MEMORY_COPY)
    gate = Gate((0.0,) * 5, (1.0,) * 5, (0.3,) * 5, 0.2)
    binding = MemoryBinding(memory.digest, 0.4, 2.0, {}, gate)
    mixtures = []
    for options in (MemoryOptions(), MemoryOptions(power=3.0), MemoryOptions(weight=0.1)):
        weighted = choose_memory(tmp_path, binding, loaded.bundle, options)
        mixtures.append((weighted.gate, weighted.weight, weighted.power))
    assert mixtures == [(gate, 0.4, 2.0), (gate, 0.4, 3.0), (None, 0.1, 2.0)]
    other = replace(binding, digest="0" * 64)
    with pytest.raises(CompatibilityError, match=f"is memory {memory.digest[:12]}, the contract "):
        choose_memory(tmp_path, other, loaded.bundle, MemoryOptions())
    # left out, it need not fit, as after a step back to an earlier bundle
    earlier = small_bundle(50)
    with pytest.raises(CompatibilityError, match="no later version of it"):
        choose_memory(tmp_path, binding, earlier, MemoryOptions())
    assert choose_memory(tmp_path, binding, earlier, MemoryOptions(weight=0)) is None


def test_an_answer_does_not_depend_on_the_others_of_its_batch() -> None:
    """A text has no memory, and an empty history none either: the model alone ranks, also where
    items share a SID."""
    prompt = TextPrompt("title-to-sid", "{item}:", 100)
    loaded = loaded_model(small_bundle(60, duplicates=True), text_prompt=prompt)
    loaded = replace(loaded, contract=replace(loaded.contract, normalize="trie"))
    with_memory = mixed(loaded, 0.5)
    alone = [Request(text="red"), Request(text="category"), Request()]
    options = RecommendOptions(k=8, num_beams=60)
    for candidates in (None, [f"i{row}" for row in range(60)]):
        by_model = list(recommend(loaded, alone, options, candidates=candidates))
        beside = [*alone, Request(history=HISTORY)]
        *answers, history_answer = recommend(with_memory, beside, options, candidates=candidates)
        for one, other in zip(by_model, answers, strict=True):
            assert (other.items, other.scores) == (one.items, pytest.approx(one.scores, abs=1e-5))
        single = list(recommend(with_memory, beside[-1:], options, candidates=candidates))
        assert single[0].items == history_answer.items
