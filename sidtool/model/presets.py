"""Creates untrained models: a preset of their shape, and a tokenizer trained on the catalog's text.

The result is a base model like any other; `extend-model` adds the SID tokens."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.options import plain
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.model.network.structure import model_kind
from sidtool.model.pretrained import save_pretrained

Preset = Literal[
    "gpt2-tiny", "gpt2-mini", "neox-tiny", "qwen3-tiny", "llama-tiny", "t5-tiny", "t5-tiger"
]

DEFAULT_PRESET: Preset = "neox-tiny"
"""The best of the small ones (benchmarks/ablation.md)."""

_SHARED = {"tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
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
_MAY_BE_ZERO = ("_token_id", "max_window_layers")
"""Ends of keys of configurations that are no sizes."""


def init_model(
    texts: Iterable[str],
    out: str | Path,
    *,
    preset: Preset = DEFAULT_PRESET,
    vocab_size: int = 4096,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
) -> int:
    """Write an untrained model and a tokenizer trained on `texts` to the folder `out`.

    `vocab_size` is the maximum number of tokens of the tokenizer; few texts give fewer. `overrides`
    are keys of the configuration. Returns the number of parameters. Raises UsageError for a key or
    value that the configuration refuses, or if `out` exists without `force`.

    Examples:
        >>> titles = sidtool.read_items("items.jsonl").texts
        >>> shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
        >>> sidtool.init_model(titles, "small", vocab_size=300, overrides=shape)
        22752
    """
    if isinstance(texts, str | Path):  # of a str, the characters would be the texts
        raise UsageError(
            f"init_model takes texts, not {str(texts)!r}", hint="use read_items(...).texts"
        )
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    vocab_size, overrides = plain(vocab_size), plain(dict(overrides or {}))
    shape = model_shape(preset, overrides, vocab_size)
    tokenizer = train_tokenizer(texts, vocab_size)
    model = _random_model(shape, len(tokenizer), seed)
    with new_dir(out, force=force) as folder:
        save_pretrained(folder, model, tokenizer)
    return int(model.num_parameters())


def preset_fields(preset: Preset) -> Mapping[str, Any]:
    """The configuration of a preset, `model_type` included. Raises UsageError for another name."""
    if preset not in _PRESETS:
        raise UsageError(f"no preset {preset!r}: use one of {', '.join(get_args(Preset))}")
    return _PRESETS[preset]


def model_shape(preset: Preset, overrides: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The configuration of a preset with some keys changed. Raises UsageError for unknown keys, for
    a number of layers, a width or another size below 1, and for what a model refuses."""
    require("models")
    import torch
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
    for key, value in overrides.items():
        usual = getattr(config, key)
        is_size = type(usual) is int and usual > 0 and not key.endswith(_MAY_BE_ZERO)
        if is_size and type(value) is int and value < 1:
            raise UsageError(f"{shape['model_type']} needs {key} of at least 1, not {value}")
    with torch.device("meta"):  # without weights
        _random_model(shape, vocab_size, seed=0)
    return shape


def _random_model(shape: Mapping[str, Any], vocab_size: int, seed: int) -> Any:
    """A float32 model of this shape with random weights; the global random state is unchanged."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    keys = {key: value for key, value in shape.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(shape["model_type"], vocab_size=vocab_size, **keys)
        for key, value in keys.items():
            # that of a T5 replaces `tie_word_embeddings=False` by a value of its own
            actual = getattr(config, key, value)
            if isinstance(value, bool | int | float | str) and actual != value:
                raise UsageError(f"{config.model_type} has {key}={actual}, whatever is set")
        has_encoder = model_kind(config) == "encoder-decoder"
        model_class = AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return model_class.from_config(config, dtype=torch.float32)
    except (
        StrictDataclassError,
        AssertionError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{shape['model_type']} refuses its configuration: {reason}") from error


PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
MIN_VOCABULARY = 256 + 3
"""One token per byte and three special tokens."""
MAX_VOCABULARY = 1 << 22
"""The trainer reserves memory for as many tokens; the largest known vocabulary has 262,144."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A lossless byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019).

    The same texts give the same tokenizer. `<|pad|>` 0, `<|bos|>` 1 and `<|eos|>` 2 are not added
    to texts. Raises UsageError for a `vocab_size` that is not from `MIN_VOCABULARY` to
    `MAX_VOCABULARY`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if not MIN_VOCABULARY <= vocab_size <= MAX_VOCABULARY:
        size = "too small" if vocab_size < MIN_VOCABULARY else "too large"
        raise UsageError(
            f"a vocabulary of {vocab_size} tokens is {size}: bytes and special tokens need "
            f"{MIN_VOCABULARY}, and at most {MAX_VOCABULARY} fit"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )
