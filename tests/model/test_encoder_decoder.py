import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForMaskedLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    T5Config,
    T5EncoderModel,
)

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.model.contract.folder import read_contract
from sidtool.model.copies import carry_model
from sidtool.model.extend import ExtendOptions, extend_model
from sidtool.model.load import load_model_folder
from sidtool.model.network.structure import (
    check_positions,
    embedding_layers,
    freeze_unread_embeddings,
    vocabulary_weights,
)
from sidtool.model.presets import init_model
from sidtool.model.pretrained import Checkpoint, load_model
from sidtool.model.prompt.segments import catalog, prompt_encoder, sids, template
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.model.cases import distinct_codes, make_bundle, make_codebook, save_base
from tests.models import ENCODER_DECODERS, SENTENCES, tiny_encoder_decoder, tiny_tokenizer, unsigned

PROMPTS = torch.arange(24).reshape(2, 12) + 5
ANSWERS = torch.arange(8).reshape(2, 4) + 40


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=PROMPTS, decoder_input_ids=ANSWERS).logits


def extended(
    folder: Path, bundle: Bundle, architecture: str, *, tied: bool = True, padding: int = 0
) -> Any:
    """A base model as it was saved; the model `out` has the tokens of the bundle."""
    tokenizer = tiny_tokenizer()
    model = tiny_encoder_decoder(architecture, vocab_size=len(tokenizer) + padding, tied=tied)
    save_base(folder / "base", model, tokenizer)
    extend_model(folder / "base", bundle, folder / "out")
    return model


@pytest.mark.parametrize(
    ("architecture", "tied", "padding"),
    [
        ("t5", True, 0),
        ("t5", False, 5),
        ("mt5", False, 200),
        ("umt5", True, 5),
        ("bart", True, 200),
        ("bart", False, 0),
    ],
)
def test_old_logits_stay_and_every_embedding_gets_rows(
    architecture: str, tied: bool, padding: int, bundle: Bundle, tmp_path: Path
) -> None:
    before = extended(tmp_path, bundle, architecture, tied=tied, padding=padding)
    served = load_model_folder(tmp_path / "out")
    tokens = served.tokens
    start = tokens.start
    torch.testing.assert_close(logits(served.model)[..., :start], logits(before)[..., :start])
    n_rows = max(start + padding, tokens.stop)
    assert served.model.config.vocab_size == n_rows
    weights = vocabulary_weights(served.model)
    # an untied BART has its own embeddings in encoder and decoder, and a shared one besides
    untied = 4 if architecture == "bart" else 2
    assert len(weights) == (1 if tied else untied)
    for weight in weights:
        rows = weight[tokens.start : tokens.stop].detach().numpy()
        assert len(weight) == n_rows
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert np.isfinite(rows).all()
    bias = getattr(served.model, "final_logits_bias", None)
    if bias is not None:
        mean = before.final_logits_bias[0, :start].mean()
        added = bias[0, tokens.start : tokens.stop]
        torch.testing.assert_close(added, mean.expand(tokens.stop - start))


def test_contract_and_generation_config_say_what_the_model_is(
    bundle: Bundle, tmp_path: Path
) -> None:
    extended(tmp_path, bundle, "bart")
    assert read_contract(tmp_path / "out").kind == "encoder-decoder"
    assert json.loads((tmp_path / "out" / "sid.json").read_text())["kind"] == "encoder-decoder"
    config = load_model_folder(tmp_path / "out").model.generation_config
    assert (config.decoder_start_token_id, config.do_sample, config.num_beams) == (2, False, 1)
    assert config.forced_eos_token_id is None


def test_weights_of_another_kind_than_recorded_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    extended(tmp_path, bundle, "t5")
    unsigned(tmp_path / "out", kind="causal")
    with pytest.raises(CompatibilityError, match="encoder-decoder weights, its contract says cau"):
        load_model_folder(tmp_path / "out")


def test_a_model_without_decoder_start_is_refused(tmp_path: Path, refusal: Any) -> None:
    save_base(tmp_path / "base", tiny_encoder_decoder("t5", vocab_size=600), tiny_tokenizer())
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "base" / name
        if path.exists():
            config = json.loads(path.read_text())
            config.pop("decoder_start_token_id", None)
            path.write_text(json.dumps(config))
    refusal(DataError, "has no decoder_start_token_id", tmp_path / "base")


