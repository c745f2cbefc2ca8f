"""A recipe is a folder of YAML files, each the `--config` of one command: a step is part of the
road if its file is there. Recipes of the package are folders beside this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import UsageError

RECIPES = Path(__file__).parent / "configs"
"""The recipes of the package, a folder each."""
"""The recipes of the package, a folder each."""
REQUIRED = ("codebook", "sft", "train")
"""The files that every recipe has."""


def recipe_names() -> tuple[str, ...]:
    """The recipes of the package."""
    return tuple(sorted(folder.name for folder in RECIPES.iterdir() if folder.is_dir()))


@dataclass(frozen=True)
class Recipe:
    """A folder of YAML files."""

    folder: Path

    @classmethod
    def named(cls, name: str) -> "Recipe":
        """A recipe of the package, or a folder. Raises UsageError for anything else, and for a
        folder without one of the files that every recipe has."""
        folder = RECIPES / name if name in recipe_names() else Path(name)
        if not folder.is_dir():
            raise UsageError(
                f"no recipe {name!r}: use {', '.join(recipe_names())} or a folder of YAML files"
            )
        recipe = cls(folder)
        for part in REQUIRED:
            if not recipe.has(part):
                raise UsageError(f"recipe {folder} has no {part}.yaml")
        return recipe

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    def config(self, part: str) -> Path:
        """The path of a file, which may be missing."""
        return self.folder / f"{part}.yaml"

    def has(self, part: str) -> bool:
        """Whether there is such a file."""
        return self.config(part).is_file()

    def options(self, part: str) -> tuple[object, ...]:
        """`--config FILE`, if there is such a file."""
        return ("--config", self.config(part)) if self.has(part) else ()

    @property
    def has_cooccurrence(self) -> bool:
        """Whether co-occurrence shapes the codebook; `recipe.yaml` may say no."""
        return bool(self.settings("recipe").get("cooccurrence", True))

    def settings(self, part: str) -> Mapping[str, Any]:
        """What a file says, nothing if it is missing. Raises UsageError if it cannot be read."""
        if not self.has(part):
            return {}
        path = self.config(part)
        try:
            return dict(parse_yaml(read_document(path).decode("utf-8-sig")) or {})
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
