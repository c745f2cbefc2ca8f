"""What inference engines are given of a bundle: the catalogs of vllm-gr, NVIDIA's sid-gr-inference,
FlashRec and xLLM, and the token ids of its codes in a model. The engines of `--engine` are others:
`integrations/cluster/engines.py` has them."""

import json
import shlex
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.checkpoint import CONFIG, MAX_TOKEN_ID, read_object
from sidtool.base.errors import CompatibilityError, DataError, SidtoolWarning, UsageError
from sidtool.base.locations import opened
from sidtool.base.output import new_file
from sidtool.base.ranges import run_starts
from sidtool.integrations.formats.maps import Export, Exported, are_numbers
from sidtool.model import check_model_folder
from sidtool.model.contract import model_folder
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.codes import CollisionCounts
from sidtool.tokenizer.sid import SPELLINGS, SidSpace

BLOCK = 1 << 12
"""Items that are in memory at once."""
INFERRED_LEVELS = 3
"""Levels of a SID whose token layout FlashRec infers."""
END = 1
"""Code of the end token in FlashRec's level {begin, end}."""
XLLM_LEVELS = 3
XLLM_RECORD = np.dtype([("item", "<i8"), ("tokens", "<i4", (XLLM_LEVELS,))])


def write_vllm_gr(bundle: Bundle, path: Path, export: Export) -> Exported:
    """The JSON catalog of vllm-gr's `--catalog-path`: the tokens of each SID of the active items,
    once, in SID order. It has no item ids: the client looks up the items of a SID.

    [["<|sid_begin|>", "<s_a_7060>", "<s_b_18>", "<s_c_1748>", "<|sid_end|>"], ...]
    """
    space = bundle.space
    codes = bundle.items.codes[bundle.active]
    distinct_codes = codes[run_starts(*codes.T)]  # equal SIDs follow each other
    with new_file(path, force=export.force) as target, target.open("w", encoding="utf-8") as stream:
        separator = "["
        for block in _blocks(distinct_codes):
            for row in block.tolist():
                tokens = [space.token(level, code) for level, code in enumerate(row)]
                if space.begin is not None and space.end is not None:
                    tokens = [space.begin, *tokens, space.end]
                stream.write(f"{separator}{_json(tokens)}")
                separator = ",\n"
        stream.write("]\n")
    return Exported((path,))


def write_sid_gr(bundle: Bundle, path: Path, export: Export) -> Exported:
    """The JSON Lines of sid-gr-inference's `--catalog-jsonl`: the active items in SID order. Raises
    as `sid_gr_rows`.

    {"item_id": "B01", "token_ids": [151669, 151932, 152210]}
    """
    tokens = export.tokens
    assert tokens is not None  # "must" in FORMATS
    items = bundle.items
    rows = sid_gr_rows(bundle, export)
    with new_file(path, force=export.force) as target, target.open("w", encoding="utf-8") as stream:
        for block in _blocks(rows):
            token_ids = tokens.ids(items.codes[block], begin_end_tokens=False)
            for row, ids in zip(block.tolist(), token_ids.tolist(), strict=True):
                line = _json({"item_id": items.ids[row], "token_ids": ids})
                stream.write(f"{line}\n")
    return Exported((path,))


def sid_gr_rows(bundle: Bundle, export: Export) -> NDArray[np.int64]:
    """The rows that `write_sid_gr` writes. Raises UsageError if items share a SID."""
    assert export.tokens is not None  # "must" in FORMATS
    n_sharing = CollisionCounts.of(bundle.items.codes[bundle.active]).items
    if n_sharing:
        raise UsageError(
            f"sid-gr-inference needs one item for each SID, and {n_sharing} items share one",
            hint="build the codebook with --collisions reassign or append",
        )
    return rows_with_tokens(bundle, export.tokens)


def write_flashrec(bundle: Bundle, path: Path, export: Export) -> Exported:
    """The JSON catalog of FlashRec's `--sid-vocab-file`: the active items in SID order, one SID
    after the other. Raises as `flashrec_rows`.

    It maps comma-separated codes to items: {"12,200,7,1": [{"pid": "B01"}], ...}. The last code is
    that of the end token in a level {begin, end}, so that its probability is part of the score, as
    in FlashRec's own converter."""
    rows = flashrec_rows(bundle, export)
    items = bundle.items
    keys_and_rows = (
        (",".join(map(str, [*codes, END])), row)
        for block in _blocks(rows)
        for row, codes in zip(block.tolist(), items.codes[block].tolist(), strict=True)
    )
    with new_file(path, force=export.force) as target, target.open("w", encoding="utf-8") as stream:
        separator = "{"
        # equal SIDs follow each other
        for key, with_key in groupby(keys_and_rows, key=lambda pair: pair[0]):
            value = _json([{"pid": items.ids[row]} for _, row in with_key])
            stream.write(f'{separator}"{key}":{value}')
            separator = ","
        stream.write("}")
    engine_options = f"--sid-vocab-file {shlex.quote(str(path))}"
    if infers_layout(bundle.space):
        return Exported((path,), engine_options)
    if export.tokens is None:
        lacks = (
            "FlashRec cannot infer the layout of these SIDs: --model MODEL gives its --sid option"
        )
        return Exported((path,), engine_options, lacks)
    return Exported((path,), f"{engine_options} --sid {sid_option(export.tokens)}")


