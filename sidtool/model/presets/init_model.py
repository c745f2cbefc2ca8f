"""Creates untrained models: a configuration preset and a tokenizer trained on the catalog's text.

The result is a base model like any other; `extend-model` adds the SID tokens."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.model.presets.shapes import Preset, model_shape
from sidtool.model.pretrained import save_pretrained
from sidtool.model.structure import model_kind


def init_model(
    texts: Iterable[str],
    out: str | Path,
    *,
    preset: Preset = "gpt2-tiny",
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
        >>> shape = {"n_layer": 1, "n_embd": 16, "n_head": 2}
        >>> sidtool.init_model(titles, "small", vocab_size=300, overrides=shape)
        24352
    """
    if isinstance(texts, str):  # whose characters would be the texts
        raise UsageError(f"init_model takes texts, not {texts!r}", hint="use read_items(...).texts")
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    shape = model_shape(preset, overrides or {})
    tokenizer = train_tokenizer(texts, vocab_size)
    model = _random_model(shape, len(tokenizer), seed)
    with new_dir(out, force=force) as folder:
        save_pretrained(folder, model, tokenizer)
    return int(model.num_parameters())


def _random_model(shape: Mapping[str, Any], vocab_size: int, seed: int) -> Any:
    """A float32 model of this shape with random weights; the global random state is unchanged."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    keys = {key: value for key, value in shape.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(shape["model_type"], vocab_size=vocab_size, **keys)
        _check_settings(config, keys)
        has_encoder = model_kind(config) == "encoder-decoder"
        model_class = AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return model_class.from_config(config, dtype=torch.float32)
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


def _check_settings(config: Any, settings: Mapping[str, Any]) -> None:
    """Raise UsageError for a setting that a configuration replaces by a value of its own, as that
    of a T5 does with `tie_word_embeddings=False`."""
    for key, value in settings.items():
        actual = getattr(config, key, value)
        if isinstance(value, bool | int | float | str) and actual != value:
            raise UsageError(f"{config.model_type} has {key}={actual}, whatever is set")


PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
MIN_VOCABULARY = 256 + 3
"""One token per byte and three special tokens."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A lossless byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019).

    The same texts give the same tokenizer. `<|pad|>` 0, `<|bos|>` 1 and `<|eos|>` 2 are not added
    to texts. Raises UsageError if `vocab_size` is less than `MIN_VOCABULARY`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < MIN_VOCABULARY:
        raise UsageError(
            f"a vocabulary of {vocab_size} tokens is too small: bytes and special tokens need "
            f"{MIN_VOCABULARY}"
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
