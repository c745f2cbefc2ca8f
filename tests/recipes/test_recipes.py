"""The recipes of the package, whose files are the --config of commands; and messy tables, which end
in a verdict by the flags that the first command names."""

import json
import math
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sidtool.base.errors import UsageError
from sidtool.cli.fit import run_here
from sidtool.cli.main import app
from sidtool.data import UnknownOptions
from sidtool.data.split import read_split
from sidtool.examples import read_lineage
from sidtool.model.contract.folder import read_contract
from sidtool.model.contract.stage_record import ModelReference, RlParams
from sidtool.recipes import RECIPES, FitOptions, Recipe, fit, plan_fit, write_example
from sidtool.recipes.fitting import Fitted
from sidtool.recipes.recipe import recipe_names
from tests.cli.messy import garden, library, parts
from tests.cli.road import done
from tests.cli.test_lists import session_events
from tests.cli.test_stumbles import HINTS
from tests.models import tiny_model, tiny_tokenizer
from tests.recipes.conftest import Shop

SHORT = {"num_train_epochs": 1, "eval_users": 5, "eval_steps": 0.5, "save_steps": 0.5}
FEW_TOKENS = {"token_budget": 2000, "eval_users": 5}


def fit_smaller(
    name: str, shop: Shop, folder: Path, changes: Mapping[str, Mapping[str, object]], **more: str
) -> Fitted:
    """A recipe of the package with a few settings that keep it short, run on the shop with ratings
    in sessions of three a minute apart."""
    recipe = folder / name
    shutil.copytree(RECIPES / name, recipe)
    for part, settings in changes.items():
        path = recipe / f"{part}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
    events = session_events(shop.events, folder / "events.csv")
    options = FitOptions(recipe=str(recipe), encoder=str(shop.encoder), minutes=0.05, **more)
    return fit(shop.items, events, folder / "out", options, run_command=run_here)


def small_language_model(folder: Path) -> str:
    """A folder with a random language model and its tokenizer."""
    tokenizer = tiny_tokenizer()
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", recipe_names())
def test_every_command_of_a_recipe_has_its_options(name: str, shop: Shop, tmp_path: Path) -> None:
    model = None if Recipe.named(name).has("model") else "hf://ORG/NAME"
    options = FitOptions(recipe=name, model=model)
    steps = plan_fit(shop.items, shop.events, tmp_path / "out", options)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for step in steps:
        word, *arguments = step.arguments
        commands[word].make_context(word, arguments)  # raises for an unknown key of a file
    # a share of the steps: a budget may leave fewer than any number
    assert Recipe.named(name).number("train", "warmup_steps", 0) < 1
    has_memory = "tune-memory" in [step.arguments[0] for step in steps]
    assert has_memory == Recipe.named(name).has("memory")


@pytest.mark.parametrize("name", recipe_names())
def test_unknown_items_are_allowed_in_every_step_that_refuses_them(
    name: str, shop: Shop, tmp_path: Path
) -> None:
    model = None if Recipe.named(name).has("model") else "hf://ORG/NAME"
    options = FitOptions(recipe=name, model=model, checks=UnknownOptions(allow_unknown=True))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for step in plan_fit(shop.items, shop.events, tmp_path / "out", options):
        flags = [flag for option in commands[step.arguments[0]].params for flag in option.opts]
        assert ("--allow-unknown" in step.arguments) == ("--allow-unknown" in flags)


@pytest.mark.slow
def test_tiger_has_its_codebook_its_model_and_its_users(shop: Shop, tmp_path: Path) -> None:
    changes = {
        "codebook": {"levels": "4x4x4", "set": ["epochs=2"]},
        "model": {"set": ["num_layers=1", "d_ff=32"]},
        "train": {**SHORT, "warmup_steps": 0},
    }
    fitted = fit_smaller("tiger", shop, tmp_path, changes)
    assert fitted.model.endswith("out/model")
    contract = read_contract(tmp_path / "out" / "model")
    assert (contract.kind, contract.user_tokens) == ("encoder-decoder", 2000)
    # three levels and the digit of collisions
    assert contract.space.levels == 4
    assert "--interactions" not in (tmp_path / "out" / "run.sh").read_text()


