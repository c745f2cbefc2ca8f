import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidtool.base.errors import UsageError
from sidtool.model.extend import extend_model
from sidtool.model.load import load_model_folder
from sidtool.model.presets import MIN_VOCABULARY, Preset, init_model, model_shape, train_tokenizer
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.models import SENTENCES

TEXTS = (*SENTENCES, "Crème brûlée 🍮 für 3,50 €", "Nivea Nivea Nivea shampoo")


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=[] if name in ("neox-tiny", "t5-tiny") else pytest.mark.slow)
        for name in get_args(Preset)
    ],
)
def test_every_preset_can_be_extended_and_run(preset: str, bundle: Bundle, tmp_path: Path) -> None:
    count = init_model(TEXTS, tmp_path / "base", preset=preset, vocab_size=512)
    assert 4e5 < count < 5e6
    extend_model(str(tmp_path / "base"), bundle, tmp_path / "out")
    served = load_model_folder(tmp_path / "out")
    alone = train_tokenizer(TEXTS, 512)
    assert served.tokens.start == len(alone)
    assert served.tokenizer(list(TEXTS))["input_ids"] == alone(list(TEXTS))["input_ids"]
    ids = torch.from_numpy(served.tokens.ids(bundle.items.codes[:2]))
    inputs = {"input_ids": ids}
    if served.contract.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        assert torch.isfinite(served.model(**inputs).logits).all()
    assert served.model.get_output_embeddings().weight is served.model.get_input_embeddings().weight


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(ord(name))  # the caller's random state must not matter
        init_model(iter(TEXTS), tmp_path / name, vocab_size=300, seed=seed)
    read = {name: {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc"}
    assert read["a"] == read["b"]
    different = [name for name in read["a"] if read["a"][name] != read["c"][name]]
    assert different == ["model.safetensors"]


def test_a_setting_that_the_architecture_ignores_is_refused(tmp_path: Path) -> None:
    untied = {"tie_word_embeddings": False}
    with pytest.raises(UsageError, match="t5 has tie_word_embeddings=True, whatever is set"):
        init_model(TEXTS, tmp_path / "t5", preset="t5-tiny", vocab_size=300, overrides=untied)
    assert not (tmp_path / "t5").exists()


def test_the_random_state_of_the_caller_is_restored(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    init_model(TEXTS, tmp_path / "a", vocab_size=300)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("texts", [[], [""], ["a"]])
def test_few_texts_make_a_small_vocabulary(texts: list[str], tmp_path: Path) -> None:
    init_model(texts, tmp_path / "a", vocab_size=4096)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert len(tokenizer) == MIN_VOCABULARY
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").config.vocab_size == MIN_VOCABULARY
    assert tokenizer.decode(tokenizer("any text: ü")["input_ids"]) == "any text: ü"


TOKENIZER = train_tokenizer(TEXTS, 300)


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<|" not in text))
@settings(max_examples=30, deadline=None)
def test_any_text_is_decoded_as_it_was_encoded(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & {0, 1, 2}


def test_the_vocabulary_has_the_requested_size() -> None:
    assert len(TOKENIZER) == 300
    ids = (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id)
    assert ids == (0, 1, 2)


def test_overrides_reach_the_configuration(tmp_path: Path) -> None:
    changed = {"n_layer": np.int64(1), "resid_pdrop": 0.3, "tie_word_embeddings": False}
    size: Any = np.int64(300)
    init_model(TEXTS, tmp_path / "a", preset="gpt2-tiny", vocab_size=size, overrides=changed)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config.items() >= {**changed, "attn_pdrop": 0.0}.items()
    assert model_shape("llama-tiny", {"pad_token_id": 300}, 4096)["pad_token_id"] == 300


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"preset": "gpt9"}, "no preset 'gpt9': use one of gpt2-tiny"),
        ({"vocab_size": 100}, "a vocabulary of 100 tokens is too small"),
        ({"vocab_size": 1 << 40}, "a vocabulary of 1099511627776 tokens is too large"),
        ({"overrides": {"n_layers": 2}}, "gpt2 has no configuration key n_layers"),
        ({"overrides": {"num_hidden_layers": 0}}, "needs num_hidden_layers of at least 1, not 0"),
        ({"overrides": {"n_head": -1}}, "gpt2 needs n_head of at least 1, not -1"),
        (
            {"preset": "t5-tiny", "overrides": {"num_decoder_layers": 0}},
            "t5 needs num_decoder_layers of at least 1, not 0",
        ),
        ({"preset": "qwen3-tiny", "overrides": {"hidden_size": 0}}, "qwen3 needs hidden_size of"),
        ({"overrides": {"n_layer": "two"}}, "gpt2 refuses its configuration"),
        ({"overrides": {"n_head": 5}}, "gpt2 refuses its configuration"),
        ({"preset": "llama-tiny", "overrides": {"pad_token_id": 5000}}, "llama refuses its conf"),
        ({"overrides": {"vocab_size": 5}}, "vocab_size and model_type cannot be set"),
    ],
)
def test_invalid_settings_are_refused(kwargs: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        init_model(TEXTS, tmp_path / "a", **{"preset": "gpt2-tiny", **kwargs})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    if "vocab_size" not in kwargs:
        with pytest.raises(UsageError, match=message):
            model_shape(kwargs.get("preset", "gpt2-tiny"), kwargs.get("overrides", {}), 4096)


@pytest.mark.parametrize("kind", [str, Path])
def test_the_path_of_a_catalog_is_not_taken_for_its_texts(
    tmp_path: Path, kind: type[str | Path]
) -> None:
    with pytest.raises(UsageError, match=r"takes texts, not 'items\.jsonl'"):
        init_model(kind("items.jsonl"), tmp_path / "a")  # type: ignore[arg-type]
