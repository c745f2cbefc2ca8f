"""Scores of groups against scoring each SID alone, and the oracle of the policy gradient."""

from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.results import Normalize
from sidtool.recommendation.search.score import score_sids
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.reinforcement.policy import Policy, pad_left
from tests.models import ENCODER_DECODERS, tiny_encoder_decoder, tiny_model
from tests.pairs import all_pairs
from tests.recommendation.search.oracle import ListModel
from tests.recommendation.search.test_list_search import SIZES, catalog, space
from tests.search_cases import SOME_ARCHITECTURES, model_of, prompt

PROMPTS = [[5, 9, 3, 14, 7, 21, 2, 8, 30, 11], [6, 1, 33]]
SPACE = SidSpace((3, 2, 3))
TOKENS = SidTokens(SPACE, 40)
CODES = np.array(
    [[0, 0, 0], [0, 0, 2], [0, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2], [2, 0, 1]],
    dtype=np.uint16,
)
TRIE = Trie.from_codes(CODES, SPACE.sizes)


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return pad_left([torch.tensor(prompt) for prompt in prompts])


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@pytest.mark.parametrize("normalize", ["trie", pytest.param("level", marks=pytest.mark.slow)])
def test_groups_score_like_single_sids(architecture: str, normalize: Normalize) -> None:
    make_model = tiny_encoder_decoder if architecture in ENCODER_DECODERS else tiny_model
    model = make_model(architecture, vocab_size=60)
    policy = Policy.of(model, TOKENS, TRIE, normalize)
    leaves = np.array([[0, 3, 6, 3], [7, 1, 2, 5]])
    codes = torch.from_numpy(CODES[leaves].astype(np.int64))
    scores = policy.scores(model, *padded(PROMPTS), codes)
    expected = score_sids(model, PROMPTS, CODES, TOKENS, normalize=normalize, trie=TRIE)
    sums = scores.log_probs.sum(-1).detach()
    np.testing.assert_allclose(sums, np.take_along_axis(expected, leaves, 1), atol=2e-4)
    assert scores.log_probs.shape == scores.entropies.shape == (2, 4, 3)
    if normalize == "trie":
        # the last code of [2, 0, 1] is the only one that continues its prefix
        assert float(scores.log_probs[1, 0, 2].detach()) == pytest.approx(0, abs=1e-6)
        assert float(scores.entropies[1, 0, 2].detach()) == pytest.approx(0, abs=1e-6)
    scores.log_probs.sum().backward()
    gradients = [weight.grad for weight in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("normalize", ["trie", "level"])
def test_groups_score_sids_of_one_level(architecture: str, normalize: Normalize) -> None:
    make_model = tiny_encoder_decoder if architecture in ENCODER_DECODERS else tiny_model
    model = make_model(architecture, vocab_size=60)
    tokens = SidTokens(SidSpace((8,)), 40)
    codes = np.arange(0, 8, 2, dtype=np.uint16)[:, None]
    trie = Trie.from_codes(codes, (8,))
    policy = Policy.of(model, tokens, trie, normalize)
    group = torch.from_numpy(codes.astype(np.int64)).expand(2, -1, -1)
    scores = policy.scores(model, *padded(PROMPTS), group)
    expected = score_sids(model, PROMPTS, codes, tokens, normalize=normalize, trie=trie)
    np.testing.assert_allclose(scores.log_probs[..., 0].detach(), expected, atol=2e-4)
    scores.log_probs.sum().backward()
    assert model.get_output_embeddings().weight.grad.isfinite().all()


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_recomputed_activations_give_the_same_gradient(architecture: str) -> None:
    make_model = tiny_encoder_decoder if architecture in ENCODER_DECODERS else tiny_model
    model = make_model(architecture, vocab_size=60).train()
    policy = Policy.of(model, TOKENS, TRIE, "trie")
    codes = torch.from_numpy(CODES[np.array([[0, 3, 6, 3], [7, 1, 2, 5]])].astype(np.int64))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)  # of dropout
        policy.scores(model, *padded(PROMPTS), codes).log_probs.sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    calls = []
    layers = [layer for layer in model.modules() if getattr(layer, "gradient_checkpointing", False)]
    checkpoint = layers[0]._gradient_checkpointing_func

    def counted(*arguments: Any, **others: Any) -> Any:
        calls.append(others)
        return checkpoint(*arguments, **others)

    for layer in layers:
        layer._gradient_checkpointing_func = counted
    for one, other in zip(gradients(), expected, strict=True):
        # weights of a tiny model are large, and so is the rounding of small sums of gradients
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=1e-4)
    assert len(calls) >= 2
    assert all(layer._gradient_checkpointing_func is counted for layer in layers)


