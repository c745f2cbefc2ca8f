"""Recipes with some settings changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Changes = Mapping[str, Mapping[str, Any]]
"""Settings by the name of the recipe's file: {"train": {"dropout": 0.2}}."""


def write_variant(recipe: Path, out: Path, changes: Changes) -> Path:
    """Write the recipe with these settings changed to the folder `out`, and return it."""
    out.mkdir(parents=True, exist_ok=True)
    files = {path.stem for path in recipe.glob("*.yaml")} | set(changes)
    for name in sorted(files):
        path = recipe / f"{name}.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        settings.update(changes.get(name, {}))
        (out / path.name).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return out
