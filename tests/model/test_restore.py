import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError
from sidtool.model import extend_model, load_model_folder, rebind
from sidtool.model.contract import MemoryBinding, read_contract, write_contract
from sidtool.model.contract.stage_record import ExtendParams, RestoreParams, StageRecord
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import renamed
from tests.cli.road import done, refused, tree
from tests.model.contract.cases import HISTORY
from tests.model.test_rebind import grown


@pytest.fixture
def model(made: Path, bundle: Bundle) -> Path:
    """A model with a prompt, a license, a memory's weight and a seed beyond every size."""
    stage = StageRecord("extend", ExtendParams("random", 1 << 50))
    binding = MemoryBinding("ab" * 32, 0.5, 2.0, {})
    contract = replace(read_contract(made), license="mit")
    changed = contract.with_stage(stage, history_prompt=HISTORY, memory=binding)
    write_contract(made, changed, bundle)
    return made


def save_again(folder: Path, out: Path, change: Callable[[Any], None] = lambda model: None) -> Path:
    """Load model and tokenizer by transformers, change the model and save both."""
    network = AutoModelForCausalLM.from_pretrained(folder)
    change(network)
    network.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def train_elsewhere(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight += 0.5


def test_the_contract_survives_save_pretrained(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    saved = save_again(model, tmp_path / "saved", train_elsewhere)
    needed = bundle.identity.digest[:12]
    with pytest.raises(CompatibilityError, match=f"without its sid.json and the bundle {needed}"):
        load_model_folder(saved)
    verdict = rebind(saved, bundle, tmp_path / "restored")
    assert "what another program trained it on is not recorded" in verdict.message
    before, after = read_contract(model), read_contract(tmp_path / "restored")
    assert after.stages == (*before.stages, StageRecord("restore", RestoreParams(True)))
    for name in ("identity", "space", "token_start", "history_prompt", "base_weights", "license"):
        assert getattr(after, name) == getattr(before, name)
    assert after.memory is None
    loaded = load_model_folder(tmp_path / "restored")
    original = AutoModelForCausalLM.from_pretrained(model).get_input_embeddings().weight
    assert torch.equal(loaded.model.get_input_embeddings().weight, original + 0.5)


def test_unchanged_weights_are_recognized(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    saved = save_again(model, tmp_path / "saved")
    verdict = rebind(saved, bundle, tmp_path / "restored")
    assert "the weights are those that sidtool wrote" in verdict.message
    assert read_contract(tmp_path / "restored").params == RestoreParams(False)
    again = save_again(tmp_path / "restored", tmp_path / "saved again")  # as often as one likes
    rebind(again, bundle, tmp_path / "restored again")
    assert len(read_contract(tmp_path / "restored again").stages) == 4


def test_a_checkpoint_is_restored_without_the_state_of_its_training(
    model: Path, bundle: Bundle, tmp_path: Path
) -> None:
    saved = save_again(model, tmp_path / "checkpoint-5", train_elsewhere)
    state = (
        "optimizer.pt",
        "optimizer.bin",
        "rng_state_0.pth",
        "scheduler.pt",
        "training_args.bin",
    )
    for name in (*state, "trainer_state.json"):
        (saved / name).write_bytes(b"{}")
    rebind(saved, bundle, tmp_path / "restored")
    names = {path.name for path in (tmp_path / "restored").iterdir()}
    assert names.isdisjoint((*state, "trainer_state.json"))
    assert not [name for name in read_contract(tmp_path / "restored").files if name in state]


def test_what_cannot_be_restored_is_refused(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    saved = save_again(model, tmp_path / "saved")
    before = tree(tmp_path)
    other = grown(bundle)
    needed = bundle.identity.digest[:12]
    with pytest.raises(CompatibilityError, match=f"was made for bundle {needed}"):
        rebind(saved, other, tmp_path / "restored")
    (saved / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"saved has no tokenizer\.json"):
        rebind(saved, bundle, tmp_path / "restored")
    del before["saved/tokenizer.json"]
    assert tree(tmp_path) == before
    rebind(save_again(model, saved), renamed(bundle, "other"), tmp_path / "restored")


def test_a_model_that_lost_tokens_is_refused(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    def shrink(network: Any) -> None:
        network.resize_token_embeddings(network.config.vocab_size - 1)

    saved = save_again(model, tmp_path / "saved", shrink)
    with pytest.raises(CompatibilityError, match="embedding rows"):
        rebind(saved, bundle, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_saved_model_is_no_base(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    saved = save_again(model, tmp_path / "saved")
    message = r"has a SID vocabulary already \(config\.json\)"
    with pytest.raises(CompatibilityError, match=message) as refusal:
        extend_model(saved, bundle, tmp_path / "extended")
    assert f"sidtool rebind {saved} BUNDLE" in str(refusal.value.shell_hint)


def test_a_damaged_contract_in_a_configuration_is_refused(model: Path, bundle: Bundle) -> None:
    (model / "sid.json").unlink()
    config = json.loads((model / "config.json").read_text())
    config["sidtool"]["token_start"] = "many"
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match=r"config\.json: .*token_start"):
        load_model_folder(model)
    with pytest.raises(IntegrityError, match=r"config\.json: .*token_start"):
        rebind(model, bundle, model.with_name("restored"))


def test_the_command_restores(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "shop.zarr")
    saved = save_again(model, tmp_path / "saved")
    message = refused(3, "recommend", saved, "--history", "item0")
    assert f"hint: sidtool rebind {saved} BUNDLE -o NEW restores both" in message
    out = tmp_path / "restored"
    ran = done("rebind", saved, tmp_path / "shop.zarr", "-o", out)
    assert ran.out.startswith(f"{out}: contract and bundle restored")
    assert ran.last == f"next: sidtool recommend {out} --history ..."
    assert done("recommend", out, "--history", "item0", "-k", 3, "--json").json["items"]
