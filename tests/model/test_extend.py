import json
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    RefusedError,
    UsageError,
)
from sidtool.model.contract.folder import read_contract
from sidtool.model.contract.stage_record import ExtendParams
from sidtool.model.extend import ExtendOptions, Init, extend_model
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.prompt.template_slots import value_text
from sidtool.model.vocabulary.tokens import FieldTokenLookup
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.sid import SPELLINGS, SidSpace
from tests.model.cases import distinct_codes, make_bundle, make_codebook, save_base
from tests.models import ARCHITECTURES, tiny_encoder_decoder, tiny_model, tiny_tokenizer

Refusal = Callable[..., Any]
TEXT = "Which item comes next? Toy Story (1995) is a film"


def saved(folder: Path, tokenizer: Any, model: Any = None) -> Path:
    """A base model on disk, by default a Qwen3 with a row for each token."""
    model = model or tiny_model("qwen3", vocab_size=len(tokenizer))
    return save_base(folder / "base", model, tokenizer)


def extended(base: Path, bundle: Bundle, options: ExtendOptions | None = None) -> LoadedModel:
    """The base with the tokens of the bundle, which is written beside it, loaded."""
    extend_model(str(base), bundle, base.with_name("out"), options)
    return load_model_folder(base.with_name("out"))


def logits(model: Any, tokenizer: Any, text: str = TEXT) -> torch.Tensor:
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return model(ids).logits[0]


@pytest.mark.parametrize(
    ("architecture", "tied"), list(zip(ARCHITECTURES, cycle([True, False]), strict=False))
)
def test_old_logits_stay_and_new_embedding_rows_differ(
    architecture: str, tied: bool, bundle: Bundle, tmp_path: Path
) -> None:
    start = len(tiny_tokenizer())
    before = tiny_model(architecture, vocab_size=start, tied=tied)
    base = saved(tmp_path, tiny_tokenizer(), before)
    tokenizer = AutoTokenizer.from_pretrained(base)  # Qwen2's own class, which adds a token
    served = extended(base, bundle)
    tokens, model = served.tokens, served.model
    assert tokens.start == len(tokenizer)
    assert model.config.vocab_size == tokens.stop
    assert served.tokenizer(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    extended_logits = logits(model, served.tokenizer)[:, :start]
    torch.testing.assert_close(extended_logits, logits(before, tokenizer))
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embeddings) == tied
    for matrix in (head, embeddings):
        rows = matrix[tokens.start : tokens.stop].detach().numpy()
        assert len(rows) == len(bundle.space.tokens)
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("padding", "tied"),
    [(5, True), (200, False)],
    ids=["block reaches past the padding", "block fits into the padding"],
)
def test_padded_embedding_rows_are_overwritten_and_the_matrix_never_shrinks(
    padding: int, tied: bool, bundle: Bundle, tmp_path: Path
) -> None:
    """Qwen has more rows than tokens: the block starts at len(tokenizer), inside the matrix."""
    start = len(tiny_tokenizer())
    before = tiny_model("qwen3", vocab_size=start + padding, tied=tied)
    model = extended(saved(tmp_path, tiny_tokenizer(), before), bundle).model
    stop = start + len(bundle.space.tokens)
    assert model.config.vocab_size == max(start + padding, stop)
    pairs = [
        (before.get_input_embeddings(), model.get_input_embeddings()),
        (before.get_output_embeddings(), model.get_output_embeddings()),
    ]
    for old, new in pairs:
        assert (old.weight[start : start + 5] != new.weight[start : start + 5]).any(dim=1).all()
        assert torch.equal(old.weight[:start], new.weight[:start])
        assert torch.equal(old.weight[stop:], new.weight[stop : len(old.weight)])


