import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from sidtool.base.checkpoint import check_encoder, check_folder
from sidtool.base.checkpoint.files import read_header
from sidtool.base.errors import DataError
from sidtool.model import LoadedModel, extend_model, load_model_folder
from sidtool.model.contract import Contract, read_contract
from sidtool.model.network.adapter import read_lora_config
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle
from tests.encoders import tiny_encoder
from tests.hostile.documents import damaged_json, replaced
from tests.hostile.harness import call, cases
from tests.models import tiny_model, tiny_tokenizer

TOKENS = SidTokens(SidSpace((4, 3, 5)), 500)
LOADING = {"seconds": 10.0, "memory": 512 << 20}
"""Limits of a call that imports and loads with torch."""
SIZES = st.sampled_from((0, 1, 2, 7, 64, 10**6, 10**9, 1 << 31, 1 << 40, 1 << 63))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(chat=True)
    model = tiny_model("llama", vocab_size=len(tokenizer), num_hidden_layers=1)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    extend_model(str(folder / "base"), small_bundle(20), folder / "made")
    return folder / "made"


WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int64)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(WEIGHTS, path)
    return path


HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [32, 56]},
    "b": {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]},
    "__metadata__": {"format": "pt"},
}


@cases(300)
@given(header=damaged_json(HEADER), length=st.one_of(st.none(), SIZES), extra=st.integers(-9, 9))
@example(header=b"\xef\xbb\xbf" + json.dumps(HEADER).encode(), length=None, extra=0)
def test_weights_read_are_those_of_a_consistent_header(
    weights: Path, header: bytes, length: int | None, extra: int
) -> None:
    size = len(header) if length is None else length
    body = WEIGHTS["b"].tobytes() + WEIGHTS["a"].tobytes()
    body = body[: len(body) + min(extra, 0)] + b"\0" * max(extra, 0)
    with replaced(weights, struct.pack("<Q", size) + header + body):
        if call(read_header, weights) is None:
            return
        # what passes is read by the library, within the file
        with safe_open(weights, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                assert tensors.get_tensor(name).nbytes <= len(body)


INDEX = {"metadata": {"total_size": 56}, "weight_map": {"a": "model.safetensors", "b": "w.bin"}}


@cases(200)
@given(index=damaged_json(INDEX))
def test_an_index_names_files_beside_it(weights: Path, index: bytes) -> None:
    path = weights.parent / "model.safetensors.index.json"
    path.write_bytes(index)
    (weights.parent / "w.bin").write_bytes(b"pickled")
    try:
        if call(check_folder, weights.parent) is not None:
            assert set(json.loads(index)["weight_map"].values()) <= {"model.safetensors"}
    finally:
        path.unlink()


ENCODER_FILES = ("modules.json", "config.json", "sentence_bert_config.json")
ENCODER_FILES += ("1_Pooling/config.json",)


@cases(300)
@given(data=st.data(), name=st.sampled_from(ENCODER_FILES))
def test_an_encoder_is_checked(encoder: Path, data: st.DataObject, name: str) -> None:
    damaged = data.draw(damaged_json(json.loads((encoder / name).read_text())))
    with replaced(encoder / name, damaged):
        if call(check_encoder, encoder) is None or name != "modules.json":
            return
        modules = json.loads(damaged)
        assert all(module["type"].startswith("sentence_transformers.") for module in modules)
        assert all((encoder / module["path"]).resolve().is_dir() for module in modules)


@cases(300)
@given(data=st.data())
def test_a_contract_is_read_strictly(model: Path, data: st.DataObject) -> None:
    damaged = data.draw(damaged_json(json.loads((model / "sid.json").read_text())))
    with replaced(model / "sid.json", damaged):
        contract = call(read_contract, model)
    if contract is not None:
        assert Contract.from_json(json.loads(json.dumps(contract.to_json()))) == contract


ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
ADAPTER |= {"megatron_core": "megatron.core", "auto_mapping": None, "init_lora_weights": True}
ADAPTER["trainable_token_indices"] = {"model.embed_tokens": list(range(TOKENS.start, TOKENS.stop))}


@cases(200)
@given(config=damaged_json(ADAPTER))
def test_an_adapter_names_no_module(tmp_path_factory: Any, config: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "adapter_config.json").write_bytes(config)
    ids = range(TOKENS.start, TOKENS.stop)
    settings = call(read_lora_config, folder, ids, "CAUSAL_LM", **LOADING)
    if settings is not None:
        assert settings.megatron_config is None
        assert settings.init_lora_weights is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "has use_dora = True, which sidtool does not support"),
        ({"r": 0}, "has r = 0 and lora_alpha = 8"),
        ({"lora_alpha": "8"}, "has r = 4 and lora_alpha = '8'"),
    ],
)
def test_an_adapter_of_other_settings_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    adapter = {key: value for key, value in ADAPTER.items() if key != "megatron_core"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter | changes))
    with pytest.raises(DataError, match=message):
        read_lora_config(tmp_path, range(TOKENS.start, TOKENS.stop), "CAUSAL_LM")


LOADED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
LOADED_FILES += ("sid.json", "model.safetensors")


def load(folder: Path) -> LoadedModel:
    """The model, after a text and a SID went through tokenizer and network."""

    from sidtool.model.prompt.segments import catalog, prompt_encoder, sids

    loaded = load_model_folder(folder, device="cpu")
    segments = [catalog("a lamp\n"), sids(loaded.bundle.space, loaded.bundle.items.codes[:1])]
    ids = prompt_encoder(loaded.tokenizer, loaded.tokens).ids(segments)
    assert max(ids) < loaded.tokens.stop
    return loaded


@cases(40, most=2_000)
@given(data=st.data(), name=st.sampled_from(LOADED_FILES))
def test_a_damaged_model_is_refused_or_loads(model: Path, data: st.DataObject, name: str) -> None:
    path = model / name
    if name == "model.safetensors":
        whole = path.read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        header = data.draw(damaged_json(json.loads(whole[8 : 8 + size])))
        damaged = struct.pack("<Q", len(header)) + header + whole[8 + size :]
    else:
        damaged = data.draw(damaged_json(json.loads(path.read_text())))
    with replaced(path, damaged):
        loaded = call(load, model, **LOADING)
    if loaded is not None:
        assert loaded.contract.space == loaded.bundle.space


def test_the_undamaged_artifacts_pass(model: Path, encoder: Path, weights: Path) -> None:
    assert call(load, model, **LOADING) is not None
    assert call(check_encoder, encoder) is not None
    assert call(read_header, weights) is not None
