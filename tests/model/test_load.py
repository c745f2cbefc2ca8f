import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, SidtoolWarning
from sidtool.model import ExtendOptions, check_model_folder, extend_model, load, load_model_folder
from sidtool.model.contract import read_contract, verify_model, write_contract
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.loss.loss import check_teachers
from tests.model.cases import make_bundle, make_codebook
from tests.model.conftest import shop
from tests.models import tiny_tokenizer, unsigned


def test_a_loaded_model_recommends(made: Path, bundle: Bundle) -> None:
    served = load_model_folder(made)
    assert (served.bundle.identity, served.verdict.kind) == (bundle.identity, "same")
    assert not served.model.training
    ids = torch.from_numpy(served.tokens.ids(bundle.items.codes[:1]))
    assert served.model(ids).logits.shape[-1] == served.tokens.stop


def test_a_loaded_model_knows_where_it_was_loaded(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(made.parent)
    served = load_model_folder(made.name)
    monkeypatch.chdir(tmp_path)
    assert served.folder is not None
    assert read_contract(served.folder) == served.contract


def test_a_memory_may_be_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no memory at .*tonight"):
        load_model_folder(made, memory=str(tmp_path / "tonight.zarr"))


def test_a_loaded_model_does_not_follow_its_files(made: Path) -> None:
    ids = torch.arange(9)[None]
    model = load_model_folder(made, device="cpu").model
    expected = model(ids).logits
    path = made / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
        file.flush()
        assert torch.equal(model(ids).logits, expected)
        file.truncate(100)  # a mapped file would end the process here
    assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_refused(made: Path, name: str) -> None:
    loaded = load_model_folder(made)
    content = bytearray((made / name).read_bytes())
    content[-9] ^= 1
    (made / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name}: its SHA-256 differs from that in sid.json"):
        loaded.push_to_hub("shop/model")
    with pytest.raises(IntegrityError, match=f"{name} has digest"):
        load_model_folder(made)
    (made / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        load_model_folder(made)


@pytest.mark.parametrize(
    "name",
    ["special_tokens_map.json", "additional_chat_templates/default.jinja", "model.safetensors"],
)
def test_a_file_that_was_added_is_refused(made: Path, name: str) -> None:
    loaded = load_model_folder(made)
    (made / name).parent.mkdir(exist_ok=True)
    if name == "model.safetensors":  # which transformers prefers to those that an index names
        contract = replace(read_contract(made), files={})
        (made / name).rename(made / "model-1.safetensors")
        write_contract(made, contract, loaded.bundle)
        shutil.copy(made / "model-1.safetensors", made / name)
    else:
        (made / name).write_text('{"eos_token": "<pad>"}')
    reason = "would be loaded, but sid.json does not list it"
    assert (name, f"it {reason}") in verify_model(str(made))
    with pytest.raises(IntegrityError, match=f"{name} {reason}"):
        load_model_folder(made)


@pytest.fixture(scope="module")
def another_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "another"
    extend_model(base_folder, shop(), out, ExtendOptions(init="random", seed=7))
    return out


@pytest.fixture
def another(another_folder: Path, tmp_path: Path) -> Path:
    """A model with other weights and another contract."""
    return Path(shutil.copytree(another_folder, tmp_path / "another"))


def replacing(
    made: Path, another: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Replace the model by another one, and that by the first, when weights are about to be
    loaded, so many times."""
    loads = load.load_weights
    left = [times]

    def swap() -> None:
        if left[0]:
            left[0] -= 1
            aside = made.with_name("aside")
            made.rename(aside)
            another.rename(made)
            aside.rename(another)

    def swapped(*arguments: object, **options: object) -> object:
        swap()
        return loads(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "load_weights", swapped)
    return swap


@pytest.mark.parametrize("signed", [True, False])
def test_a_folder_that_is_replaced_while_it_loads_is_loaded_again(
    made: Path, another: Path, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not signed:  # contracts of earlier versions record no digests
        unsigned(made)
        unsigned(another)
    expected = load_model_folder(another)
    replacing(made, another, 1, monkeypatch)
    loaded = load_model_folder(made)
    assert loaded.contract == expected.contract
    for weight, other in zip(loaded.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(weight, other)


def test_a_folder_that_is_replaced_again_is_refused(
    made: Path, another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing(made, another, 2, monkeypatch)
    with pytest.raises(IntegrityError, match=r"sid.json says|contract records"):
        load_model_folder(made)


def test_a_model_that_was_planned_with_must_still_be_there(
    made: Path, another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = read_contract(made)
    assert load_model_folder(made, contract=planned).contract == planned
    loaded = load_model_folder(another)
    replacing(made, another, 1, monkeypatch)()
    with pytest.raises(CompatibilityError, match="another model now"):
        load_model_folder(made, contract=planned)
    with pytest.raises(CompatibilityError, match="has another model than the one that was loaded"):
        loaded.with_bundle(another, None, None)


def test_float32_is_the_default_on_a_cpu(made: Path) -> None:
    assert load_model_folder(made, device="cpu").model.dtype == torch.float32
    assert load_model_folder(made, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_another_bundle_is_refused_before_weights_are_read(made: Path, bundle: Bundle) -> None:
    (made / "model.safetensors").write_bytes(b"no weights")
    ids = list(bundle.items.ids)
    foreign = make_bundle(ids, bundle.items.codes[::-1].copy(), codebook=make_codebook(1))
    with pytest.raises(CompatibilityError) as caught:
        load_model_folder(made, bundle=foreign)
    assert caught.value.exit_code == 3


def test_an_aligned_bundle_warns(made: Path, bundle: Bundle) -> None:
    codes = bundle.items.codes.copy()
    codes[[0, 1]] = codes[[1, 0]]
    facts = {"codebook": make_codebook(1), "compatible_with": (bundle.identity.codebook,)}
    aligned = make_bundle(list(bundle.items.ids), codes, **facts)  # type: ignore[arg-type]
    with pytest.warns(SidtoolWarning, match=r"10\.0% of the 20 common items"):
        _, _, verdict = check_model_folder(made, aligned)
    assert verdict.reassigned_share == pytest.approx(0.1)
    student = read_contract(made)
    with (
        pytest.warns(SidtoolWarning),
        pytest.raises(CompatibilityError, match=r"teacher .* has other SIDs: .* 20 common items"),
    ):
        check_teachers([made], student, aligned)


def test_a_tokenizer_without_sid_tokens_is_refused(made: Path) -> None:
    """For example an intermediate checkpoint with the tokenizer of the base model."""
    unsigned(made)
    tiny_tokenizer().save_pretrained(made)
    with pytest.raises(CompatibilityError, match="gives <s_a_0> the id None"):
        load_model_folder(made)


def test_a_base_model_is_refused(base: Path) -> None:
    with pytest.raises(CompatibilityError, match=r"has no sid\.json") as caught:
        load_model_folder(base)
    assert "extend-model" in str(caught.value.shell_hint)


def test_a_model_without_its_bundle_copy_needs_a_bundle(made: Path) -> None:
    (made / "sid.zarr").rename(made / "elsewhere")
    with pytest.raises(DataError, match="no bundle"):
        load_model_folder(made)
