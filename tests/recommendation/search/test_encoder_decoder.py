"""What only encoder-decoder models have: encoded prompts, positions by depth, biases behind the
head, a start token. Parity with `generate` is in `test_beam.py`."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from sidtool.base.errors import DataError, UsageError
from sidtool.recommendation.search import driver
from sidtool.recommendation.search.architectures import TreePositions
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import decoding_method
from tests.models import ENCODER_DECODERS, tiny_encoder_decoder
from tests.search_cases import assert_same, generate, make, make_with_model, path_scores, vocabulary

PROMPTS = [[9, 8, 7], [20, 21, 22, 23, 24, 25], [30]]


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_the_probe_detects_positions_that_are_not_by_depth(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    *_, model = make_with_model((4, 5, 6), 20, architecture)
    assert driver._probe(model) == "sliced"
    monkeypatch.setattr(TreePositions, "at", lambda *_: nullcontext())
    assert driver._probe(model) is None


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_threads_may_share_a_model(architecture: str) -> None:
    """Its positions are replaced for the forward pass of one of them."""
    trie, tokens, model = make_with_model((4, 5, 6), 60, architecture)
    batches = [[PROMPTS[0][: 1 + n % 3] * (1 + n % 4)] for n in range(12)]

    def search(prompts: list[list[int]]) -> list[int]:
        (result,) = beam_search(model, prompts, trie, tokens, num_beams=20, k=20)
        return result.leaves.tolist()

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(search, batches))
    assert results == list(map(search, batches))


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_prompts_are_encoded_once_and_beams_share_their_keys(architecture: str) -> None:
    trie, tokens, model = make_with_model((4, 5, 6), 60, architecture)
    decoding_method(model)
    name = "EncDecAttention.k" if architecture == "t5" else "encoder_attn.k_proj"
    shapes: list[Any] = []

    def record(_: Any, arguments: Any, output: Any) -> None:
        shapes.append(tuple(output.shape[:2]) if isinstance(output, torch.Tensor) else "encoded")

    layers = [module for path, module in model.named_modules() if path.endswith(name)]
    hooks = [module.register_forward_hook(record) for module in (model.get_encoder(), *layers)]
    beam_search(model, PROMPTS, trie, tokens, num_beams=20, k=20)
    for hook in hooks:
        hook.remove()
    # one encoding, and the keys of each decoder layer for three prompts of at most six tokens
    assert shapes == ["encoded", (3, 6), (3, 6)]


@pytest.mark.parametrize(
    "architecture",
    [
        "longt5",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mbart", "pegasus", "marian", "blenderbot")
        ),
    ],
)
def test_their_families_run_as_trees(architecture: str) -> None:
    trie, tokens, model = make_with_model((5, 6, 4), 60, architecture)
    assert decoding_method(model) == "sliced"
    options: dict[str, Any] = {"num_beams": 7, "k": 7, "normalize": "vocabulary"}
    results = beam_search(model, PROMPTS, trie, tokens, **options)
    expected = generate(model, PROMPTS, trie, tokens, 7)
    for result, (sids, scores) in zip(results, expected, strict=True):
        assert_same(result, sids, scores, trie)


@pytest.mark.slow
def test_rotary_positions_of_a_decoder_are_given_to_it() -> None:
    """T5Gemma has rotary embeddings, windows and a soft cap in the configuration of its decoder."""
    trie, tokens = make((5, 6, 4), 60)
    part = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    part |= {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "sliding_window": 8}
    part["vocab_size"] = vocabulary(tokens)
    decoder = {**part, "is_decoder": True, "cross_attention_hidden_size": 32}
    config = AutoConfig.for_model("t5gemma", encoder=part, decoder=decoder, **part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval()
    model.config.decoder_start_token_id = 2
    assert decoding_method(model) == "sliced"
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    expected = path_scores(model, PROMPTS[1], codes, tokens, "level")
    (result,) = beam_search(model, PROMPTS[1:2], trie, tokens, num_beams=60, k=60)
    np.testing.assert_allclose(result.scores, expected[result.leaves], atol=1e-4)


def test_positions_that_no_tree_can_have_are_refused() -> None:
    """M2M100 counts positions by the tokens that are not padding."""
    trie, tokens, model = make_with_model((5, 6, 4), 60, "m2m_100")
    with pytest.raises(UsageError, match="does not support a 4-D attention mask"):
        beam_search(model, PROMPTS[:1], trie, tokens, num_beams=7, k=7)


def test_a_model_without_a_start_token_is_refused() -> None:
    trie, tokens = make((5, 6, 4), 60)
    model = tiny_encoder_decoder("t5", vocab_size=vocabulary(tokens))
    model.config.decoder_start_token_id = None
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(DataError, match="has no decoder_start_token_id"):
        beam_search(model, PROMPTS, trie, tokens, num_beams=3, k=3)