@pytest.mark.slow
def test_onerec_aligns_lists_by_a_reward_model(shop: Shop, tmp_path: Path) -> None:
    small = {"set": ["hidden_size=16", "num_attention_heads=2", "num_hidden_layers=1"]}
    changes = {
        "codebook": {"levels": "4x4x8"},
        "model": small,
        "train": SHORT,
        "reward": {"num_train_epochs": 1},
        "rl": {
            "num_train_epochs": 1,
            "eval_users": 5,
            "candidate_lists": 2,
            "per_device_train_batch_size": 16,
        },
    }
    fit_smaller("onerec", shop, tmp_path, changes)
    out = tmp_path / "out"
    assert read_split(out / "split").protocol == "last-session"
    contract = read_contract(out / "aligned")
    assert [record.stage for record in contract.stages] == ["extend", "full", "rl"]
    assert isinstance(contract.params, RlParams)
    assert contract.params.reward_inputs == {"label": ModelReference.of(out / "reward").to_json()}
    assert contract.list_prompt is not None
    lists = json.loads((out / "lists.json").read_text())
    assert lists["systems"]["lists"]["legal"]["mean"] == 1


@pytest.mark.slow
def test_plum_trains_a_language_model_in_two_stages(shop: Shop, tmp_path: Path) -> None:
    changes = {
        "codebook": {"levels": "16x8x4", "set": ["epochs=2"]},
        "cpt": {"max_tokens": 2000, "history_length": 3},
        "sft": {"history_length": 3},
        "pretrain": FEW_TOKENS,
        "train": FEW_TOKENS,
    }
    model = small_language_model(tmp_path / "tiny")
    fit_smaller("plum", shop, tmp_path, changes, model=model)
    lineage = read_lineage(tmp_path / "out" / "cpt" / "train.jsonl")
    shares = {task: counts.share for task, counts in lineage.tasks.items()}
    assert shares == pytest.approx({"history-text": 0.5, "item-text": 0.5}, abs=0.02)
    contract = read_contract(tmp_path / "out" / "model")
    assert [record.stage for record in contract.stages] == ["extend", "full", "full"]
    assert "A user rated" in contract.history_prompt.template


@pytest.mark.slow
def test_minionerec_is_trained_by_rewards_at_last(shop: Shop, tmp_path: Path) -> None:
    changes = {
        "codebook": {"levels": "4x4x8"},
        "train": {**SHORT, "gradient_accumulation_steps": 1},
        "rl": {**SHORT, "num_generations": 4, "per_device_train_batch_size": 16},
    }
    model = small_language_model(tmp_path / "tiny")
    fit_smaller("minionerec", shop, tmp_path, changes, model=model)
    contract = read_contract(tmp_path / "out" / "aligned")
    assert [record.stage for record in contract.stages] == ["extend", "full", "rl"]
    assert isinstance(contract.params, RlParams)
    assert (contract.params.grpo_fields["beta"], contract.params.options["sft_weight"]) == (1e-3, 0)


