"""A small bundle and a base model on disk."""

from pathlib import Path

import pytest
import torch

from sidtool.tokenizer.bundle.bundle import Bundle
from tests.model.cases import distinct_codes, make_bundle, make_codebook, save_base
from tests.models import tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def bundle() -> Bundle:
    return make_bundle(
        [f"item{n}" for n in range(20)], distinct_codes(20), codebook=make_codebook()
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tied Llama whose embedding matrix is exactly as long as its tokenizer."""
    tokenizer = tiny_tokenizer(chat=True)
    return save_base(tmp_path / "base", tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
