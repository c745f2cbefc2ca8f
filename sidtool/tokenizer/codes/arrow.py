"""Items and their codes as an Arrow table."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sidtool.tokenizer.sid import Codes, SidSpace


def code_table(
    space: SidSpace, ids: Sequence[str], codes: Codes, titles: Sequence[str] | None
) -> pa.Table:
    """The columns `item_id`, `title` (if there are titles), `codes` (a list of `levels` uint16 per
    item) and `sid` (the spelled SID) of n items, by their (n, levels) codes."""
    columns = {"item_id": pa.array(ids, type=pa.string())}
    if titles is not None:
        columns["title"] = pa.array(titles, type=pa.string())
    flat = pa.array(codes.ravel(), type=pa.uint16())
    columns["codes"] = pa.FixedSizeListArray.from_arrays(flat, space.levels)
    spelled = []
    for level, size in enumerate(space.sizes):
        tokens = pa.array([space.token(level, code) for code in range(size)], type=pa.string())
        spelled.append(tokens.take(pa.array(codes[:, level])))
    columns["sid"] = pc.binary_join_element_wise(*spelled, "")
    return pa.table(columns)
