"""OpenOneRec: the Parquet maps of its RecIF data (`video_ad_pid2sid.parquet`,
`product_pid2sid.parquet`).

Columns are `pid` (an integer, or a string if some ids are not numbers) and `sid`, a list of one
code per level, or the spelled SID: `<|sid_begin|><s_a_1><s_b_2><s_c_3><|sid_end|>`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings, file_digest
from sidtool.base.errors import DataError
from sidtool.base.output import new_file
from sidtool.data import Items, rows_in
from sidtool.data.tables import (
    id_strings,
    open_dataset,
    parquet_column_names,
    read_errors,
    whole_tables,
)
from sidtool.integrations.formats.maps import (
    Export,
    Exported,
    are_numbers,
    level_sizes,
    map_bundle,
    parse_tokens,
    sorted_active_rows,
)
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import SPELLINGS, SidSpace


def read_openonerec(
    path: Path, *, name: str, sizes: tuple[int, ...] | None = None, items: Items | None = None
) -> Bundle:
    """The bundle of a Parquet map, a file or a folder of such; titles come from `items`.

    Raises DataError if a column is missing, a SID is malformed or an item is repeated or not in
    `items`, UsageError if the sizes do not fit the codes.
    """
    import pyarrow as pa

    with read_errors(path):
        files = [Path(file) for file in open_dataset(path).files]
        names = parquet_column_names(path)
        wanted = [name for name in ("pid", "sid") if name in names]
        tables = list(whole_tables(path, wanted)) if wanted else []
        table = pa.concat_tables(tables) if tables else pa.table({})
        table.validate(full=True)
    if table.num_columns != 2 or not table.num_rows:
        raise DataError(
            f"{path} has no rows with the columns pid and sid", hint=f"it has {', '.join(names)}"
        )
    if table["pid"].null_count or table["sid"].null_count:
        raise DataError(f"{path}: a pid or sid is empty")
    ids = id_strings(path, "pid", table["pid"]).to_pylist()
    codes = _codes(path, ids, table["sid"])
    space = SidSpace(level_sizes(codes, sizes), **SPELLINGS["openonerec"])  # type: ignore[arg-type]
    titles = None if items is None else [items.titles[row] for row in rows_in(items.ids, ids)]
    digests = [file_digest(file) for file in files]
    digest = digests[0] if path.is_file() else digest_strings(digests)
    source = {"system": "openonerec", "map": digest}
    return map_bundle(space, ids, codes, titles, name=name, source=source, catalog=items)


def write_openonerec(bundle: Bundle, path: Path, export: Export) -> Exported:
    """Write the active items as `pid` and `sid` (lists of codes), sorted by id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids, rows = sorted_active_rows(bundle)
    codes = bundle.items.codes[rows]
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * codes.shape[1]
    sids = pa.ListArray.from_arrays(offsets, codes.ravel().astype("i8"))
    pids = [int(item) for item in ids] if are_numbers(ids) else ids
    with new_file(path, force=export.force) as target:
        pq.write_table(pa.table({"pid": pids, "sid": sids}), target)
    return Exported((path,))


def _codes(path: Path, ids: list[str], column: Any) -> NDArray[np.int64]:
    """(n, levels) codes of a column of lists, or of spelled SIDs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _spelled_codes(path, ids, column.to_pylist())
    list_types = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_list(kind) for is_list in list_types) or not pa.types.is_integer(kind.value_type):
        raise DataError(f"{path}: the column sid has type {kind}, not lists of codes")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    codes = pc.list_flatten(column)
    if len(lengths) != 1 or lengths == [0]:
        spelled = " and ".join(map(str, sorted(lengths)))
        raise DataError(f"{path}: SIDs have {spelled} codes, but all need the same number, above 0")
    if codes.null_count:
        raise DataError(f"{path}: a sid has an empty code")
    return np.asarray(codes.to_numpy(), dtype=np.int64).reshape(len(ids), lengths[0])


def _spelled_codes(path: Path, ids: list[str], sids: list[str]) -> NDArray[np.int64]:
    begin = SPELLINGS["openonerec"]["begin"] or ""
    end = SPELLINGS["openonerec"]["end"] or ""
    tokens = {}
    for item, sid in zip(ids, sids, strict=True):
        spelled = sid.removeprefix(begin).removesuffix(end)
        tokens[item] = re.findall("<s_[a-z]_[0-9]+>", spelled)
        if "".join(tokens[item]) != spelled:
            raise DataError(
                f"{path}: pid {item!r} has {sid[:60]!r}, not a sid spelled like "
                "<s_a_1><s_b_2><s_c_3>",
                hint="an index.json, with a list of tokens for each item, may have any spelling",
            )
    lengths = {len(sid) for sid in tokens.values()}
    if len(tokens) != len(ids) or len(lengths) != 1 or lengths == {0}:
        raise DataError(
            f"{path}: every pid needs one row, with a sid spelled like <s_a_1><s_b_2><s_c_3>"
        )
    return parse_tokens(path, tokens)[1]
