from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model

from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import decoding_method
from tests.models import ARCHITECTURES, tiny_encoder_decoder, tiny_model
from tests.search_cases import assert_same, make, path_scores, tiny_causal_model, vocabulary

PROMPT = [9, 8, 7, 30, 31]
TRIE, TOKENS = make((5, 6, 4), 60)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}


def check(model: Any) -> None:
    """Compare a search over the whole catalog with the model's ordinary forward."""
    codes = TRIE.leaf_codes(np.arange(TRIE.n_leaves))
    for normalize in ("level", "vocabulary"):
        want = path_scores(model, PROMPT, codes, TOKENS, normalize)
        order = np.argsort(-want)
        options: Any = {"num_beams": 99, "k": 99, "normalize": normalize}
        (result,) = beam_search(model, [PROMPT], TRIE, TOKENS, **options)
        sids = [tuple(row) for row in codes[order].tolist()]
        assert_same(result, sids, want[order].tolist(), TRIE)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8, "sliding_window": 4}),
        ("cohere", {"logit_scale": 3.0}),
        ("granite", {"logits_scaling": 0.3}),
        ("phi", {}),  # a head with bias
        ("starcoder2", {"sliding_window": 4}),
        ("qwen3_moe", EXPERTS),
    ],
)
def test_soft_caps_scales_and_biases_are_applied(name: str, config: dict[str, Any]) -> None:
    model = tiny_causal_model(name, vocabulary(TOKENS), **config)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if name == "phi":
        bias.data.normal_(std=2.0)
    assert decoding_method(model) == "sliced"
    check(model)


def lora(*targets: str) -> LoraConfig:
    return LoraConfig(target_modules=list(targets), r=2)


def token_rows() -> TrainableTokensConfig:
    rows = list(range(TOKENS.start, TOKENS.stop))
    return TrainableTokensConfig(token_indices=rows, target_modules=["embed_tokens"])


@pytest.mark.parametrize(
    ("architecture", "tied", "config"),
    [
        ("qwen2", True, lora("q_proj", "v_proj")),
        ("qwen2", False, lora("q_proj", "v_proj", "lm_head")),
        # not the queries: T5's attention is not scaled, so large ones amplify rounding
        ("t5", False, lora("v", "lm_head")),
        pytest.param("mt5", False, lora("v", "lm_head"), marks=pytest.mark.slow),
        pytest.param("umt5", False, lora("v", "lm_head"), marks=pytest.mark.slow),
        pytest.param("bart", False, lora("v_proj", "lm_head"), marks=pytest.mark.slow),
        ("llama", True, token_rows()),
        ("llama", False, token_rows()),
        ("llama", False, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    ],
)
def test_adapters_are_applied(architecture: str, tied: bool, config: Any) -> None:
    make_model = tiny_model if architecture in ARCHITECTURES else tiny_encoder_decoder
    base = make_model(architecture, vocab_size=vocabulary(TOKENS), tied=tied)
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "trainable_tokens_delta", "modules_to_save")):
            torch.nn.init.normal_(parameter, std=0.5)
    check(model)
