"""Weights that FSDP2 divides: one process in a group of its own, whose part is the whole.
tests/training/test_fsdp.py trains in two."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from sidtool.model.network.sharded import (
    gathered,
    is_sharded,
    local_part,
    part_like,
    whole,
    whole_model,
)
from sidtool.model.network.token_embeddings import TokenEmbeddings
from sidtool.recommendation.search.partial_head import PartialHead
from tests.models import tiny_model

IDS = torch.randint(90, (3, 11), generator=torch.Generator().manual_seed(0))
SID_IDS = range(60, 83)
PARTS = [(torch.tensor([0, 5, 12]), (60, 77)), (torch.tensor([32]), (64, 90))]


@pytest.fixture(autouse=True, scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = f"file://{tmp_path_factory.mktemp('group') / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def divide(model: Any) -> None:
    """As accelerate does: each layer, the ends of the model together, and the rest."""
    for layer in model.base_model.layers:
        fully_shard(layer)
    ends = [model.base_model.norm, model.get_input_embeddings(), model.get_output_embeddings()]
    fully_shard(ends, reshard_after_forward=False)
    fully_shard(model)


def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows_only", [True, False])
def test_a_divided_model_has_the_logits_and_gradients_of_a_whole_one(
    tied: bool, rows_only: bool
) -> None:
    models = [tiny_model("gemma3", vocab_size=90, tied=tied) for _ in range(2)]
    blocks, rows = [], []
    for model, is_divided in zip(models, (False, True), strict=True):
        column_logits = None
        if rows_only:
            model.requires_grad_(False)
            rows.append(TokenEmbeddings(model, SID_IDS))
            column_logits = rows[-1].logits
        head = PartialHead(model, column_logits).install()
        if is_divided:
            divide(model)
        assert is_sharded(model) == is_divided
        assert head.is_plain
        logit_blocks = head.blocks(lambda model=model: logits_of(model), PARTS)
        sum(block.sin().sum() for block in logit_blocks).backward()
        blocks.append(logit_blocks)
    for block, expected in zip(blocks[1], blocks[0], strict=True):
        torch.testing.assert_close(block, expected)
    gradients = [dict(model.named_parameters()) for model in models]
    assert gradients[0].keys() == gradients[1].keys()
    learned = [name for name, weight in gradients[0].items() if weight.grad is not None]
    assert len(learned) == (1 if tied else 2) if rows_only else len(learned) > 10
    for name in learned:
        assert isinstance(gradients[1][name], DTensor)
        torch.testing.assert_close(whole(gradients[1][name].grad), gradients[0][name].grad)


def test_the_whole_model_is_an_ordinary_one_until_it_is_divided_again() -> None:
    model = tiny_model("llama", vocab_size=90)
    expected = logits_of(model).detach()
    with whole_model(model):  # one that is not divided stays as it is
        assert all(weight.requires_grad for weight in model.parameters())
    hooks = [(module, len(module._forward_hooks)) for module in model.modules()]
    model.base_model.norm.register_forward_hook(lambda *_: None)
    divide(model)
    logits_of(model).sum().backward()
    parts = list(model.parameters())
    classes = [type(module) for module in model.modules()]
    with torch.no_grad(), whole_model(model):
        assert not is_sharded(model)
        assert not any(isinstance(weight, DTensor) for weight in model.parameters())
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        twin = copy.copy(model)  # as beam search does, and FSDP2 does not allow
        torch.testing.assert_close(logits_of(twin), expected)
        torch.testing.assert_close(logits_of(model), expected)
        hook_counts = {id(module): len(module._forward_hooks) for module in model.modules()}
        assert all(
            hook_counts[id(module)] == number + (module is model.base_model.norm)
            for module, number in hooks
        )
    assert [type(module) for module in model.modules()] == classes
    assert all(weight is part for weight, part in zip(model.parameters(), parts, strict=True))
    before = [whole(weight.grad).clone() for weight in parts]
    logits_of(model).sum().backward()
    for weight, gradient in zip(parts, before, strict=True):
        torch.testing.assert_close(whole(weight.grad), 2 * gradient)


def test_rows_that_were_trained_are_in_whole_weights() -> None:
    model = tiny_model("llama", vocab_size=90)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model.requires_grad_(False)
    rows = TokenEmbeddings(model, SID_IDS)
    divide(model)
    logits_of(model).square().mean().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    torch.optim.SGD(trained, lr=1.0).step()
    state = gathered(model.state_dict(keep_vars=True), keep=True)
    assert state["lm_head.weight"] is state["model.embed_tokens.weight"]
    assert torch.equal(state["lm_head.weight"], start["lm_head.weight"])  # not yet
    rows.write_rows_to(state, gathered(rows.named(model), keep=True))
    with whole_model(model):
        rows.write_rows()
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
    for name, value in start.items():
        changed = (value != state[name]).nonzero()[:, 0].unique().tolist()
        learns = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        assert changed == (list(SID_IDS) if learns else [])


def test_a_process_that_keeps_nothing_takes_part() -> None:
    layer = fully_shard(nn.Linear(3, 2))
    assert isinstance(layer, FSDPModule)
    assert gathered(dict(layer.named_parameters()), keep=False) == {}


def test_a_part_is_divided_as_its_target_is() -> None:
    layer = fully_shard(nn.Linear(3, 5))
    value = torch.arange(15.0).reshape(5, 3)
    part = part_like(layer.weight, value)
    assert isinstance(part, DTensor)
    assert part.placements == layer.weight.placements
    assert torch.equal(whole(part), value)
    assert torch.equal(local_part(part), value)
    assert part_like(torch.zeros(5, 3), value) is value
    assert local_part(value) is value
