"""What is measured of a catalog and its events before anything is built, and what is chosen by it:
what a recipe leaves open, within what a budget allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sidtool.base.records import JsonRecord
from sidtool.data.prepare import CatalogTable, CheckReport, EventTable
from sidtool.recipes.recipe import Recipe
from sidtool.training import DEFAULTS

TEXT_COLUMNS = 3
"""Columns beside the title that are part of an item's text, at most."""
TEXT_SAMPLE = 2000
"""Rows that say what a column holds."""
MIN_TEXT_SHARE = 0.5
"""Of the cells of a column of text that are not empty and have letters."""

RATINGS = ("rating", "ratings", "score", "stars", "feedback")
"""Ends of the names of columns that have ratings."""
MOST_RATINGS = 101


@dataclass(frozen=True)
class DataProfile(JsonRecord):
    """The numbers that the rules of a recipe are about."""

    items: int
    events: int
    users: int
    text_columns: tuple[str, ...]
    """Columns beside the title with text."""
    longest: int = 0
    """Events of the user with the most."""
    rating: str | None = None
    """The column of the events that has ratings, if there is one."""


def measure(catalog: CatalogTable, table: EventTable, checked: CheckReport) -> DataProfile:
    """The profile of a catalog and its events, whose problems were reported."""
    text_columns = [
        name
        for name, cells in catalog.cells.items()
        # "title" stands for the title column, whatever its name
        if name not in (catalog.columns.id, catalog.columns.title, "title")
        and not set(name) & set("{}!:[].")  # a template reads these characters
        and _is_text(list(cells[:TEXT_SAMPLE].texts()))
    ]
    rating_columns = (
        name
        for name, cells in table.cells.items()
        if "".join(char for char in name.lower() if char.isalpha()).endswith(RATINGS)
        and 2 <= len(cells.names) <= MOST_RATINGS
    )
    return DataProfile(
        items=checked.items,
        events=checked.events or 0,
        users=checked.users or 0,
        text_columns=tuple(text_columns[:TEXT_COLUMNS]),
        longest=int(table.events_of_user.max(initial=0)),
        rating=next(rating_columns, None),
    )


def _is_text(cells: Sequence[str]) -> bool:
    """Whether cells are words: not numbers, dates, addresses or ids."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    words = [
        cell
        for cell in filled
        if cell[0] != "/"
        and "://" not in cell
        # most characters are letters or blanks
        and sum(char.isalpha() or char.isspace() for char in cell) > len(cell) / 2
    ]
    if len(words) < MIN_TEXT_SHARE * len(cells):
        return False
    is_id = len(set(filled)) == len(filled) and not any(" " in cell for cell in filled)
    return len(set(filled)) > 1 and not is_id


MIN_STEPS = 1000
"""Steps that a small data set is trained for, in at most MAX_EPOCHS."""
MAX_EPOCHS = 100
EVENTS_PER_EXAMPLE = 10
"""Of long histories, which are divided into overlapping examples of 20 items."""
WIDE_EVENTS = 1_000_000
"""From so many events on, a model may be twice as wide: at 200,000 events that was worse."""
WIDE = "hidden_size=256"
EVENTS_PER_SECOND = 250
"""Events that a processor's core trains a wide model on, a quarter of those of the usual one."""


@dataclass(frozen=True)
class Choices(JsonRecord):
    """What a command line says beside the recipe's files."""

    text_template: str | None = None
    text_columns: tuple[str, ...] = ()
    """Columns that running text shows."""
    model_setting: str | None = None
    """A `--set` of `init-model`; None: as the recipe says."""
    history: int | None = None
    """Items of a history at most; None: as the recipe says."""
    epochs: float | None = None
    """None: as the recipe says."""
    eval_users: int | None = None
    """Validation users during training; None: as the recipe says."""
    tuning_users: int | None = None
    """Validation users that choose the weight of a memory; None: all."""
    test_users: int | None = None
    """Test users; None: all."""
    stop_step: int | None = None
    """The step at which the training was stopped, because it took too long; None: at its end."""


def choose(profile: DataProfile, recipe: Recipe, minutes: float) -> Choices:
    """What follows from the data and the time alone."""
    template = None
    if profile.text_columns and "text_template" not in recipe.settings("codebook"):
        template = ". ".join(f"{{{name}}}" for name in ("title", *profile.text_columns))
    epochs = enough_epochs(profile, recipe)
    model = recipe.settings("model")
    is_narrow = model.get("preset") == "neox-tiny" and "set" not in model
    is_wide = (
        is_narrow
        and epochs is not None
        and profile.events >= WIDE_EVENTS
        and 60 * minutes * EVENTS_PER_SECOND >= epochs * profile.events
    )
    most = recipe.number("sft", "history_length", 0)
    return Choices(
        text_template=template,
        text_columns=profile.text_columns,
        model_setting=WIDE if is_wide else None,
        # the last event is held out
        history=max(1, profile.longest - 1) if profile.longest <= most else None,
        epochs=epochs,
    )


def enough_epochs(profile: DataProfile, recipe: Recipe) -> float | None:
    """The epochs that are worth their time, whatever time there is: those of a recipe's training,
    or more of a small data set. None where the recipe counts tokens or has stages."""
    settings = recipe.settings("train")
    if "stages" in settings or "token_budget" in settings:
        return None
    recipe_epochs = recipe.number("train", "num_train_epochs", DEFAULTS["num_train_epochs"])
    n_examples = max(profile.users, profile.events / EVENTS_PER_EXAMPLE)
    steps_per_epoch = math.ceil(n_examples / recipe.batch_size)
    return max(recipe_epochs, min(math.ceil(MIN_STEPS / steps_per_epoch), MAX_EPOCHS))
