from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidtool.base.checkpoint import check_finite, check_finite_files, non_finite
from sidtool.base.errors import DataError
from sidtool.model import extend_model, load_model_folder, merge, rebind
from sidtool.model.contract import BUNDLE_COPY, CONTRACT
from sidtool.model.contract.folder import open_bundle_copy, read_contract, write_contract
from sidtool.model.pretrained import save_pretrained
from sidtool.tokenizer.bundle import Bundle
from tests.models import tiny_model, tiny_tokenizer, unsigned
from tests.pairs import all_pairs

VALUES = [float("nan"), float("inf"), float("-inf")]


def poison(
    folder: Path, value: float, *, file: str = "model.safetensors", last: bool = False
) -> str:
    """Write the value into one element of one weight of a folder, and record it in the contract if
    there is one; returns the weight's name."""
    weights = load_file(folder / file)
    name = sorted(weights)[-1 if last else 0]
    weights[name].view(-1)[-1 if last else 0] = value
    save_file(weights, folder / file, metadata={"format": "pt"})
    if (folder / CONTRACT).exists():
        contract = read_contract(folder)
        write_contract(folder, contract, open_bundle_copy(folder, contract))
    return name


@pytest.mark.parametrize(
    ("value", "dtype", "position"),
    all_pairs(
        VALUES, [torch.float32, torch.bfloat16, torch.float16, torch.float64], [0, 7, 4_096, 9_999]
    ),
)
def test_one_value_is_enough(value: float, dtype: torch.dtype, position: int) -> None:
    weight = torch.full((10_000,), torch.finfo(dtype).max, dtype=dtype)
    others = [("empty", torch.zeros(0)), ("ids", torch.arange(3))]
    assert non_finite([("weight", weight), *others]) == []
    weight[position] = value
    assert non_finite([("weight", weight), *others]) == ["weight"]


@pytest.mark.parametrize(("value", "last"), [*zip(VALUES, [False, True, False], strict=True)])
def test_every_way_to_read_a_model_refuses_it(
    value: float, last: bool, base: Path, made: Path, bundle: Bundle, tmp_path: Path
) -> None:
    name = poison(base, value, last=last)
    with pytest.raises(DataError, match=f"{base} has values in {name} that are NaN or infinite"):
        extend_model(base, bundle, tmp_path / "out")
    unsigned(made)
    name = poison(made, value, last=last)
    for read in (
        lambda: load_model_folder(made),
        lambda: rebind(made, bundle, tmp_path / "out"),
        lambda: check_finite_files(made),
    ):
        with pytest.raises(DataError, match=f"values in {name} that are NaN or infinite"):
            read()
    assert not list(tmp_path.glob("out*"))


def test_a_precision_that_is_too_narrow_is_named(made: Path) -> None:
    unsigned(made)
    poison(made, 1e6)
    load_model_folder(made, device="cpu", dtype="bfloat16")
    with pytest.raises(DataError, match="NaN or infinite") as caught:
        load_model_folder(made, device="cpu", dtype="float16")
    assert "precision that is too narrow" in str(caught.value.shell_hint)


def test_no_such_model_is_written(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    check_finite(model, "model")
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(DataError, match="the model has values in"):
        save_pretrained(tmp_path / "out", model, tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_one_line(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    unsigned(made)
    (made / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"model\.safetensors does not load"):
        rebind(made, bundle, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_adapters_are_checked_too(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from sidtool.model.contract.stage_record import ModelReference, StageRecord
    from sidtool.model.network.token_embeddings import Lora

    loaded = load_model_folder(made, device="cpu")
    ids = loaded.contract.added_ids
    adapters = Lora(loaded.model, made, ids, r=2, alpha=4, seed=0)
    folder = tmp_path / "adapter"
    adapters.save(folder, adapters.state())
    loaded.tokenizer.save_pretrained(folder)
    stage = StageRecord("adapters", None)
    contract = read_contract(made).with_stage(stage, base_folder=ModelReference.of(made))
    write_contract(folder, contract, bundle)
    assert {CONTRACT, BUNDLE_COPY} <= {path.name for path in folder.iterdir()}
    load_model_folder(folder)
    unsigned(folder)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    first = next(name for name in weights if ".lora_" in name)
    for problem, changed in (
        (f"lacks weights: {first.removesuffix('.weight')}", weights.keys() - {first}),
        ("has unknown weights: base_model.model.other", {*weights, "base_model.model.other"}),
    ):
        save_file({name: weights.get(name, torch.ones(2)) for name in changed}, path)
        with pytest.raises(DataError, match=problem):
            load_model_folder(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"does not load as an adapter of its base: .*No such file"):
        load_model_folder(folder)
    save_file(weights, path, metadata={"format": "pt"})
    poison(folder, float("nan"), file="adapter_model.safetensors")
    for read in (
        lambda: load_model_folder(folder),
        lambda: merge(folder, tmp_path / "out"),
        lambda: rebind(folder, bundle, tmp_path / "out"),
    ):
        with pytest.raises(DataError, match="NaN or infinite"):
            read()
    assert not list(tmp_path.glob("out*"))
