"""The shapes of untrained models: keyword arguments of configurations of transformers."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from sidtool.base.errors import UsageError
from sidtool.base.extras import require

Preset = Literal[
    "gpt2-tiny", "gpt2-mini", "neox-tiny", "qwen3-tiny", "llama-tiny", "t5-tiny", "t5-tiger"
]

_SHARED = {
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Small catalogs need dropout on embeddings and residuals. Dropout on attention weights stays off:
# it would disable the fused kernel, at 2.5 times the cost. "gelu_pytorch_tanh" is the function of
# GPT-2's "gelu_new" in one pass over memory instead of eight.
_GPT2 = {
    **_SHARED,
    "model_type": "gpt2",
    "n_positions": 1024,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.0,
    "activation_function": "gelu_pytorch_tanh",
}
_LLAMA = {
    **_SHARED,
    "max_position_embeddings": 1024,
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
# Rotary embeddings (RoPE, J. Su et al. 2021) encode the distance of two items, wherever they are in
# a history. GPT-NeoX is the RoPE architecture with dropout on embeddings and residuals.
_NEOX = {
    **_SHARED,
    "model_type": "gpt_neox",
    "max_position_embeddings": 1024,
    "use_parallel_residual": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    "hidden_dropout": 0.1,
    "attention_dropout": 0.0,
    "hidden_act": "gelu_pytorch_tanh",
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
}
_T5 = {
    **_SHARED,
    "model_type": "t5",
    "decoder_start_token_id": 0,
    "feed_forward_proj": "relu",
    "dropout_rate": 0.1,
    "d_model": 128,
}
# The shape of TIGER's paper (S. Rajput et al., arXiv:2305.05065, section 4): four layers in encoder
# and decoder each, six heads of 64, ReLU. Its 13 million parameters do not follow from that shape.
_TIGER = {**_T5, "num_layers": 4, "num_heads": 6, "d_kv": 64, "d_ff": 1024}
_PRESETS: Mapping[Preset, dict[str, Any]] = {
    "gpt2-tiny": {**_GPT2, "n_layer": 3, "n_embd": 128, "n_head": 4},
    "gpt2-mini": {**_GPT2, "n_layer": 4, "n_embd": 256, "n_head": 8},
    "neox-tiny": _NEOX,
    "qwen3-tiny": {**_LLAMA, "model_type": "qwen3", "head_dim": 32},
    "llama-tiny": {**_LLAMA, "model_type": "llama"},
    "t5-tiny": {**_T5, "num_layers": 2, "num_heads": 4, "d_kv": 32, "d_ff": 512},
    "t5-tiger": _TIGER,
}
"""Keyword arguments of the transformers configuration of `model_type`."""


def preset_fields(preset: Preset) -> Mapping[str, Any]:
    """The configuration of a preset, `model_type` included. Raises UsageError for another name."""
    if preset not in _PRESETS:
        raise UsageError(f"no preset {preset!r}: use one of {', '.join(get_args(Preset))}")
    return _PRESETS[preset]


def model_shape(preset: Preset, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a preset with some keys changed. Raises UsageError for unknown keys."""
    require("models")
    from transformers import AutoConfig

    fields = preset_fields(preset)
    if "vocab_size" in overrides or "model_type" in overrides:
        raise UsageError(
            "vocab_size and model_type cannot be set: they follow from the tokenizer and the preset"
        )
    shape = {**fields, **overrides}
    config = AutoConfig.for_model(shape["model_type"])
    unknown = sorted(key for key in overrides if not hasattr(config, key))
    if unknown:
        raise UsageError(f"{shape['model_type']} has no configuration key {', '.join(unknown)}")
    return shape
