import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.model.network.token_embeddings import TokenEmbeddings
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.columns import Columns
from sidtool.recommendation.search.partial_head import PartialHead
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.probes import narrows_exactly, packs_exactly
from tests.models import ARCHITECTURES, tiny_model

TOKENS = SidTokens(SidSpace((8, 6, 7)), 60)  # ids 60..82 of 90: rows before and after the block
IDS = torch.randint(90, (3, 11), generator=torch.Generator().manual_seed(0))


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.sin().mul(torch.arange(logits.shape[-1]).cos()).sum() / 100


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradients_are_those_of_the_whole_weight(architecture: str, tied: bool) -> None:
    plain = tiny_model(architecture, vocab_size=90, tied=tied, pad_token_id=61)
    model = tiny_model(architecture, vocab_size=90, tied=tied, pad_token_id=61)
    # a padding row gets no gradient in a plain table; this one lies in the block, and learns as the
    # head's does
    plain.get_input_embeddings().padding_idx = None
    model.requires_grad_(False)
    rows = TokenEmbeddings(model, range(TOKENS.start, TOKENS.stop))
    seen: list[torch.Tensor] = []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(learns) == (1 if tied else 2)
    want, result = plain(input_ids=IDS).logits, model(input_ids=IDS).logits
    torch.testing.assert_close(result, want, atol=1e-5, rtol=1e-5)
    assert len(seen) == 1
    assert torch.equal(seen[0], IDS)
    loss_of(want).backward()
    loss_of(result).backward()
    layers = {"get_input_embeddings", "get_output_embeddings"}
    assert len(rows.named(model)) == len(learns)
    for layer in layers:
        whole = getattr(plain, layer)().weight.grad[TOKENS.start : TOKENS.stop]
        module = getattr(model, layer)()
        if hasattr(module, "sid_rows"):
            torch.testing.assert_close(module.sid_rows.grad, whole, atol=1e-5, rtol=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "columns", [None, (60, 81), (55, 90), (64, 70), torch.tensor([70, 61, 80])], ids=str
)
def test_a_step_changes_only_the_sid_block_and_partial_heads_use_it(
    tied: bool, columns: Columns | None
) -> None:
    model = tiny_model("gemma3", vocab_size=90, tied=tied)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.requires_grad_(False)
    rows = TokenEmbeddings(model, range(TOKENS.start, TOKENS.stop))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 0.1, weight_decay=1.0)
    head = PartialHead(model, rows.logits).install()
    parts = [(torch.arange(33), columns)]
    for _ in range(2):
        (logits,) = head.blocks(lambda: model(input_ids=IDS, use_cache=False).logits, parts)
        loss_of(logits).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert narrows_exactly(model, head, columns)
    assert packs_exactly(model)
    after = model.state_dict()
    moved = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    assert moved == ["model.embed_tokens.weight", "lm_head.weight"]
    for name in moved:
        now, then = after[name], before[name]
        assert torch.equal(now[:60], then[:60])
        assert torch.equal(now[83:], then[83:])
        # weight decay moves what has no gradient, here alone
        assert (now[60:83] != then[60:83]).any(dim=1).all()
    twin = tiny_model("gemma3", vocab_size=90, tied=tied)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        both_logits = [network(input_ids=IDS).logits for network in (twin, model)]
    torch.testing.assert_close(*both_logits, atol=1e-5, rtol=1e-5)


def test_low_precision_weights_have_float32_trained_rows() -> None:
    model = tiny_model("llama", vocab_size=90, tied=False).to(torch.bfloat16)
    model.requires_grad_(False)
    rows = TokenEmbeddings(model, range(TOKENS.start, TOKENS.stop))
    assert {row.dtype for row in rows.named(model).values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(model(input_ids=IDS).logits.float()).backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_an_adapted_head_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama", vocab_size=90, tied=False)
    get_peft_model(model, LoraConfig(target_modules=["lm_head"], r=2))
    with pytest.raises(UsageError, match="plain head"):
        TokenEmbeddings(model, range(TOKENS.start, TOKENS.stop))