@pytest.mark.parametrize(
    ("recipe", "model", "message"),
    [("plum", None, "plum needs a language model"), ("tiger", "base", "tiger makes its own model")],
)
def test_only_a_recipe_for_a_language_model_takes_one(
    recipe: str, model: str | None, message: str, shop: Shop, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=message):
        fit(shop.items, shop.events, out, FitOptions(recipe=recipe, model=model))
    assert not out.exists()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("train", "num_train_epochs", "ten"),
        ("train", "per_device_train_batch_size", [1]),
        ("train", "gradient_accumulation_steps", math.inf),
        ("sft", "history_length", "many"),
    ],
)
def test_a_setting_of_a_recipe_that_must_be_a_number_is_named(
    shop: Shop, tmp_path: Path, part: str, name: str, value: object
) -> None:
    recipe = Path(shutil.copytree(shop.recipe, tmp_path / "recipe"))
    (recipe / f"{part}.yaml").write_text(yaml.safe_dump({name: value}))
    options = FitOptions(recipe=str(recipe), encoder=str(shop.encoder))
    with pytest.raises(UsageError, match=rf"{part}\.yaml: {name} must be a number of at least 0"):
        plan_fit(shop.items, shop.events, tmp_path / "out", options)


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'tigre': use default, "):
        Recipe.named("tigre")
    with pytest.raises(UsageError, match=r"has no codebook\.yaml"):
        Recipe.named(str(tmp_path))
    (tmp_path / "train.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match=r"train\.yaml cannot be read"):
        Recipe(tmp_path).settings("train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Split.yml", "target: [rating>=4]", r"Split\.yml: a recipe has no such file"),
        ("notes.txt", "", r"notes\.txt: a recipe has no such file"),
        ("recipe.yaml", "coocurrence: false", r"recipe\.yaml has no key 'coocurrence'"),
        ("recipe.yaml", 'cooccurrence: "no"', "cooccurrence must be true or false, not 'no'"),
        ("recipe.yaml", "cooccurrence: no", None),
        ("README.md", "", None),
        ("LICENSE", "", None),
        (".DS_Store", "", None),
        ("cpt.template.json", "", None),
    ],
)
def test_a_file_or_key_that_no_recipe_has_is_refused(
    shop: Shop, tmp_path: Path, name: str, content: str, message: str | None
) -> None:
    recipe = Path(shutil.copytree(shop.recipe, tmp_path / "recipe"))
    (recipe / name).write_text(content)
    if message is None:
        assert Recipe.named(str(recipe)).has("train")
        return
    with pytest.raises(UsageError, match=message) as refusal:
        Recipe.named(str(recipe))
    assert name != "Split.yml" or refusal.value.shell_hint == "did you mean split.yaml?"


def test_an_encoder_in_a_recipe_is_refused(shop: Shop, tmp_path: Path) -> None:
    recipe = Path(shutil.copytree(shop.recipe, tmp_path / "recipe"))
    (recipe / "codebook.yaml").write_text("encoder: other\n")
    with pytest.raises(UsageError, match=r"codebook\.yaml: encoder has no effect"):
        plan_fit(shop.items, shop.events, tmp_path / "out", FitOptions(recipe=str(recipe)))


def test_a_recipe_may_name_its_columns_of_running_text(shop: Shop, tmp_path: Path) -> None:
    recipe = Path(shutil.copytree(shop.recipe, tmp_path / "recipe"))
    options = FitOptions(recipe=str(recipe))

    def fields() -> list[str]:
        steps = plan_fit(shop.items, shop.events, tmp_path / "out", options)
        (words,) = (step.arguments for step in steps if step.name.endswith("running text"))
        return [words[place + 1] for place, word in enumerate(words) if word == "--field"]

    (recipe / "cpt.yaml").write_text("task: {item-text: 1}\n")
    assert fields()  # measured
    (recipe / "cpt.yaml").write_text("task: {item-text: 1}\nfield: [brand]\n")
    assert fields() == []  # those of the file


@pytest.mark.slow
@pytest.mark.parametrize("tables", [garden, parts, library], ids=lambda tables: tables.__name__)
def test_messy_tables_end_in_a_verdict(tables: Any, shop: Shop, tmp_path: Path) -> None:
    items, events = tables(tmp_path)
    recipe = ("--recipe", shop.recipe, "--minutes", 1, "--fix")
    words = ("fit", items, events, "-o", tmp_path / "out", *shlex.split(HINTS[tables]), *recipe)
    ran = done(*words, "--json").json
    assert ran["verdict"]["standing"] in ("ahead", "level", "behind")
    assert ran["profile"]["items"] == 40
    assert Path(ran["report"]).exists()


def test_an_example_is_known_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no example 'films': use movielens"):
        write_example("films", tmp_path / "out")  # type: ignore[arg-type]


def test_a_recipe_inside_the_folder_of_its_copy_is_kept(tmp_path: Path) -> None:
    mine = Recipe.named("default").copied(tmp_path / "mine").folder
    (tmp_path / "rl.yaml").write_text("", encoding="utf-8")  # of an earlier copy
    copy = Recipe(mine).copied(tmp_path)
    names = {path.name for path in mine.iterdir()}
    assert names == {path.name for path in copy.folder.iterdir() if path.is_file()}
    assert "train.yaml" in names
