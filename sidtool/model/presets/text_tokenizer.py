"""A tokenizer trained on the catalog's text."""

from collections.abc import Iterable
from typing import Any

from sidtool.base.errors import UsageError

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
