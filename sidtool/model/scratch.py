"""A small model from nothing: a configuration preset and a tokenizer trained on the catalog's text.

For those who train from scratch, as TIGER does. Knows presets; knows nothing of semantic IDs: what
it writes is a base model like any other, and `extend-model` gives it the tokens."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sidtool.errors import UsageError
from sidtool.model.pretrained import save_pretrained
from sidtool.output import new_dir, refuse_existing

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
MIN_VOCABULARY = 256 + 3
"""One token a byte, and the three special ones."""

_SHARED = {"tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Dropout decides on catalogs of this size, and few have it on embeddings and residuals. On
# attention it stays
# off: it would leave the fused kernel, at 2.5 times the cost. GPT-2's own "gelu_new" is the same
# function as
# "gelu_pytorch_tanh", spelled as eight passes over memory instead of one: most of a small model's
# step on a CPU.
_GPT2 = {
    **_SHARED,
    "model_type": "gpt2",
    "n_positions": 1024,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
} | {
    "attn_pdrop": 0.0,
    "activation_function": "gelu_pytorch_tanh",
}
_LLAMA = {
    **_SHARED,
    "max_position_embeddings": 1024,
    "num_hidden_layers": 3,
    "hidden_size": 128,
} | {
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
# Places told by rotation (RoPE, J. Su et al. 2021): what an item says of the next one holds
# wherever in a history it
# stands, and has not to be learnt for every place. Of the models with RoPE this one has dropout
# where GPT-2 has it.
_NEOX = {
    **_SHARED,
    "model_type": "gpt_neox",
    "max_position_embeddings": 1024,
    "use_parallel_residual": False,
} | {
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
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2-tiny": {**_GPT2, "n_layer": 3, "n_embd": 128, "n_head": 4},
    "gpt2-mini": {**_GPT2, "n_layer": 4, "n_embd": 256, "n_head": 8},
    "neox-tiny": _NEOX,
    "qwen3-tiny": {**_LLAMA, "model_type": "qwen3", "head_dim": 32},
    "llama-tiny": {**_LLAMA, "model_type": "llama"},
}
"""Configurations by name, as keyword arguments of the transformers configuration of `model_type`.
"""


def init_model(
    out: Path,
    *,
    texts: Iterable[str],
    preset: str = "gpt2-tiny",
    vocab_size: int = 4096,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
) -> int:
    """Write an untrained model and its tokenizer to the folder `out`; returns the number of
    parameters.

    `vocab_size` is the most tokens the tokenizer may have; few texts make fewer. Models that only
    ever see semantic IDs need no more than 512. `overrides` go to the configuration. Raises
    UsageError on an unknown preset, on a key or value that the configuration does not take, or if
    `out` exists without `force`."""
    refuse_existing(out, force)
    shape = shape_of(preset, overrides or {})
    tokenizer = train_tokenizer(texts, vocab_size)
    model = _build(shape, len(tokenizer), seed)
    with new_dir(out, force=force) as folder:
        save_pretrained(folder, model, tokenizer)
    return int(model.num_parameters())


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019): any text in, the same
    text out.

    The same texts give the same tokenizer. `<|pad|>` 0, `<|bos|>` 1 and `<|eos|>` 2 are added to no
    text by themselves. Raises UsageError if `vocab_size` does not hold the bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < MIN_VOCABULARY:
        raise UsageError(
            f"a vocabulary of {vocab_size} does not hold the {MIN_VOCABULARY} bytes and special "
            "tokens"
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


def shape_of(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a preset with some keys changed. Raises UsageError as `init_model`."""
    from transformers import AutoConfig

    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}: there are {', '.join(PRESETS)}")
    if "vocab_size" in overrides or "model_type" in overrides:
        raise UsageError(
            "vocab_size follows from the tokenizer and model_type from the preset: neither is "
            "overridden"
        )
    shape = {**PRESETS[preset], **overrides}
    known = AutoConfig.for_model(shape["model_type"])
    unknown = sorted(key for key in overrides if not hasattr(known, key))
    if unknown:
        raise UsageError(f"{shape['model_type']} has no configuration key {', '.join(unknown)}")
    return shape


def _build(shape: Mapping[str, Any], vocab_size: int, seed: int) -> Any:
    """A model of this shape with random weights, in float32; the caller's random state stays as it
    is."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {key: value for key, value in shape.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(shape["model_type"], vocab_size=vocab_size, **own)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{shape['model_type']} refuses its configuration: {reason}") from error