def test_the_seed_determines_the_embedding_rows(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    def rows(seed: int, name: str) -> torch.Tensor:
        torch.manual_seed(len(name))  # the caller's random state must not matter
        extend_model(base, bundle, tmp_path / name, ExtendOptions(seed=seed))
        served = load_model_folder(tmp_path / name)
        return served.model.get_input_embeddings().weight[served.tokens.start :].detach()

    first = rows(3, "a")
    assert torch.equal(first, rows(3, "another"))
    assert not torch.equal(first, rows(4, "b"))
    assert read_contract(tmp_path / "a").params == ExtendParams("codebook", 3)


@pytest.mark.parametrize(("init", "tied"), [("codebook", True), ("mean", False), ("random", False)])
def test_the_scale_is_that_of_every_matrix(
    init: Init, tied: bool, bundle: Bundle, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model("qwen2", vocab_size=len(tokenizer), tied=tied)
    base = saved(tmp_path, tokenizer, model)
    distances = []
    for scale in (1.0, 0.25):
        out = tmp_path / f"scale-{scale}"
        contract = extend_model(base, bundle, out, ExtendOptions(init=init, init_scale=scale))
        assert contract.params == ExtendParams(init, 0, scale)
        served = load_model_folder(out).model
        matrix_norms = []
        for layer in (served.get_input_embeddings(), served.get_output_embeddings()):
            weight = layer.weight.detach()
            offsets = weight[contract.token_start :] - weight[: contract.token_start].mean(dim=0)
            matrix_norms.append(offsets.norm(dim=1))
        distances.append(torch.stack(matrix_norms))
    torch.testing.assert_close(distances[1], distances[0] / 4, rtol=5e-3, atol=1e-5)


def test_a_seed_that_torch_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="seed must be at most 18446744073709551615, not 184"):
        ExtendOptions(seed=1 << 64)


def test_values_have_tokens_as_prompts_show_them(
    bundle: Bundle, base: Path, tmp_path: Path
) -> None:
    values = {"user.age": ("4.0", "2.50"), "user.city": (" New  York",)}
    contract = extend_model(base, bundle, tmp_path / "out", field_tokens=values)
    assert contract.field_tokens == {"user.age": ("4", "2.5"), "user.city": ("New York",)}
    shown = value_text(4.0)  # a number of a split
    assert FieldTokenLookup(contract.field_tokens).text("user.age", shown) == "<field_0>"
    with pytest.raises(UsageError, match="are different texts"):
        extend_model(base, bundle, tmp_path / "new", field_tokens={"user.age": ("4", "4.0")})


def test_the_contract_names_bundle_and_base(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    import hashlib

    contract = extend_model(str(base), bundle, tmp_path / "out", ExtendOptions(license=""))
    assert contract == read_contract(tmp_path / "out")
    assert (contract.identity, contract.history_prompt) == (bundle.identity, None)
    assert contract.license is None
    assert (contract.stages[-1].stage, contract.base_model) == ("extend", str(base))
    weights = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert contract.base_weights == {"model.safetensors": weights}
    assert Bundle.open(tmp_path / "out" / "sid.zarr").identity == bundle.identity


def test_other_libraries_load_the_result(made: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    written = model.generate(**tokenizer(TEXT, return_tensors="pt"), max_new_tokens=3)
    assert written.shape[1] > len(tokenizer(TEXT)["input_ids"])
    assert tokenizer.chat_template == tiny_tokenizer(chat=True).chat_template


def test_sid_tokens_are_ordinary_lossless_tokens(bundle: Bundle, made: Path) -> None:
    served = load_model_folder(made)
    tokenizer, tokens = served.tokenizer, served.tokens
    codes = bundle.items.codes[:3]
    text = "".join(bundle.space.spell(row, begin_end_tokens=True) for row in codes)
    assert tokenizer(text)["input_ids"] == tokens.ids(codes).ravel().tolist()
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    spaced = f"next: {text} , then"
    assert tokenizer.decode(tokenizer(spaced)["input_ids"]) == spaced
    apart = tokenizer("next: ")["input_ids"] + tokenizer(text)["input_ids"]
    assert tokenizer("next: " + text)["input_ids"] == apart


def test_a_vocabulary_without_begin_and_end_tokens(base: Path) -> None:
    space = SidSpace((8, 4, 6), **SPELLINGS["minionerec"])  # type: ignore[arg-type]
    bundle = make_bundle(["a", "b"], distinct_codes(2), codebook=make_codebook(), space=space)
    served = extended(base, bundle)
    assert served.tokens.stop - served.tokens.start == 18
    assert served.tokens.begin is None


def test_sampling_settings_are_removed(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    sampler = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8}
    sampler |= {"repetition_penalty": 1.1}
    settings = {**sampler, "eos_token_id": [2, 4], "num_beams": 3}
    (base / "generation_config.json").write_text(json.dumps(settings))
    extend_model(str(base), bundle, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    stored.pop("transformers_version")
    ids = {"bos_token_id": 1, "eos_token_id": [2, 4], "pad_token_id": 0}
    assert stored == {"do_sample": False, "num_beams": 1, **ids}
    assert not set(sampler) & set(json.loads((tmp_path / "out" / "config.json").read_text()))


@pytest.mark.parametrize("asked", [None, "float32"])
def test_the_checkpoint_sets_the_dtype(asked: str | None, bundle: Bundle, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    half = tiny_model("qwen3", vocab_size=len(tokenizer)).to(torch.bfloat16)
    base = saved(tmp_path, tokenizer, half)
    extend_model(base, bundle, tmp_path / "out", ExtendOptions(dtype=asked))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == (torch.float32 if asked else torch.bfloat16)
    rows = model.get_input_embeddings().weight[len(tokenizer) :].detach().float().numpy()
    # bfloat16 has not rounded them together
    assert len(np.unique(rows, axis=0)) == len(bundle.space.tokens)


def test_codebook_init_needs_a_codebook(base: Path, refusal: Refusal) -> None:
    bare = make_bundle(["a", "b"], distinct_codes(2), codebook=None)
    assert "--init random" in refusal(UsageError, "no codebook", base, bare).shell_hint
    assert extended(base, bare, ExtendOptions(init="random")).bundle.codebook is None


def test_an_appended_level_gets_embedding_rows(base: Path) -> None:
    space = SidSpace((8, 4, 6, 5))
    codes = distinct_codes(10, sizes=space.sizes)
    facts = {"codebook": make_codebook(), "space": space, "policy": "append"}
    bundle = make_bundle([f"i{n}" for n in range(10)], codes, **facts)  # type: ignore[arg-type]
    served = extended(base, bundle)
    rows = served.model.get_input_embeddings().weight[served.tokens.start :].detach().numpy()
    assert len(np.unique(rows, axis=0)) == len(space.tokens)


@pytest.mark.parametrize("where", ["added", "vocabulary"])
def test_a_token_that_exists_already_is_refused(
    where: str, refusal: Refusal, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    if where == "added":
        tokenizer.add_tokens(["<s_b_2>"])
    else:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["model"]["vocab"]["<s_b_2>"] = len(tokenizer)
        backend = tokenizer.backend_tokenizer.from_str(json.dumps(state))
        tokenizer = type(tokenizer)(tokenizer_object=backend)
    message = "already has 1 of the 20 SID tokens: <s_b_2> has id"
    refused = refusal(CompatibilityError, message, saved(tmp_path, tokenizer))
    assert "sidtool adopt" in refused.shell_hint


def test_a_model_is_extended_once(made: Path, refusal: Refusal) -> None:
    refusal(CompatibilityError, r"has a SID vocabulary already \(sid\.json\)", made)


def test_an_output_is_replaced_only_with_force(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sid.json").write_text("old")
    with pytest.raises(UsageError, match="exists already"):
        extend_model(str(base), bundle, out)
    assert (out / "sid.json").read_text() == "old"
    extend_model(str(base), bundle, out, force=True)
    assert (out / "sid.json").read_text() != "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_a_head_with_a_bias_is_extended(bundle: Bundle, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    start = len(tokenizer)
    shape = {"hidden_size": 32, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model("phi", vocab_size=start, **shape)
    before = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(before.lm_head.bias)
    model = extended(saved(tmp_path, tokenizer, before), bundle).model
    torch.testing.assert_close(logits(model, tokenizer)[:, :start], logits(before, tokenizer))
    assert torch.allclose(model.lm_head.bias[start:], before.lm_head.bias.mean())


class TestWhatIsRefused:
    def test_a_model_that_is_not_there(
        self, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for name, problem in (
            ("nobody/has-this-model", "is not a folder"),
            ("./no/such/folder", "is not a folder"),
            ("no-such.gguf", "is not a folder"),
            ("hf://nobody/has-this-model", "is not in the hub's cache"),
        ):
            refusal(DataError, problem, name)

    def test_pickled_weights(
        self, bundle: Bundle, base: Path, refusal: Refusal, tmp_path: Path
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(base)
        (base / "model.safetensors").unlink()
        torch.save(model.state_dict(), base / "pytorch_model.bin")
        assert "--trust-remote-code" in refusal(RefusedError, "pickled", base).shell_hint
        contract = extend_model(str(base), bundle, tmp_path / "out", trust_remote_code=True)
        assert list(contract.base_weights) == ["pytorch_model.bin"]
        assert (tmp_path / "out" / "model.safetensors").exists()

    def test_code_of_its_own(
        self, bundle: Bundle, base: Path, refusal: Refusal, tmp_path: Path
    ) -> None:
        mark = tmp_path / "ran"
        (base / "own.py").write_text(
            f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
            "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        )
        config = json.loads((base / "config.json").read_text())
        auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        config |= {"model_type": "own", "auto_map": auto_map}
        (base / "config.json").write_text(json.dumps(config))
        assert "--trust-remote-code" in refusal(RefusedError, "needs custom code", base).shell_hint
        assert not mark.exists()
        extend_model(str(base), bundle, tmp_path / "out", trust_remote_code=True)
        assert mark.exists()
        assert load_model_folder(tmp_path / "out", trust_remote_code=True).tokens.start > 0

    def test_missing_and_damaged_weights(self, base: Path, refusal: Refusal) -> None:
        from safetensors.torch import load_file, save_file

        settings = (base / "config.json").read_text()
        vocab_size = json.loads(settings)["vocab_size"]
        smaller = json.loads(settings) | {"vocab_size": vocab_size - 3}
        (base / "config.json").write_text(json.dumps(smaller))
        refusal(DataError, rf"has .*weight of shape \({vocab_size}, 32\), its", base)
        (base / "config.json").write_text(settings)
        weights = load_file(base / "model.safetensors")
        weights.pop("model.layers.0.mlp.up_proj.weight")
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        refusal(DataError, r"lacks weights .*up_proj", base)
        (base / "model.safetensors").write_bytes(b"\x00" * 100)
        refusal(DataError, "does not load", base)

    def test_folders_that_are_no_model(self, base: Path, refusal: Refusal, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        refusal(DataError, "has neither", tmp_path / "empty")
        for name in ("a.gguf", "b.gguf"):
            (tmp_path / "empty" / name).touch()
        refusal(UsageError, r"2 GGUF files: a\.gguf, b\.gguf", tmp_path / "empty")
        shutil.copytree(base, tmp_path / "adapter")
        (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
        refusal(UsageError, "is a PEFT adapter, not a whole model", tmp_path / "adapter")

    @pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
    def test_a_missing_tokenizer(self, architecture: str, refusal: Refusal, tmp_path: Path) -> None:
        """transformers makes an empty one, whose new tokens would take the rows of the others."""
        tiny_model(architecture, vocab_size=512).save_pretrained(tmp_path / "bare")
        error = refusal(DataError, "bare has no tokenizer", tmp_path / "bare")
        assert "save_pretrained" in error.hint

    def test_a_slow_tokenizer(self, refusal: Refusal, tmp_path: Path) -> None:
        tiny_encoder_decoder("t5", vocab_size=384).save_pretrained(tmp_path / "byt5")
        ByT5Tokenizer().save_pretrained(tmp_path / "byt5")
        refusal(UsageError, "ByT5Tokenizer is a slow tokenizer", tmp_path / "byt5")

    def test_a_gguf_file_without_a_tokenizer(self, refusal: Refusal, tmp_path: Path) -> None:
        writer = GGUFWriter(tmp_path / "small.gguf", "llama")
        writer.add_block_count(1)
        writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        message = r"small\.gguf does not load as a language model"
        refusal(DataError, message, tmp_path / "small.gguf")


def test_a_damaged_bundle_is_refused(bundle: Bundle, refusal: Refusal, tmp_path: Path) -> None:
    bundle.save(tmp_path / "shop.zarr")
    chunk = tmp_path / "shop.zarr/codebook/level_0/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    damaged = Bundle.open(tmp_path / "shop.zarr")
    message = r"codebook/level_0/c/0/0 .* its SHA-256 differs"
    refusal(IntegrityError, message, saved(tmp_path, tiny_tokenizer()), damaged)
