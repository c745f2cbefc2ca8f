"""The recipes of the package: their files are the --config of commands."""

import shutil
from pathlib import Path

import pytest
import typer
import yaml

from sidtool.base.errors import UsageError
from sidtool.cli.fit import run_here
from sidtool.cli.main import app
from sidtool.model.contract.folder import read_contract
from sidtool.recipes import RECIPES, FitOptions, Recipe, fit, plan_fit, recipe_names
from tests.recipes.conftest import Shop

SMALLER = {
    "codebook": {"levels": "4x4x4", "set": ["epochs=2"]},
    "model": {"set": ["num_layers=1", "d_ff=32"]},
    "train": {"num_train_epochs": 1, "warmup_steps": 0, "eval_steps": 0.5, "save_steps": 0.5},
}
"""What keeps the steps of TIGER short."""


@pytest.mark.parametrize("name", recipe_names())
def test_every_command_of_a_recipe_has_its_options(name: str, shop: Shop, tmp_path: Path) -> None:
    steps = plan_fit(shop.items, shop.events, tmp_path / "out", FitOptions(recipe=name))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for step in steps:
        word, *arguments = step.arguments
        commands[word].make_context(word, arguments)  # raises for an unknown key of a file
    has_memory = "tune-memory" in [step.arguments[0] for step in steps]
    assert has_memory == Recipe.named(name).has("memory")


def test_tiger_has_its_codebook_its_model_and_its_users(shop: Shop, tmp_path: Path) -> None:
    recipe = tmp_path / "tiger"
    shutil.copytree(RECIPES / "tiger", recipe)
    for part, changes in SMALLER.items():
        path = recipe / f"{part}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    options = FitOptions(recipe=str(recipe), encoder=str(shop.encoder), minutes=0.05)
    fitted = fit(shop.items, shop.events, tmp_path / "out", options, run_command=run_here)
    assert fitted.model.endswith("out/model")
    contract = read_contract(tmp_path / "out" / "model")
    assert (contract.kind, contract.user_tokens) == ("encoder-decoder", 2000)
    # three levels and the digit of collisions
    assert contract.space.levels == 4
    assert "--interactions" not in (tmp_path / "out" / "run.sh").read_text()


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe 'tigre': use default, "):
        Recipe.named("tigre")
    with pytest.raises(UsageError, match=r"has no codebook\.yaml"):
        Recipe.named(str(tmp_path))
    (tmp_path / "train.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match=r"train\.yaml cannot be read"):
        Recipe(tmp_path).settings("train")
