"""What is chosen from the data: the recipe, the text of items, and the number of epochs.
docs/fit.md gives the reasons."""

import math
from dataclasses import dataclass

from sidtool.base.records import JsonRecord
from sidtool.recipes.profile import DataProfile
from sidtool.recipes.recipe import Recipe

LONG_HISTORIES = 50
"""Events per user from which histories are long."""
LONG_RECIPE = "long-histories"
SHORT_RECIPE = "default"
MIN_STEPS = 1000
"""Steps that a small data set is trained for, in at most MAX_EPOCHS."""
MAX_EPOCHS = 100


@dataclass(frozen=True)
class Choices(JsonRecord):
    """What a command line says beside the recipe's files."""

    text_template: str | None = None
    text_columns: tuple[str, ...] = ()
    """Columns that running text shows."""
    epochs: float | None = None
    """None: as the recipe says."""
    eval_users: int | None = None
    """Validation users during training; None: as the recipe says."""
    tuning_users: int | None = None
    """Validation users that choose the weight of a memory; None: all."""
    test_users: int | None = None
    """Test users; None: all."""


def recipe_for(profile: DataProfile) -> str:
    """The recipe of the package that fits the data."""
    return LONG_RECIPE if profile.events_per_user >= LONG_HISTORIES else SHORT_RECIPE


def text_template(profile: DataProfile) -> str | None:
    """Title and the columns of text; None for the title alone."""
    if not profile.text_columns:
        return None
    return ". ".join(f"{{{name}}}" for name in ("title", *profile.text_columns))


def choose(profile: DataProfile, recipe: Recipe) -> Choices:
    """What follows from the data alone."""
    has_template = "text_template" in recipe.settings("codebook")
    return Choices(
        text_template=None if has_template else text_template(profile),
        text_columns=profile.text_columns,
    )


def enough_epochs(recipe_epochs: float, steps_per_epoch: int) -> float:
    """The epochs that are worth their time, whatever time there is: those of the recipe, or more
    of a small data set."""
    return max(recipe_epochs, min(math.ceil(MIN_STEPS / steps_per_epoch), MAX_EPOCHS))
