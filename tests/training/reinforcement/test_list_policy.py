"""Log-probabilities of lists against whole sequences, one by one."""

from typing import Any

import numpy as np
import pytest
import torch

from sidtool.training.reinforcement.policy import Policy, pad_left
from tests.pairs import all_pairs
from tests.recommendation.search.cases import model_of, prompt
from tests.recommendation.search.oracle import ListModel
from tests.recommendation.search.test_list_search import SIZES, catalog, space


@pytest.mark.parametrize(
    ("architecture", "normalize", "begin_end"),
    all_pairs(["llama", "gpt2", "gemma3"], ["level", "trie"], [True, False]),
)
def test_log_probs_equal_those_of_ordinary_sequences(
    architecture: str, normalize: Any, begin_end: bool
) -> None:
    from sidtool.tokenizer.bundle.trie import Trie

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
    ids, mask = pad_left([torch.tensor(each) for each in prompts])
    log_probs = policy.list_log_probs(model, ids, mask, codes, valid)
    assert log_probs.shape == codes.shape
    sids = {tuple(row) for row in all_codes.tolist()}
    for row, leaves in enumerate(lists):
        oracle = ListModel(model, prompts[row], tokens, normalize, sids, {})
        written = tuple(all_codes[leaves].ravel().tolist())
        expected = [float(oracle.steps(written[:at])[written[at]]) for at in range(len(written))]
        np.testing.assert_allclose(
            log_probs[row, : len(leaves)].detach().ravel(), expected, atol=1e-4
        )
        assert (log_probs[row, len(leaves) :] == 0).all()
    model.zero_grad()
    log_probs.sum().backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    model.zero_grad()
