"""The token ids of a model, for the exports to engines."""

from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.files import CONFIG, MAX_TOKEN_ID, read_object
from sidtool.base.errors import CompatibilityError, DataError
from sidtool.integrations.formats.model_tokens import ModelTokens
from sidtool.model.contract.locate import model_folder
from sidtool.model.load import check_model_folder
from sidtool.tokenizer.bundle.bundle import Bundle


def model_tokens(model: str | Path, bundle: Bundle) -> ModelTokens:
    """The token ids of a bundle's codes in a model; reads no weights.

    Raises CompatibilityError unless bundle and model belong together, DataError if the model's
    configuration does not say how many tokens it scores.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> tokens = sidtool.model_tokens("base+sid", bundle)
        >>> len(tokens.levels), tokens.block_start == int(tokens.levels[0][0])
        (3, True)
    """
    folder = model_folder(model)
    contract, _, _ = check_model_folder(folder, bundle)
    tokens = contract.tokens
    levels = tuple(tokens.level_ids)
    begin_end = None
    if tokens.begin is not None and tokens.end is not None:
        begin_end = (tokens.begin, tokens.end)
    rows = _scored_tokens(folder)
    largest = max(int(ids.max()) for ids in levels)
    if largest >= rows:
        raise CompatibilityError(f"{folder} scores {rows} tokens, but has the SID token {largest}")
    return ModelTokens(levels, begin_end, rows)


def _scored_tokens(folder: Path) -> int:
    """The size of the vocabulary in a model's configuration."""
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(
            f"{folder} has no {CONFIG}: engines serve whole models, not adapters",
            hint=f"sidtool merge {folder} -o NEW",
        )
    settings: dict[str, Any] = read_object(path)
    nested = settings.get("text_config")
    for part in (settings, nested if isinstance(nested, dict) else {}):
        size = part.get("vocab_size")
        if type(size) is int and 0 < size <= MAX_TOKEN_ID:
            return size
    raise DataError(
        f"{path} does not say how many tokens the model has: no vocab_size up to {MAX_TOKEN_ID}"
    )
