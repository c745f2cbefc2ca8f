"""What inference engines are given of a bundle: the catalogs of vllm-gr, NVIDIA's sid-gr-inference,
FlashRec and xLLM."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, DataError, UsageError
from sidtool.base.output import new_file
from sidtool.integrations.formats.export import Export, Exported, ModelTokens
from sidtool.integrations.formats.maps import are_numbers
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
    is_first = np.ones(len(codes), dtype=np.bool_)
    is_first[1:] = (codes[1:] != codes[:-1]).any(axis=1)  # equal SIDs follow each other
    with new_file(path, force=export.force) as target, target.open("w", encoding="utf-8") as stream:
        separator = "["
        for block in _blocks(codes[is_first]):
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
    UsageError if items share a SID.

    {"item_id": "B01", "token_ids": [151669, 151932, 152210]}
    """
    tokens = export.tokens
    assert tokens is not None  # "must" in FORMATS
    items = bundle.items
    shared = CollisionCounts.of(items.codes[bundle.active]).items
    if shared:
        raise UsageError(
            f"sid-gr-inference needs one item for each SID, and {shared} items share one",
            hint="build the codebook with --collisions reassign or append",
        )
    rows = tokens.rows_with_tokens(bundle)
    with new_file(path, force=export.force) as target, target.open("w", encoding="utf-8") as stream:
        for block in _blocks(rows):
            for row, ids in zip(block.tolist(), tokens.ids(bundle, block).tolist(), strict=True):
                line = _json({"item_id": items.ids[row], "token_ids": ids})
                stream.write(f"{line}\n")
    return Exported((path,))


def write_flashrec(bundle: Bundle, path: Path, export: Export) -> Exported:
    """The JSON catalog of FlashRec's `--sid-vocab-file`: the active items in SID order, one SID
    after the other. Raises UsageError if SIDs have no begin and end token.

    It maps comma-separated codes to items: {"12,200,7,1": [{"pid": "B01"}], ...}. The last code is
    that of the end token in a level {begin, end}, so that its probability is part of the score, as
    in FlashRec's own converter."""
    sid = None if export.tokens is None else sid_option(bundle.space, export.tokens)
    if not bundle.space.has_begin_end_tokens:
        raise UsageError(
            "FlashRec needs a begin and an end token around a SID, and this bundle has none"
        )
    items = bundle.items
    keys_and_rows = (
        (",".join(map(str, [*codes, END])), row)
        for block in _blocks(bundle.active)
        for row, codes in zip(block.tolist(), items.codes[block].tolist(), strict=True)
    )
    with new_file(path, force=export.force) as target, target.open("w", encoding="utf-8") as stream:
        separator = "{"
        # equal SIDs follow each other
        for key, with_key in groupby(keys_and_rows, key=lambda pair: pair[0]):
            value = _json([{"pid": items.ids[row]} for _, row in with_key])
            stream.write(f'{separator}"{key}":{value}')
            separator = ","
        stream.write("{}" if separator == "{" else "}")
    engine_options = f"--sid-vocab-file {path}"
    if infers_layout(bundle.space):
        return Exported((path,), engine_options)
    if sid is None:
        lacks = (
            "FlashRec cannot infer the layout of these SIDs: --model MODEL gives its --sid option"
        )
        return Exported((path,), engine_options, lacks)
    return Exported((path,), f"{engine_options} --sid {sid}")


def infers_layout(space: SidSpace) -> bool:
    """Whether FlashRec infers the token layout of this space, from the tokenizer and the first
    key."""
    spelling = {"template": space.template, "begin": space.begin, "end": space.end}
    return space.levels == INFERRED_LEVELS and spelling == SPELLINGS["openonerec"]


def sid_option(space: SidSpace, tokens: ModelTokens) -> str:
    """The value of FlashRec's `--sid` for a model: START:END/SIZES.

    The begin and end tokens are the last level. Raises CompatibilityError unless the token ids are
    one block, as FlashRec computes them by arithmetic.
    """
    start = tokens.block_start
    if start is None:
        raise CompatibilityError(
            "FlashRec needs SID tokens whose ids follow each other level by level, and those of "
            "this model do not",
            hint="serve this model with --to xllm",
        )
    sizes = [*space.sizes, 2]
    return f"{start}:{start + sum(sizes) - 1}/{','.join(map(str, sizes))}"


def write_xllm(bundle: Bundle, path: Path, export: Export) -> Exported:
    """The binary vocabulary of xLLM (`rec_vocab_dict.cpp`), from which it decodes items and, on
    request, constrains beams: the active items in SID order.

    A record has 20 bytes in little-endian order: the item id as int64, then three token ids as
    int32. Raises UsageError unless SIDs have three levels, DataError for an id that is no
    number."""
    tokens = export.tokens
    assert tokens is not None  # "must" in FORMATS
    if bundle.space.levels != XLLM_LEVELS:
        raise UsageError(
            f"xLLM needs semantic IDs of {XLLM_LEVELS} levels, and these have {bundle.space.levels}"
        )
    rows = tokens.rows_with_tokens(bundle)
    with new_file(path, force=export.force) as target, target.open("wb") as stream:
        for block in _blocks(rows):
            ids = [bundle.items.ids[row] for row in block.tolist()]
            if not are_numbers(ids):
                wrong = next(item for item in ids if not are_numbers([item]))
                raise DataError(f"xLLM needs item ids that are numbers, not {wrong[:60]!r}")
            records = np.empty(len(block), dtype=XLLM_RECORD)
            records["item"] = np.array(ids, dtype=np.int64)
            records["tokens"] = tokens.ids(bundle, block)
            stream.write(records.tobytes())
    return Exported((path,))


def _blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
