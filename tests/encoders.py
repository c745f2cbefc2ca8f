"""A sentence-transformers model of a few thousand random weights, made in process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidtool.base.progress import Progress
from sidtool.data import Vectors
from sidtool.tokenizer.encoder import Encoder, load_encoder


def embed(
    texts: Sequence[str],
    encoder: Encoder,
    *,
    cache: Path,
    devices: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Vectors, dict[str, Any]]:
    """The vectors of texts, and the encoder's record for a recipe."""
    loaded = load_encoder(encoder)
    vectors = loaded.vectors(texts, cache=cache, devices=devices, progress=progress)
    return vectors, dict(loaded.record)


def tiny_encoder(plain: Path, path: Path) -> Path:
    """Write BERT with mean pooling to `path`; `plain` is a folder for its parts. It has 16
    dimensions and letters as tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    (plain / "vocab.txt").write_text("\n".join(vocabulary))
    shape = {"hidden_size": 16, "intermediate_size": 32}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(plain)
    BertTokenizerFast(str(plain / "vocab.txt"), model_max_length=64).save_pretrained(plain)
    SentenceTransformer(str(plain), device="cpu").save(str(path), create_model_card=False)
    return path