def flashrec_rows(bundle: Bundle, export: Export) -> NDArray[np.int64]:
    """The rows that `write_flashrec` writes. Raises UsageError if SIDs have no begin and end token,
    CompatibilityError as `sid_option`."""
    if export.tokens is not None:
        sid_option(export.tokens)
    if not bundle.space.has_begin_end_tokens:
        raise UsageError(
            "FlashRec needs a begin and an end token around a SID, and this bundle has none"
        )
    return bundle.active


def infers_layout(space: SidSpace) -> bool:
    """Whether FlashRec infers the token layout of this space, from the tokenizer and the first
    key."""
    spelling = {"template": space.template, "begin": space.begin, "end": space.end}
    return space.levels == INFERRED_LEVELS and spelling == SPELLINGS["openonerec"]


def sid_option(tokens: SidTokens) -> str:
    """The value of FlashRec's `--sid` for a model: START:END/SIZES.

    The begin and end tokens are the last level. Raises CompatibilityError unless the token ids are
    one block, as FlashRec computes them by arithmetic.
    """
    if tokens.table is not None:
        raise CompatibilityError(
            "FlashRec needs SID tokens whose ids follow each other level by level, and those of "
            "this model do not",
            hint="serve this model with --to xllm",
        )
    sizes = [*tokens.space.sizes, 2]
    return f"{tokens.start}:{tokens.start + sum(sizes) - 1}/{','.join(map(str, sizes))}"


def write_xllm(bundle: Bundle, path: Path, export: Export) -> Exported:
    """The binary vocabulary of xLLM (`rec_vocab_dict.cpp`), from which it decodes items and, on
    request, constrains beams: the active items in SID order.

    A record has 20 bytes in little-endian order: the item id as int64, then three token ids as
    int32. Raises as `xllm_rows`."""
    tokens = export.tokens
    assert tokens is not None  # "must" in FORMATS
    rows = xllm_rows(bundle, export)
    with new_file(path, force=export.force) as target, target.open("wb") as stream:
        for block in _blocks(rows):
            records = np.empty(len(block), dtype=XLLM_RECORD)
            records["item"] = [int(bundle.items.ids[row]) for row in block.tolist()]
            records["tokens"] = tokens.ids(bundle.items.codes[block], begin_end_tokens=False)
            stream.write(records.tobytes())
    return Exported((path,))


def xllm_rows(bundle: Bundle, export: Export) -> NDArray[np.int64]:
    """(n,) rows of the items that `write_xllm` writes. Raises UsageError unless SIDs have three
    levels, DataError for an id that is no number."""
    assert export.tokens is not None  # "must" in FORMATS
    if bundle.space.levels != XLLM_LEVELS:
        raise UsageError(
            f"xLLM needs semantic IDs of {XLLM_LEVELS} levels, and these have {bundle.space.levels}"
        )
    rows = rows_with_tokens(bundle, export.tokens)
    for row in rows:  # a list of them would grow with the catalog
        item_id = bundle.items.ids[int(row)]
        if not are_numbers([item_id]):
            raise DataError(f"xLLM needs item ids that are numbers, not {item_id[:60]!r}")
    return rows


def _blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def model_tokens(model: str | Path, bundle: Bundle | str | Path) -> SidTokens:
    """The token ids of a bundle's codes in a model; reads no weights.

    Raises CompatibilityError unless bundle and model belong together, DataError if the model's
    configuration does not say how many tokens it scores.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> tokens = sidtool.model_tokens("base+sid", bundle)
        >>> len(tokens.level_ids), tokens.start == int(tokens.level_ids[0][0])
        (3, True)
    """
    folder = model_folder(model)
    contract, _, _ = check_model_folder(folder, opened(bundle, "open_bundle"))
    config = folder / CONFIG
    if not config.is_file():
        raise DataError(
            f"{folder} has no {CONFIG}: engines serve whole models, not adapters",
            hint=f"sidtool merge {folder} -o NEW",
        )
    settings: dict[str, Any] = read_object(config)
    nested = settings.get("text_config")
    sizes = [part.get("vocab_size") for part in (settings, nested) if isinstance(part, dict)]
    usable = [size for size in sizes if type(size) is int and 0 < size <= MAX_TOKEN_ID]
    if not usable:
        raise DataError(
            f"{config} does not say how many tokens the model has: no vocab_size up to "
            f"{MAX_TOKEN_ID}"
        )
    largest = max(int(ids.max()) for ids in contract.tokens.level_ids)
    if largest >= usable[0]:
        raise CompatibilityError(
            f"{folder} scores {usable[0]} tokens, but has the SID token {largest}"
        )
    return contract.tokens


def rows_with_tokens(bundle: Bundle, tokens: SidTokens) -> NDArray[np.int64]:
    """The rows (n,) of the active items of which every code has a token; a SidtoolWarning counts
    the others. Raises DataError if no row is left."""
    rows = bundle.active
    lacking = tokens.lacking(bundle.items.codes[rows])
    n_lacking = int(np.count_nonzero(lacking))
    if n_lacking == len(rows):
        raise DataError(f"the model has no tokens for the SIDs of all {n_lacking} items")
    if n_lacking:
        warnings.warn(
            f"{n_lacking} of {len(rows)} items are left out: the model has no token for a code of "
            "their SID",
            SidtoolWarning,
            stacklevel=3,
        )
    return rows[~lacking]
