"""MiniOneRec, LC-Rec and LETTER: `index.json` and `info.txt`.

`index.json` maps item keys to one token per level: {"0": ["<a_236>", "<b_231>", "<c_226>"], ...}.
`info.txt` has one line per item: SID, title and key, separated by tabs. Keys are item ids, or
(`keys="line"`) line numbers of the catalog, from 0. The token spelling is read from the file and
written as in the bundle. Retired items are not written.
"""

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import file_digest
from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import new_dir
from sidtool.data import Items, rows_in
from sidtool.data.tables import open_file, read_errors
from sidtool.integrations.formats.maps import (
    NUMBER,
    Export,
    Exported,
    Keys,
    level_sizes,
    map_bundle,
    parse_tokens,
    sorted_active_rows,
)
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import SidSpace

INDEX = "index.json"
INFO = "info.txt"
BETWEEN_CELLS = re.compile(r"[\t\r\n]+")
"""What ends a cell or a line of `info.txt`."""


def read_minionerec(
    path: Path,
    *,
    name: str,
    sizes: tuple[int, ...] | None = None,
    items: Items | None = None,
    info: Path | None = None,
    keys: Keys = "id",
) -> Bundle:
    """The bundle of an `index.json`; titles come from `info`, or else from `items`.

    Raises UsageError if keys are line numbers and `items` is missing, or if the sizes do not fit;
    DataError for a malformed file, a key without an item, or an `info` with other SIDs.
    """
    index = _parse_index(path)
    template, codes = parse_tokens(path, index)
    space = SidSpace(level_sizes(codes, sizes), template, None, None)
    index_keys = tuple(index)
    ids = index_keys
    if keys == "line":
        if items is None:
            raise _no_catalog()
        for key in index_keys:
            if not (NUMBER.fullmatch(key) and int(key) < len(items)):
                raise DataError(
                    f"{path}: key {key!r} is not a line number of a catalog of {len(items)} items "
                    "(from 0)"
                )
        ids = tuple(items.ids[int(key)] for key in index_keys)
    titles = None
    if info is not None:
        titles = _titles_from_info(info, index)
    elif items is not None:
        hint = "--keys line if keys are line numbers of the catalog"
        titles = [items.titles[row] for row in rows_in(items.ids, ids, hint)]
    source = {"system": "minionerec", "index": file_digest(path)}
    return map_bundle(space, ids, codes, titles, name=name, source=source, catalog=items)


def write_minionerec(bundle: Bundle, folder: Path, export: Export) -> Exported:
    """Write `index.json`, and `info.txt` if the bundle or the catalog has titles.

    Entries are in the order of the catalog, or else of the ids (by number if all are numbers).
    Raises as `minionerec_rows`.
    """
    rows, index_keys, titles = _entries(bundle, export)
    codes = bundle.items.codes[rows].tolist()
    tokens = [[bundle.space.token(level, code) for level, code in enumerate(sid)] for sid in codes]
    with new_dir(folder, force=export.force) as work:
        index = json.dumps(dict(zip(index_keys, tokens, strict=True)))
        (work / INDEX).write_text(index, encoding="utf-8")
        if titles is None:
            lacks = "no info.txt: the bundle has no titles (--items ITEMS adds them)"
            return Exported((folder / INDEX,), lacks=lacks)
        lines = [
            f"{''.join(sid)}\t{BETWEEN_CELLS.sub(' ', title)}\t{key}\n"
            for sid, title, key in zip(tokens, titles, index_keys, strict=True)
        ]
        (work / INFO).write_bytes("".join(lines).encode("utf-8"))
    return Exported((folder / INDEX, folder / INFO))


def _parse_index(path: Path) -> dict[str, list[str]]:
    try:
        with read_errors(path):
            data = path.read_bytes()
        index = parse_json(data)
    except ValueError as error:
        raise DataError(f"{path} is not an index: {error}") from error
    if not isinstance(index, dict) or not index:
        raise DataError(
            f"{path} is not an index: it has no JSON object of items",
            hint='{"0": ["<a_1>", "<b_2>"], ...}',
        )
    first = next(iter(index.values()))
    n_levels = len(first) if isinstance(first, list) else 0
    for key, sid in index.items():
        is_sid = isinstance(sid, list) and all(isinstance(token, str) for token in sid)
        if not is_sid or len(sid) != n_levels:
            expected = f"{n_levels} tokens" if n_levels else "tokens"
            raise DataError(f"{path}: item {key!r} has {sid!r}, not a list of {expected}")
    if not n_levels:
        raise DataError(f"{path}: item {next(iter(index))!r} has no tokens")
    return index


def _titles_from_info(path: Path, index: dict[str, list[str]]) -> list[str]:
    """The title of every key of the index, "" if `info.txt` has no line for it."""
    titles: dict[str, str] = {}
    with read_errors(path), open_file(path) as stream:
        text = stream.read().decode("utf-8")  # read_text would also end lines at "\r"
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        line = line.removesuffix("\r")
        sid, first_tab, title_and_key = line.partition("\t")
        title, last_tab, key = title_and_key.rpartition("\t")
        if not (first_tab and last_tab):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} is not SID, title and key between tabs"
            )
        if key in index and "".join(index[key]) != sid:
            raise DataError(
                f"{path}, line {number}: item {key!r} has {sid}, the index has "
                f"{''.join(index[key])}"
            )
        if titles.setdefault(key, title) != title:
            raise DataError(
                f"{path}, line {number}: item {key!r} has the title {title[:40]!r}, before it had "
                f"{titles[key][:40]!r}"
            )
    if not titles.keys() & index.keys():
        raise DataError(f"{path} has none of the {len(index)} items of the index")
    return [titles.get(key, "") for key in index]


def minionerec_rows(bundle: Bundle, export: Export) -> NDArray[np.int64]:
    """The rows that `write_minionerec` writes, in its order.

    Raises UsageError if keys are line numbers and there is no catalog, DataError if the catalog
    lacks an item or `info.txt` cannot hold an id."""
    return _entries(bundle, export)[0]


def _entries(
    bundle: Bundle, export: Export
) -> tuple[NDArray[np.int64], list[str], list[str] | None]:
    """Rows of the bundle, keys and titles; raises as `minionerec_rows`."""
    items, keys = export.items, export.keys
    ids, rows = sorted_active_rows(bundle)
    index_keys = ids
    titles = None
    if bundle.items.titles is not None:
        titles = [bundle.items.title(int(row)) for row in rows]
    if items is not None:
        item_lines = rows_in(items.ids, ids)
        if keys == "line":
            index_keys = [str(line) for line in item_lines]
        # the bundle's titles take precedence over the catalog's
        titles = titles or [items.titles[line] for line in item_lines]
        order = np.argsort(item_lines).tolist()
        rows = rows[order]
        index_keys = [index_keys[i] for i in order]
        titles = [titles[i] for i in order]
    elif keys == "line":
        raise _no_catalog()
    broken = next((key for key in index_keys if BETWEEN_CELLS.search(key)), None)
    if titles is not None and broken is not None:
        raise DataError(
            f"the id {broken[:60]!r} has a tab or a line end, which separate the cells of {INFO}",
            hint="--keys line --items ITEMS writes line numbers of the catalog in place of ids",
        )
    return rows, index_keys, titles


def _no_catalog() -> UsageError:
    return UsageError("keys are line numbers, but there is no catalog", hint="--items ITEMS")
