"""Partial heads apply everything that the whole head applies."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model

from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import decoding_method
from tests.models import tiny_encoder_decoder, tiny_model
from tests.recommendation.search.cases import (
    assert_same,
    make,
    path_scores,
    tiny_causal_model,
    vocabulary,
)

PROMPT = [9, 8, 7, 30, 31]


def check(
    model: Any,
    trie: Any,
    tokens: SidTokens,
    *,
    normalizes: tuple[str, ...] = ("level", "vocabulary"),
) -> None:
    """Compare a search over the whole catalog with the model's ordinary forward."""
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    for normalize in normalizes:
        want = path_scores(model, PROMPT, codes, tokens, normalize)
        order = np.argsort(-want)
        (result,) = beam_search(
            model, [PROMPT], trie, tokens, num_beams=99, k=99, normalize=normalize
        )
        assert_same(
            result, [tuple(row) for row in codes[order].tolist()], want[order].tolist(), trie
        )


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8, "sliding_window": 4}),
        ("cohere", {"logit_scale": 3.0}),
        ("granite", {"logits_scaling": 0.3}),
        ("phi", {}),  # a head with bias
        ("starcoder2", {"sliding_window": 4}),
        (
            "qwen3_moe",
            {
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 16,
                "head_dim": 8,
            },
        ),
    ],
)
def test_soft_caps_scales_and_biases_are_applied(name: str, config: dict[str, Any]) -> None:
    trie, tokens = make((5, 6, 4), 60)
    model = tiny_causal_model(name, vocabulary(tokens), **config)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if name == "phi":
        assert bias is not None
        bias.data.normal_(std=2.0)
    assert decoding_method(model) == "sliced"
    check(model, trie, tokens)


def _shake(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "lora_" in name or "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_on_layers_and_head_is_applied(tied: bool) -> None:
    trie, tokens = make((5, 6, 4), 60)
    base = tiny_model("qwen2", vocab_size=vocabulary(tokens), tied=tied)
    targets = ["q_proj", "v_proj"] if tied else ["q_proj", "v_proj", "lm_head"]
    model = get_peft_model(base, LoraConfig(target_modules=targets, r=2)).eval()
    _shake(model)
    check(model, trie, tokens)


@pytest.mark.parametrize(
    "architecture",
    ["t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mt5", "umt5", "bart"))],
)
def test_lora_on_an_encoder_decoder_is_applied(architecture: str) -> None:
    trie, tokens = make((5, 6, 4), 60)
    base = tiny_encoder_decoder(architecture, vocab_size=vocabulary(tokens), tied=False)
    # not the queries: T5's attention is not scaled, so large ones amplify rounding
    values = "v_proj" if architecture == "bart" else "v"
    model = get_peft_model(base, LoraConfig(target_modules=[values, "lm_head"], r=2)).eval()
    _shake(model)
    check(model, trie, tokens)


@pytest.mark.parametrize("tied", [True, False])
def test_trainable_token_rows_are_applied(tied: bool) -> None:
    trie, tokens = make((5, 6, 4), 60)
    base = tiny_model("llama", vocab_size=vocabulary(tokens), tied=tied)
    rows = list(range(tokens.start, tokens.stop))
    model = get_peft_model(
        base, TrainableTokensConfig(token_indices=rows, target_modules=["embed_tokens"])
    ).eval()
    _shake(model)
    check(model, trie, tokens)


def test_a_head_saved_as_a_whole_module_is_applied() -> None:
    trie, tokens = make((5, 6, 4), 60)
    base = tiny_model("llama", vocab_size=vocabulary(tokens), tied=False)
    model = get_peft_model(
        base, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    ).eval()
    for name, parameter in model.named_parameters():
        if "lm_head" in name and "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.7)
    check(model, trie, tokens)
