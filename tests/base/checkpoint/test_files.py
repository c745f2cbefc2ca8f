import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sidtool.base.checkpoint import check_folder, settings_digests
from sidtool.base.checkpoint.files import MAX_JSON, StoredWeights, read_gguf_size, read_header
from sidtool.base.errors import DataError, RefusedError, SidtoolError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    save_file({"a": np.zeros((2, 3), np.float32)}, made / "model.safetensors")
    return made


def test_an_ordinary_folder_passes(folder: Path) -> None:
    for name in ("training_args.bin", "pytorch_model.bin"):
        (folder / name).write_bytes(b"never read")
    assert check_folder(folder) == StoredWeights(1, 24)
    save_file({"a": np.zeros(5, np.uint8)}, folder / "model.safetensors")
    assert check_folder(folder) == StoredWeights(1, 8 * 5)  # may be quantized
    save_file({}, folder / "model.safetensors")
    assert check_folder(folder) == StoredWeights()
    save_file({"b": np.zeros(4, np.float32)}, folder / "b.safetensors")
    write_index(folder, {"weight_map": {"b": "b.safetensors"}})
    assert check_folder(folder) == StoredWeights(1, 16)


def write_index(folder: Path, index: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_gguf_file_is_measured_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for content, tensors in (
        (struct.pack("<4sIQ", b"GGUF", 3, 0), 0),
        (struct.pack("<4sIQ184x", b"GGUF", 3, 2), 2),
        (struct.pack("<4sIQ184x", b"GGUF", 3, 1 << 60), 8),
    ):
        path.write_bytes(content)
        assert read_gguf_size(path) == StoredWeights(tensors, 8 * len(content))
    for content in (b"GGUF" + bytes(11), b"GGUX" + bytes(12)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a GGUF file"):
            read_gguf_size(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_weights_that_are_only_pickled_need_trust(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(RefusedError, match="pickled") as caught:
        check_folder(folder)
    assert "--trust-remote-code" in str(caught.value.shell_hint)
    check_folder(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    "name", ["w.bin", "../x.safetensors", "/x", "a/x.safetensors", "", 3, "..\\w", "w.safetensors"]
)
def test_an_index_names_only_safetensors_files_beside_it(name: object, folder: Path) -> None:
    (folder / "w.bin").write_bytes(b"x")
    (folder.parent / "x.safetensors").write_bytes(b"x")
    write_index(folder, {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": name}})
    with pytest.raises(SidtoolError, match=r"index\.json reads b from"):
        check_folder(folder)


@pytest.mark.parametrize("size", [2, MAX_JSON + 1])
def test_an_index_is_an_object_of_some_size_with_the_weights(size: int, folder: Path) -> None:
    write_index(folder, {})
    os.truncate(folder / "model.safetensors.index.json", size)
    reason = "has no weight_map" if size == 2 else "it has more than 16777216 bytes"
    with pytest.raises(DataError, match=rf"index\.json.* {reason}"):
        check_folder(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "README.md", "additional_chat_templates/tools.jinja"]
)
def test_links_lead_nowhere_outside(name: str, folder: Path) -> None:
    outside = folder.parent / "secret"
    outside.write_text("{}")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(RefusedError, match="outside of the model's folder"):
        check_folder(folder)
    check_folder(folder, trust_remote_code=True)


def test_links_of_the_hub_cache_pass(folder: Path) -> None:
    repository = folder.parent / "models--org--name"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / "0123abc"
    folder.rename(snapshot)
    blob = repository / "blobs" / "ff"
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert check_folder(snapshot).tensors == 1


@pytest.mark.parametrize("trust", [False, True])
def test_only_regular_files_are_opened(trust: bool, folder: Path) -> None:
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(DataError, match=r"tokenizer\.json is not a regular file"):
        check_folder(folder, trust_remote_code=trust)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is not a regular file"):
        check_folder(folder, trust_remote_code=trust)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"cannot read .*tokenizer\.json: No such file"):
        check_folder(folder, trust_remote_code=trust)


Entry = dict[str, object]


def entry(start: int, stop: int, **changes: object) -> Entry:
    return {"dtype": "F32", "shape": [2], "data_offsets": [start, stop], **changes}


@pytest.mark.parametrize(
    "header",
    [
        *({"a": entry(0, 8), "b": entry(start, start + 8)} for start in (4, 12)),
        *({"a": entry(0, end)} for end in (8, 24)),
        *({"a": entry(0, 16, shape=shape)} for shape in ([1 << 40, 1 << 40], [-2, -2])),
        *({"a": entry(0, 16, shape=shape)} for shape in ([2.0, 2], None)),
        *({"a": entry(0, 16, dtype=dtype)} for dtype in ("P64", [])),
        *({"a": value} for value in ([0, 16], {"dtype": "F32"})),
        {"a": entry(0, 16, shape=[4]), "__metadata__": {"format": 1}},
        [],
    ],
    ids=str,
)
def test_a_header_must_agree_with_its_file(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(DataError, match=r"model\.safetensors does not load"):
        read_header(path)


def test_every_file_that_determines_the_model_has_a_digest(folder: Path) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "sid.json", "README.md"):
        (folder / name).write_text("x")
    before = settings_digests(folder)
    assert sorted(before) == ["chat_template.jinja", "config.json", "merges.txt", "tokenizer.json"]
    (folder / "chat_template.jinja").write_text("y")
    assert settings_digests(folder) != before
    with pytest.raises(DataError, match=r"cannot read the folder .*gone: No such file"):
        settings_digests(folder / "gone")