def test_models_of_encoders_alone_and_pairs_of_models_are_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert, encoder, decoder = (BertConfig(vocab_size=600, **shape) for _ in range(3))
    t5 = T5Config(vocab_size=600, d_model=32, d_ff=32, num_layers=1, num_heads=2)
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    for name, model, message in (
        ("bert", BertForMaskedLM(bert), r"encoder-only model \(bert\), which writes no text"),
        ("t5", T5EncoderModel(t5), r"encoder-only model \(t5\), which writes no text"),
        ("pair", EncoderDecoderModel(pair), "is a pair of two models, each with a vocabulary of"),
    ):
        save_base(tmp_path / name, model, tiny_tokenizer())
        with pytest.raises(DataError, match=message):
            load_model(Checkpoint(tmp_path / name))


def test_halves_with_configurations_of_their_own_grow(bundle: Bundle, tmp_path: Path) -> None:
    """T5Gemma has the number of its tokens in three places."""
    part = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    part |= {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
    part["vocab_size"] = len(tiny_tokenizer())
    config = AutoConfig.for_model("t5gemma", encoder=part, decoder=part, **part)
    config.decoder_start_token_id = 2
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval()
    save_base(tmp_path / "base", model, tiny_tokenizer())
    options = ExtendOptions(user_tokens=3)
    contract = extend_model(str(tmp_path / "base"), bundle, tmp_path / "out", options)
    served = load_model_folder(tmp_path / "out").model
    ids = torch.arange(8).reshape(2, 4)
    with torch.no_grad():
        before = model(input_ids=ids, decoder_input_ids=ids).logits
        after = served(input_ids=ids, decoder_input_ids=ids).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    assert after.shape[-1] == contract.added_ids.stop


def test_a_gguf_file_of_an_encoder_decoder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import modeling_gguf_pytorch_utils

    from sidtool.model import pretrained

    settings = {"config": {"model_type": "t5"}}
    monkeypatch.setattr(modeling_gguf_pytorch_utils, "load_gguf_checkpoint", lambda _: settings)
    monkeypatch.setattr(pretrained, "check_model", lambda *_, **__: object())
    monkeypatch.setattr(pretrained, "loading", lambda *_: pretrained._quiet())
    with pytest.raises(DataError, match=r"x\.gguf is an encoder-decoder model \(t5\)"):
        load_model(Checkpoint(tmp_path, gguf="x.gguf"))


@pytest.mark.parametrize(("architecture", "tied"), [("mt5", True), ("bart", False)])
def test_rows_are_carried_in_every_embedding(
    architecture: str, tied: bool, bundle: Bundle, tmp_path: Path
) -> None:
    extended(tmp_path, bundle, architecture, tied=tied)
    aligned = make_bundle(
        [f"item{n}" for n in range(20)],
        distinct_codes(20, seed=1),
        codebook=make_codebook(1),
        compatible_with=(bundle.identity.codebook,),
    )
    verdict = carry_model(tmp_path / "out", aligned, tmp_path / "carried")
    assert verdict.kind == "aligned"
    old = vocabulary_weights(load_model_folder(tmp_path / "out").model)
    carried = vocabulary_weights(load_model_folder(tmp_path / "carried").model)
    start = read_contract(tmp_path / "out").token_start
    for before, after in zip(old, carried, strict=True):
        assert torch.equal(before[:start], after[:start])
        assert not torch.equal(before[start:], after[start:])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_every_weight_that_is_not_frozen_gets_a_gradient(architecture: str, tied: bool) -> None:
    model = tiny_encoder_decoder(architecture, vocab_size=60, tied=tied)
    freeze_unread_embeddings(model)
    model(input_ids=PROMPTS, decoder_input_ids=ANSWERS).logits.logsumexp(-1).sum().backward()
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    expected = {"model.shared.weight"} if architecture == "bart" and not tied else set()
    assert frozen == without == expected


def t5_tokenizer() -> Any:
    """T5's own class: Unigram tokens, sentinels, an end token behind every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(SENTENCES, trainer)
    scores = json.loads(trained.to_str())["model"]["vocab"]
    return T5Tokenizer(vocab=[tuple(pair) for pair in scores], extra_ids=5)


def test_the_tokenizer_of_t5_gets_sid_and_user_tokens(bundle: Bundle, tmp_path: Path) -> None:
    tokenizer = t5_tokenizer()
    start = len(tokenizer)
    # as t5-small, which has 28 rows more than tokens
    model = tiny_encoder_decoder("t5", vocab_size=start + 28)
    save_base(tmp_path / "base", model, tokenizer)
    extend_model(str(tmp_path / "base"), bundle, tmp_path / "out", ExtendOptions(user_tokens=7))
    loaded = load_model_folder(tmp_path / "out")
    tokens, users = loaded.tokens, loaded.contract.users
    assert (tokens.start, users.stop) == (start, len(loaded.tokenizer))
    assert loaded.model.config.vocab_size == max(start + 28, users.stop)
    text = "The user has bought"
    assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    codes = bundle.items.codes[:2]
    encoder = prompt_encoder(loaded.tokenizer, tokens)
    title = catalog("<user_3> a red <s_a_1> lipstick</s>")
    ids = encoder.ids([template(text), sids(bundle.space, codes), title])
    assert ids.count(tokenizer.eos_token_id) == 0
    added = [token_id for token_id in ids if token_id >= start]
    assert added == tokens.ids(codes).ravel().tolist()


def test_the_shape_of_tiger(tmp_path: Path) -> None:
    """Weights of 4 + 4 layers, counted from the paper's shape: attention 4 x 128 x 384, twice in a
    decoder layer, feed-forward 2 x 128 x 1024, norms, and the tables of relative positions."""
    attention, feed_forward = 4 * 128 * 384, 2 * 128 * 1024
    norms = 128 * (4 * 2 + 4 * 3 + 2)
    layers = 4 * (attention + feed_forward) + 4 * (2 * attention + feed_forward)
    count = init_model(SENTENCES, tmp_path / "base", preset="t5-tiger", vocab_size=300)
    assert count == layers + norms + 2 * 32 * 6 + 300 * 128
    model = load_model(Checkpoint(tmp_path / "base"))
    assert (model.config.dropout_rate, model.config.dense_act_fn) == (0.1, "relu")
    assert len({id(layer.weight) for layer in embedding_layers(model)}) == 1


def test_a_prompt_may_be_as_long_as_the_encoder_reads() -> None:
    """LED counts the positions of its halves apart."""
    shape = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 8}
    model = SimpleNamespace(config=AutoConfig.for_model("led", **shape))
    check_positions(model, 64, 9)
    with pytest.raises(DataError, match="a prompt has 65 tokens, the model has 64 positions"):
        check_positions(model, 65, 1)


SHORT = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("fsmt", {"langs": ["en", "de"], **SHORT}, "cannot be used: its FSMTEncoder does not say"),
        # it has vocabularies of two sizes, one of which does not grow
        ("marian", {"pad_token_id": 0, **SHORT}, "MarianMTModel with more tokens would not load"),
        pytest.param(
            "reformer",
            {"is_decoder": True, "hidden_size": 16, "axial_pos_embds_dim": [8, 8]},
            "ReformerModelWithLMHead cannot be written: The weights trying to be saved",
            marks=pytest.mark.skipif(
                Version(transformers.__version__) < Version("5.24"),
                reason="older versions write it",
            ),
        ),
    ],
)
def test_an_architecture_that_cannot_be_extended_is_refused(
    tmp_path: Path, refusal: Any, kind: str, shape: dict[str, Any], message: str
) -> None:
    tokenizer = tiny_tokenizer()
    n = len(tokenizer)
    sizes = {"src_vocab_size": n, "tgt_vocab_size": n} if kind == "fsmt" else {"vocab_size": n}
    config = AutoConfig.for_model(kind, **shape, **sizes)
    model_class = AutoModelForCausalLM if kind == "reformer" else AutoModelForSeq2SeqLM
    base = save_base(tmp_path / kind, model_class.from_config(config), tokenizer)
    refusal(CompatibilityError, message, base)
