import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import TINY, Road, done, refused


def test_next_steps_carry_the_users_paths(road: Road) -> None:
    extend = f"sidtool extend-model {road.base} BUNDLE -o {road.base}+sid"
    assert road.said["init-model"].last == f"next: {extend}"
    make = f"sidtool make-sft {road.bundle} ITEMS SPLIT -o sft/train.jsonl --model {road.model}"
    assert road.said["extend-model"].last == f"next: {make}"


def test_init_model_makes_a_model_of_the_given_shape(road: Road, tmp_path: Path) -> None:
    command = ("init-model", road.items, "-o", tmp_path / "m", "--vocab-size", 300, *TINY)
    said = done(*command, "--json").json
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert (config["n_layer"], config["n_embd"], config["n_head"]) == (1, 16, 2)
    assert config["vocab_size"] <= 300
    weights = load_file(tmp_path / "m/model.safetensors")
    parameters = sum(array.size for array in weights.values())
    made = {"model": str(tmp_path / "m"), "preset": "gpt2-tiny", "parameters": parameters}
    assert said == made
    again = load_file(road.base / "model.safetensors")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    done(*command, "--force", "--seed", 1)
    other = load_file(tmp_path / "m/model.safetensors")
    assert not np.array_equal(other["transformer.wte.weight"], again["transformer.wte.weight"])


def test_init_model_reads_a_catalog_with_other_column_names(tmp_path: Path) -> None:
    catalog = tmp_path / "shop.csv"
    catalog.write_text("code,label\nA1,a lamp\nA2,a chair\n")
    command = ("init-model", catalog, "-o", tmp_path / "m", "--vocab-size", 300, *TINY)
    assert "--id-column" in refused(2, *command)
    done(*command, "--id-column", "code", "--title-column", "label")


def test_extend_model_reports_what_it_added(road: Road, tmp_path: Path) -> None:
    said = done("extend-model", road.base, road.zipped, "-o", tmp_path / "m", "--json").json
    bundle = Bundle.open(road.bundle)
    assert said["bundle"] == bundle.identity.digest
    assert said["token_stop"] - said["token_start"] == len(bundle.space.tokens) == 4 + 4 + 8 + 2
    one = load_file(tmp_path / "m/model.safetensors")
    other = load_file(road.model / "model.safetensors")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_inspect_shows_what_a_model_records(road: Road) -> None:
    shown = done("inspect", road.tuned).out
    contract = json.loads((road.tuned / "sid.json").read_text())
    assert contract.pop("sha256")
    best = contract["stages"][-1]["params"]["best"]["value"]
    for words in ("base model", "extend > full", "sequence", "4x4x8", f"ndcg@10  {best:.4g}"):
        assert words in shown
    assert done("inspect", road.tuned, "--json").json == contract
    prefix = done("inspect", road.tuned, "--prefix", "<s_a_0>").out
    assert prefix == done("inspect", road.bundle, "--prefix", "<s_a_0>").out


def test_a_foreign_model_is_adopted_and_recommends(road: Road, tmp_path: Path) -> None:
    command = ("adopt", road.foreign, road.foreign_map, "--preset", "minionerec")
    ran = done(*command, "-o", tmp_path / "adopted")
    lines = ran.out.splitlines()
    assert lines[0].startswith("SID tokens: 16, ids ")
    assert "0 codes have no token" in lines[0]
    assert lines[1].endswith(": 0 of 60")
    assert "Below is an instruction" in lines[3]
    adopted = f"{tmp_path / 'adopted'}: {road.foreign} with the 60 items of {road.foreign_map}"
    assert lines[-1] == adopted
    words = ran.last.removeprefix("next: sidtool ").split()
    assert len(done(*words).out.splitlines()) >= 10


def test_the_figures_are_one_json_object(road: Road, tmp_path: Path) -> None:
    template = tmp_path / "own.json"
    template.write_text(json.dumps({"prompts": ["Bought: {history}\nNext: "], "separator": "; "}))
    out = tmp_path / "adopted"
    command = ("adopt", road.foreign, road.bundle, "--template", template, "-o", out, "--json")
    plan = done(*command, "--dry-run").json
    assert not out.exists()
    said = done(*command).json
    assert plan == {"dry_run": True, **said}
    assert (said["items"], said["items_without_token"], said["layout"]) == (60, 0, "block")
    assert said["prompt"]["text"].startswith("Bought: <|sid_begin|><s_a_")
    assert said["prompt"]["as_text"]