def test_entropies_are_those_of_the_children() -> None:
    model = tiny_model("llama", vocab_size=60)
    policy = Policy.of(model, TOKENS, TRIE, "trie")
    codes = torch.from_numpy(CODES[None].astype(np.int64))
    with torch.no_grad():
        scores = policy.scores(model, *padded(PROMPTS[:1]), codes)
    # the codes behind the prefix (1, 1) are those of leaves 4, 5 and 6
    probabilities = scores.log_probs[0, 4:7, 2].exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    entropy = -(probabilities * probabilities.log()).sum()
    torch.testing.assert_close(scores.entropies[0, 4:7, 2], entropy.expand(3))
    policy.scores(model, *padded(PROMPTS[:1]), codes).entropies.sum().backward()
    assert model.get_output_embeddings().weight.grad.isfinite().all()


def test_a_model_that_ignores_masks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidtool.recommendation.search import driver

    monkeypatch.setattr(driver, "decoding_method", lambda model: None)
    with pytest.raises(UsageError, match="4-D attention mask"):
        Policy.of(tiny_model("llama", vocab_size=60), TOKENS, TRIE, "trie")


@pytest.mark.parametrize("normalize", ["trie", "level"])
def test_groups_score_over_a_table_of_token_ids(normalize: Normalize) -> None:
    """Against the forward pass of each SID by itself, over the ids that compete at each code."""
    # ids in no order, and a code of the last level without a token
    ids = [44, 51, 40, 59, 41, 57, -1, 42]
    levels = (ids[:3], ids[3:5], ids[5:])
    tokens = SidTokens.of_ids(SPACE, [*ids, 45, 46])
    codes = CODES[CODES[:, 2] != 1]
    trie = Trie.from_codes(codes, SPACE.sizes)
    model = tiny_model("llama", vocab_size=60)
    policy = Policy.of(model, tokens, trie, normalize)
    group = torch.from_numpy(codes.astype(np.int64)).expand(2, -1, -1)
    with torch.no_grad():
        scores = policy.scores(model, *padded(PROMPTS), group)
        for row, prompt in enumerate(PROMPTS):
            for column, sid in enumerate(codes.tolist()):
                path = [levels[level][code] for level, code in enumerate(sid)]
                logits = model(torch.tensor([prompt + path])).logits[0]
                for level, token_id in enumerate(path):
                    competing = [rival for rival in levels[level] if rival >= 0]
                    if normalize == "trie":
                        same = (codes[:, :level] == sid[:level]).all(axis=1)
                        competing = [levels[level][code] for code in set(codes[same, level])]
                    at = logits[len(prompt) + level - 1]
                    logs = at[competing].log_softmax(-1)
                    expected = float(logs[competing.index(token_id)])
                    actual = float(scores.log_probs[row, column, level])
                    assert actual == pytest.approx(expected, abs=2e-4)
                    entropy = -float((logs.exp() * logs).sum())
                    measured = float(scores.entropies[row, column, level])
                    assert measured == pytest.approx(entropy, abs=2e-4)


@pytest.mark.parametrize(
    ("architecture", "normalize", "begin_end"),
    all_pairs(["llama", "gpt2", "gemma3"], ["level", "trie"], [True, False]),
)
def test_log_probs_of_lists_equal_those_of_ordinary_sequences(
    architecture: str, normalize: Any, begin_end: bool
) -> None:
    all_codes = catalog(SIZES, 15, 3)
    trie = Trie.from_codes(all_codes, SIZES)
    tokens = space(SIZES, begin_end)
    model = model_of(architecture, tokens)
    policy = Policy.of(model, tokens, trie, normalize)
    rng = np.random.default_rng(0)
    prompts = [prompt(rng, length) for length in (3, 9, 6)]
    lists = [[1, 4, 9], [2, 2], [14]]  # leaves
    codes = torch.zeros(3, 3, 3, dtype=torch.long)
    valid = torch.zeros(3, 3, dtype=torch.bool)
    for row, leaves in enumerate(lists):
        codes[row, : len(leaves)] = torch.from_numpy(all_codes[leaves].astype(np.int64))
        codes[row, len(leaves) :] = torch.from_numpy(all_codes[0].astype(np.int64))
        valid[row, : len(leaves)] = True
    ids, mask = pad_left([torch.tensor(token_ids) for token_ids in prompts])
    log_probs = policy.list_log_probs(model, ids, mask, codes, valid)
    assert log_probs.shape == codes.shape
    sids = {tuple(row) for row in all_codes.tolist()}
    for row, leaves in enumerate(lists):
        oracle = ListModel(model, prompts[row], tokens, normalize, sids, {})
        written = tuple(all_codes[leaves].ravel().tolist())
        expected = [float(oracle.steps(written[:at])[written[at]]) for at in range(len(written))]
        token_log_probs = log_probs[row, : len(leaves)].detach().ravel()
        np.testing.assert_allclose(token_log_probs, expected, atol=1e-4)
        assert (log_probs[row, len(leaves) :] == 0).all()
    model.zero_grad()
    log_probs.sum().backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    model.zero_grad()
