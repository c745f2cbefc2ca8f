import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidtool.base import hub
from sidtool.base.checkpoint import StoredWeights, loading
from sidtool.base.errors import (
    DataError,
    MissingPackageError,
    RefusedError,
    SidtoolError,
    SidtoolWarning,
    UsageError,
)
from sidtool.model import load_model, load_tokenizer
from sidtool.model.pretrained import locate
from tests.models import tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    model = tiny_model("gpt2", vocab_size=len(tokenizer), num_hidden_layers=1)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


class PanicException(BaseException):
    """As the Rust libraries raise it."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb\nc"),
        KeyError("key"),
        RecursionError("maximum recursion depth exceeded"),
        MemoryError(),
        PanicException("index out of bounds"),
        AssertionError(),
        ValueError("\x1b[2J"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_failure_is_one_line(error: BaseException) -> None:
    with pytest.raises(DataError, match="models/x does not load") as caught, loading("models/x"):
        raise error
    assert str(caught.value).isprintable()


def test_interrupts_and_own_errors_pass() -> None:
    for error in (KeyboardInterrupt(), UsageError("no")):
        with pytest.raises(type(error)), loading("models/x"):
            raise error


def test_code_needs_trust() -> None:
    with pytest.raises(RefusedError, match="needs custom code"), loading("models/x"):
        raise ValueError("pass trust_remote_code=True")


def test_only_layers_of_the_loading_thread_are_bounded() -> None:
    large = torch.empty(1 << 30, device="meta")
    layer = torch.nn.Module()
    layer.register_buffer("earlier", large)
    with loading("models/x", stored=StoredWeights()):
        thread = threading.Thread(target=layer.register_buffer, args=("other", large))
        thread.start()
        thread.join()
        layer.register_buffer("none", None)
        with pytest.raises(DataError, match=r"more weights .* Module\.own"):
            layer.register_buffer("own", large)
    assert list(layer._buffers) == ["earlier", "other", "none"]


def test_no_request_leaves_while_loading() -> None:
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    before = constants.HF_HUB_OFFLINE
    with hub.offline():
        assert constants.HF_HUB_DISABLE_TELEMETRY
        with pytest.raises(OfflineModeIsEnabled):
            get_session().get("https://huggingface.co")
    assert before == constants.HF_HUB_OFFLINE


def test_blocks_of_two_threads_restore_what_the_first_one_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that began to load while another did left the process offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with ExitStack() as second:
        with hub.offline():
            second.enter_context(hub.offline())
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "url", ["hf://", "hf://a/b/c", "hf://../x", "hf://a b", "hf://é", "hf:///x"]
)
def test_a_malformed_hub_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="is not a hub model"):
        hub.download(url)


@pytest.mark.parametrize(
    "settings",
    [
        *({key: 10**9} for key in ("n_layer", "n_embd", "n_positions", "n_inner", "vocab_size")),
        *({"n_layer": value} for value in ("many", 0, -1)),
        {"num_labels": 10**9},
        {"n_embd": 10**400},
        {"n_embd": 1 << 20, "n_head": 1},
        {"n_head": 0},
        {"model_type": "no-such"},
        {"attn_implementation": "org/kernel"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"model_type": "gpt_neo", "attention_types": [[["global", "local"], 10**8]]},
        {"transformers_weights": "other.safetensors.index.json"},
        {"transformers_weights": "other.safetensors"},
        {"text_config": {"transformers_weights": "../outside.safetensors"}},
    ],
    ids=str,
)
def test_a_configuration_claims_no_more_than_is_stored(
    settings: dict[str, object], folder: Path
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(SidtoolError) as caught:
        load_model(locate(str(folder)))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_size_of_what_each_layer_has_is_no_number_of_layers(folder: Path) -> None:
    """Gemma 3n and Gemma 4 have a row per token in a table for each layer."""
    path = folder / "config.json"
    sizes = {"vocab_size_per_layer_input": 262_144, "hidden_size_per_layer_input": 256}
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
    assert load_model(locate(str(folder))).config.vocab_size_per_layer_input == 262_144


def test_weights_come_from_the_files_that_were_checked(folder: Path, tmp_path: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "other.safetensors.index.json").write_text(json.dumps(index))
    path = folder / "config.json"
    settings = {"transformers_weights": "other.safetensors.index.json"}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(RefusedError, match="names the weights 'other"):
        load_model(locate(str(folder)))


def test_weights_without_use_are_reported(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "evil.weight": torch.ones(3)}, path, metadata={"format": "pt"})
    with pytest.warns(SidtoolWarning, match=r"has 1 weights .* not use: evil\.weight"):
        load_model(locate(str(folder)))


def test_the_precision_of_the_weights_is_that_of_a_configuration_without(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": None}))
    weights = load_file(folder / "model.safetensors")
    halves = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(locate(str(folder))).dtype == torch.bfloat16


@pytest.mark.parametrize("key", ["vocab", "added_tokens"])
def test_a_token_id_that_no_vocabulary_has_is_refused(key: str, folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    if key == "vocab":
        value["model"]["vocab"]["a"] = 1 << 31
    else:
        value["added_tokens"][0]["id"] = 1 << 31
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="has the token id 2147483648"):
        load_tokenizer(locate(str(folder)))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "\xff" * 9, '{"a": 12345678']
)
def test_a_damaged_tokenizer_is_one_line(text: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match=r"does not load|is not valid JSON") as caught:
        load_tokenizer(locate(str(folder)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data",
    [b"", b"GGUF", b"GGUF" + b"\xff" * 64, b"GGUF\x03\0\0\0" + b"\xff" * 16, bytes(999)],
    ids=repr,
)
def test_a_damaged_gguf_file_is_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_model(locate(str(path)))
    assert str(caught.value).isprintable()


def test_the_packages_that_read_sentencepiece_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mT5 has no other tokenizer."""
    monkeypatch.setattr("transformers.utils.is_sentencepiece_available", lambda: False)
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(MissingPackageError, match=r"spiece\.model: pip install sentencepiece pro"):
        load_tokenizer(locate(str(folder)))
    monkeypatch.setattr("transformers.utils.is_sentencepiece_available", lambda: True)
    with pytest.raises(DataError, match="does not load"):
        load_tokenizer(locate(str(folder)))
