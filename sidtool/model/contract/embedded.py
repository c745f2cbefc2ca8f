"""The copy of a contract in `config.json`, where it survives `save_pretrained`: transformers keeps
the keys of a configuration that it does not know."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint import CONFIG, EMBEDDED, read_object
from sidtool.base.output import write_whole


def embed(folder: Path, contract: Mapping[str, Any]) -> None:
    """Store the JSON object of a contract in the configuration of a model folder, spelled as
    transformers spells it."""
    settings = read_object(folder / CONFIG) | {EMBEDDED: contract}
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    write_whole(folder / CONFIG, text)


def embedded_contract(folder: Path) -> Mapping[str, Any] | None:
    """The JSON object of the contract in the configuration of a model folder; None if it has none.

    Raises DataError if the configuration is damaged."""
    path = folder / CONFIG
    value = read_object(path).get(EMBEDDED) if path.is_file() else None
    return value if isinstance(value, Mapping) else None
