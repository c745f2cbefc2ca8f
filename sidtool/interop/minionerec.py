"""MiniOneRec, LC-Rec and LETTER: `index.json` and `info.txt`.

`index.json` is what `json.dump` writes of {"0": ["<a_236>", "<b_231>", "<c_226>"], ...}: item key
-> one token a level. `info.txt` has a line `SID<TAB>title<TAB>key` an item. Keys are item ids, or
(`keys="line"`) 0-based lines of the catalog. How tokens are spelled is read from the file, and
written as the bundle spells them: another spelling would name other tokens. Retired items are not
written."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.data.items import Items
from sidtool.errors import DataError, UsageError
from sidtool.interop.maps import level_sizes, map_bundle, ordered_rows, parse_tokens
from sidtool.output import new_dir
from sidtool.sid import SidSpace

INDEX, INFO = "index.json", "info.txt"

Keys = Literal["id", "line"]


def read_minionerec(
    path: Path,
    *,
    name: str,
    sizes: tuple[int, ...] | None = None,
    items: Items | None = None,
    info: Path | None = None,
    keys: Keys = "id",
) -> Bundle:
    """A bundle of an `index.json`; titles from `info`, or else from `items`.

    Raises UsageError if keys are lines and no items are given or the sizes do not fit, DataError
    for a malformed file, a key without an item, or an `info` that says other SIDs."""
    data = path.read_bytes()
    index = _parse_index(path, data)
    template, codes = parse_tokens(path, index)
    space = SidSpace(level_sizes(codes, sizes), template, None, None)
    names = tuple(index)
    ids = names if keys == "id" else _ids_of_lines(path, names, items)
    titles = None
    if info is not None:
        titles = _titles_of_info(info, index)
    elif items is not None:
        known = dict(zip(items.ids, items.titles, strict=True))
        if unknown := [item for item in ids if item not in known]:
            raise DataError(
                f"{path}: {len(unknown)} of {len(ids)} keys are no item of the catalog (first: "
                f"{unknown[0]!r})",
                hint="--keys line where keys are line numbers of the catalog",
            )
        titles = [known[item] for item in ids]
    source = {"system": "minionerec", "index": hashlib.sha256(data).hexdigest()}
    return map_bundle(space, ids, codes, titles, name=name, source=source)


def write_minionerec(
    bundle: Bundle,
    folder: Path,
    *,
    items: Items | None = None,
    keys: Keys = "id",
    force: bool = False,
) -> list[Path]:
    """Write `index.json`, and `info.txt` where titles are known (the bundle's, or else those of
    `items`).

    In the order of `items` if given, else of the ids: by number if they all are. Returns the files.
    Raises UsageError if keys are lines and no items are given, DataError if `items` lacks an item
    of the bundle."""
    rows, names, titles = _listing(bundle, items, keys)
    codes = bundle.items.codes[rows].tolist()
    tokens = [[bundle.space.token(level, code) for level, code in enumerate(sid)] for sid in codes]
    with new_dir(folder, force=force) as work:
        (work / INDEX).write_text(
            json.dumps(dict(zip(names, tokens, strict=True))), encoding="utf-8"
        )
        if titles is not None:
            lines = zip(tokens, titles, names, strict=True)
            text = "".join(
                f"{''.join(sid)}\t{_one_cell(title)}\t{name}\n" for sid, title, name in lines
            )
            (work / INFO).write_bytes(text.encode("utf-8"))
    return [folder / INDEX, *([folder / INFO] if titles is not None else [])]


def _parse_index(path: Path, data: bytes) -> dict[str, list[str]]:
    try:
        index = json.loads(data, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise DataError(f"{path} is no index: {error}") from error
    if not isinstance(index, dict) or not index:
        raise DataError(
            f"{path} is no index: it holds no JSON object of items",
            hint='{"0": ["<a_1>", "<b_2>"], ...}',
        )
    levels = len(next(iter(index.values()))) if isinstance(next(iter(index.values())), list) else 0
    for key, sid in index.items():
        if (
            not isinstance(sid, list)
            or len(sid) != levels
            or not all(isinstance(token, str) for token in sid)
        ):
            raise DataError(
                f"{path}: item {key!r} has {sid!r}, not a list of {levels or 'some'} tokens"
            )
    if not levels:
        raise DataError(f"{path}: item {next(iter(index))!r} has no tokens")
    return index


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"{len(pairs) - len(found)} keys are there twice")
    return found


def _ids_of_lines(path: Path, names: Sequence[str], items: Items | None) -> tuple[str, ...]:
    if items is None:
        raise UsageError("keys are lines of a catalog, and none is given", hint="--items ITEMS")
    wrong = [
        name for name in names if not (name.isascii() and name.isdigit() and int(name) < len(items))
    ]
    if wrong:
        raise DataError(
            f"{path}: key {wrong[0]!r} is no line of a catalog of {len(items)} items (from 0)"
        )
    return tuple(items.ids[int(name)] for name in names)


def _titles_of_info(path: Path, index: dict[str, list[str]]) -> list[str]:
    """The title of every key of the index, "" where `info.txt` has no line for it."""
    titles = {}
    try:
        text = path.read_bytes().decode("utf-8")  # read_text would end lines at "\r", too
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}") from error
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        sid, first, rest = line.partition("\t")
        title, second, key = rest.rpartition("\t")
        if not (first and second):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} is not SID, title and key between tabs"
            )
        if key in index and "".join(index[key]) != sid:
            raise DataError(
                f"{path}, line {number}: item {key!r} has {sid}, the index says "
                f"{''.join(index[key])}"
            )
        titles[key] = title
    return [titles.get(key, "") for key in index]


def _listing(
    bundle: Bundle, items: Items | None, keys: Keys
) -> tuple[NDArray[np.int64], list[str], list[str] | None]:
    """Rows of the bundle, keys and titles, in the order in which they are written."""
    ids, rows = ordered_rows(bundle)
    titles = (
        [bundle.items.title(int(row)) for row in rows] if bundle.items.titles is not None else None
    )
    if items is None and keys == "line":
        raise UsageError("keys are lines of a catalog, and none is given", hint="--items ITEMS")
    if items is None:
        return rows, ids, titles
    lines = {item: line for line, item in enumerate(items.ids)}
    if missing := [item for item in ids if item not in lines]:
        raise DataError(
            f"the catalog lacks {len(missing)} of {len(ids)} items of the bundle (first: "
            f"{missing[0]!r})"
        )
    places = [lines[item] for item in ids]
    order = np.argsort(places).tolist()
    names = ids if keys == "id" else [str(line) for line in places]
    titles = titles or [items.titles[line] for line in places]
    return rows[order], [names[place] for place in order], [titles[place] for place in order]


def _one_cell(title: str) -> str:
    """A title without what would end its cell or its line."""
    return re.sub(r"[\t\r\n]+", " ", title)
