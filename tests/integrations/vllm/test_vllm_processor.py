"""The plug-in under the calls of vLLM's two model runners, without vLLM."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.integrations.vllm.engine import PROCESSOR, engine_arguments
from sidtool.integrations.vllm.row_constraint import RequestSettings
from tests.bundles import small_bundle
from tests.integrations.vllm.cases import (
    BatchUpdate,
    Direction,
    SamplingParams,
    save_model,
    vllm_config,
    vllm_interfaces,
)

__all__ = ["vllm_interfaces"]

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["block", "table"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine") / "model"
    return save_model(out, small_bundle(40), layout=request.param)


def processor_of(folder: Path, argument: Any, **arguments: Any) -> Any:
    """The class, by the name that vLLM is given."""
    import importlib

    module, _, name = PROCESSOR.partition(":")
    config = vllm_config(folder, **arguments)
    return getattr(importlib.import_module(module), name)(config, argument)


@pytest.mark.usefixtures("vllm_interfaces")
def test_rows_follow_their_requests_through_the_batch(folder: Path) -> None:
    """Random requests come, write, move and leave; every row is what its own request allows."""
    processor = processor_of(folder, "cpu", **engine_arguments(folder))
    constraint = processor._constraint
    tokens = constraint.contract.tokens
    rng = np.random.default_rng(0)
    batch: list[tuple[SamplingParams, list[int], list[int]] | None] = []
    seen = set()
    for _ in range(60):
        removed = [i for i in range(len(batch)) if rng.random() < 0.15]
        for index in removed:
            batch[index] = None
        added = []
        for _ in range(rng.integers(0, 3)):
            prompt = rng.integers(5, 400, rng.integers(1, 6)).tolist()
            entry = (SamplingParams(extra_args=random_arguments(rng)), prompt, [])
            free = [i for i, place in enumerate(batch) if place is None]
            index = free[0] if free else len(batch)
            batch[index : index + 1] = [entry]
            removed = [place for place in removed if place != index]
            added.append((index, *entry))
        # the batch is condensed: the last request moves into each hole
        moved = []
        while None in batch:
            if batch[-1] is None:
                batch.pop()
                continue
            hole = batch.index(None)
            moved.append((len(batch) - 1, hole, Direction.UNIDIRECTIONAL))
            batch[hole] = batch.pop()
        if len(batch) > 1:
            first, second = rng.choice(len(batch), 2, replace=False).tolist()
            batch[first], batch[second] = batch[second], batch[first]
            moved.append((first, second, Direction.SWAP))
        processor.update_state(BatchUpdate(removed, added, moved))
        processor.update_state(None)  # nothing changed
        if not batch:
            continue
        logits = torch.randn(len(batch), tokens.stop)
        out = processor.apply(logits.clone())
        for row, (params, prompt, written) in enumerate(batch):
            settings = RequestSettings.of(params.extra_args)
            want = logits[row : row + 1]
            if settings.constrained:
                tail = torch.tensor([constraint.tail(prompt, written)])
                want = constraint.apply(want, tail, [constraint.leaf_filter(settings)])
            assert torch.equal(out[row], want[0])
            written.append(int(out[row].argmax()))  # the engine's list grows
            seen.add((settings.constrained, len(settings.deny) > 0, len(written) > 3))
    assert len(seen) >= 5


def random_arguments(rng: np.random.Generator) -> dict[str, Any] | None:
    chance = rng.random()
    if chance < 0.3:
        return {"sid_constraint": False}
    if chance < 0.6:
        return {"sid_deny": [f"i{row}" for row in rng.integers(0, 40, 20)]}
    return None


@pytest.mark.usefixtures("vllm_interfaces")
@pytest.mark.parametrize("without_first", [False, True])
def test_the_second_runner_has_the_tokens_itself(
    folder: Path, without_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_first:  # as in vLLM 0.34
        monkeypatch.setitem(sys.modules, "vllm.v1.sample.logits_processor", None)
    history = torch.zeros(6, 12, dtype=torch.int32)
    requests = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=history))
    processor = processor_of(folder, requests, **engine_arguments(folder))
    second = sys.modules["vllm.v1.worker.gpu.sample.logits_processor"]
    assert isinstance(processor, second.LogitsProcessor)
    constraint = processor._constraint
    sids = constraint.bundle.items.codes
    ids = constraint.contract.tokens.ids(sids[:1], begin_end_tokens=False)[0].tolist()
    rows = {4: [9, *ids[:2]], 1: ids[:1], 5: [9, 8, 7]}  # slot -> its tokens
    for slot, row in rows.items():
        history[slot, : len(row)] = torch.tensor(row)
        params = SamplingParams(extra_args={"sid_constraint": slot != 5})
        assert processor.add_request(slot, params) == (slot != 5)
    context = SimpleNamespace(
        idx_mapping_np=np.array(list(rows)),
        expanded_idx_mapping=torch.tensor(list(rows), dtype=torch.int32),
        pos=torch.tensor([len(row) - 1 for row in rows.values()]),
    )
    logits = torch.randn(3, constraint.contract.tokens.stop)
    out = processor.apply(logits.clone(), context)
    for row, (slot, written) in enumerate(rows.items()):
        want = logits[row : row + 1]
        if slot != 5:
            tail = torch.tensor([constraint.tail(written, ())])
            want = constraint.apply(want, tail, [None])
        assert torch.equal(out[row], want[0])


@pytest.mark.usefixtures("vllm_interfaces")
def test_an_engine_that_cannot_be_constrained_does_not_start(folder: Path) -> None:
    config = vllm_config(folder)
    processor = type(processor_of(folder, "cpu"))
    config.speculative_config = object()
    with pytest.raises(UsageError, match="speculative decoding"):
        processor(config, "cpu")
    for settings, message in (
        ({"beams": 3}, "no key 'beams', only model, bundle, normalize"),
        ({5: 3}, "no key '5'"),
        ({"normalize": "all"}, "normalize is 'all', not one of level, trie, vocabulary"),
        ({"normalize": ["trie"]}, r"normalize is \['trie'\], not one of"),
        ({"model": 5}, "model is 5, not a text"),
        ({"bundle": ["b"]}, r"bundle is \['b'\], not a text"),
        (5, "'sidtool' in additional_config is 5, not an object"),
        ("trie", "is 'trie', not an object"),
        ([], r"is \[\], not an object"),
        (None, "is None, not an object"),
    ):
        config = vllm_config(folder, additional_config={"sidtool": settings})
        with pytest.raises(UsageError, match=message):
            processor(config, "cpu")
    # vLLM turns a ValueError into an answer to the client
    with pytest.raises(ValueError, match="no extra argument"):
        processor.validate_params(SamplingParams(extra_args={"sid_allowed": []}))
    processor = processor_of(folder, "cpu", **engine_arguments(folder))
    assert not processor.is_argmax_invariant()
    logits = torch.randn(2, 9)
    assert processor.apply(logits) is logits  # no request is constrained


@pytest.mark.usefixtures("vllm_interfaces")
def test_a_vllm_without_any_interface_is_named(folder: Path, monkeypatch: Any) -> None:
    for name in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="this version of vLLM has none of"):
        processor_of(folder, "cpu")
