"""The catalog: its items, their titles, and the text of each item, made from columns by a
template."""

import re
import string
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError, SidtoolWarning, UsageError, raised_as
from sidtool.base.locations import given_path
from sidtool.base.options import option
from sidtool.data.coded import Texts, arrow_values
from sidtool.data.columns import CatalogColumns, Header
from sidtool.data.tables.json_tables import parse_list
from sidtool.data.tables.tables import column_names, read_columns, rows_by_id

DEFAULT_TEMPLATE = "{title}"
CLOSING = ")]}>»”’"
"""Characters after a field that belong to it."""
BROKEN_LIST = re.compile(r"""\[['"].*['"]\]""", re.DOTALL)
"""A Python list whose members contain unescaped quotes: one in 200 of MiniOneRec's descriptions."""
SEPARATORS = " .,;:|/-–—"
"""Characters that are left out in front of the first field that is not empty."""


@dataclass(frozen=True, kw_only=True)
class CatalogNames:
    """The columns of a catalog; None: guessed."""

    id_column: str | None = option(None)
    """Catalog column of item ids; guessed by default."""
    title_column: str | None = option(None)
    """Catalog column of titles; guessed by default."""

    def require_path(self, items: object) -> None:
        """Raise UsageError if an option is given but `items` is no path, so that nothing is read
        with it."""
        set_names = [name for name, value in asdict(self).items() if value is not None]
        if set_names and not isinstance(items, str | Path):
            raise UsageError(f"{set_names[0]} is for a catalog that is given by its path")


@dataclass(frozen=True, kw_only=True)
class TextNames(CatalogNames):
    """The columns of a catalog and of the texts of its items."""

    text_template: str | None = option(None)
    """Text of an item from columns, like "{title}. {description}". Default: the title; with a
    bundle, as it was built."""


@dataclass(frozen=True)
class Items:
    """n items in file order."""

    ids: Sequence[str]
    """Tuples, as the titles and texts, or Texts."""
    titles: Sequence[str]
    """An item without a title has an empty one."""
    texts: Sequence[str]
    """Made from the text template."""
    fields: Mapping[str, Sequence[str]]
    """Column -> its n cells as plain text: the columns that were named beside title and id."""
    text_template: str
    digest: str
    """SHA-256 over ids, titles and texts."""
    columns: CatalogColumns | None = None
    """The columns that ids and titles were read from; None if they were not read from a file."""
    folder: Path | None = None
    """Where unnamed files hold the columns; None: they are in memory."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """Number of items, their first id, the text template and the columns."""
        first = f", the first is {self.ids[0]!r}" if self.ids else ""
        columns = f", columns {', '.join(self.fields)}" if self.fields else ""
        return f"<{len(self)} items{first}: text {self.text_template!r}{columns}>"


def rows_in(catalog: Sequence[str], ids: Sequence[str], hint: str | None = None) -> list[int]:
    """The places of ids among those of a catalog. Raises DataError for ids that it lacks."""
    rows = {item: row for row, item in enumerate(catalog)}
    missing = [item for item in ids if item not in rows]
    if missing:
        raise DataError(
            f"the catalog lacks {len(missing)} of {len(ids)} items (first: {missing[0]!r})",
            hint=hint,
        )
    return [rows[item] for item in ids]


def read_items(
    path: str | Path,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    text_template: str | None = None,
    fields: Sequence[str] = (),
    recorded: CatalogColumns | None = None,
    packed: bool = False,
    folder: str | Path | None = None,
) -> Items:
    """Read a catalog from a file of any type (`tables.CONTAINERS`).

    Columns that are not named are those that a bundle has `recorded`, if the file has them, or
    guessed (`columns.GUESSES`). In the template, `{title}` is the title column, any other `{name}`
    a column of the file. An item with an empty text gets its id as text, with a SidtoolWarning.
    With an empty template every text is the id. `packed`: all columns are Texts, which take a fifth
    of the memory and are slower to index; with a `folder` they are in unnamed files there, and take
    none.

    Raises UsageError for a missing column, DataError for malformed rows, empty and duplicate
    ids."""
    path = given_path(path)
    template = DEFAULT_TEMPLATE if text_template is None else text_template
    header = Header(path, column_names(path))
    columns = header.catalog(id_column, title_column, recorded)
    id_name = columns.id
    title_name = columns.title
    sources = {
        name: _source(header, title_name, name)
        for name in (*(template_columns(template) if template else ()), *fields)
    }
    text_columns = [*sources.values(), *([title_name] if title_name else [])]
    place = Path(folder) if packed and folder is not None else None
    table = read_columns(path, [id_name, *text_columns], ids=[id_name], folder=place)
    hold: Callable[[Iterable[str]], Sequence[str]] = tuple
    if packed:
        hold = partial(Texts.packed, folder=place)
    ids = hold(value or "" for value in arrow_values(table[id_name]))
    if not ids:
        raise DataError(f"{path} holds no items")
    if not (isinstance(ids, Texts) and Texts(ids.arrow).are_distinct and all(ids)):
        rows_by_id(path, ids, "item")
    plain = {name: hold(map(plain_text, arrow_values(table[name]))) for name in {*text_columns}}
    titles = plain[title_name] if title_name else hold(repeat("", len(ids)))
    columns_of_text = {name: plain[source] for name, source in sources.items()}
    texts: Sequence[str]
    if not template:
        texts = ids
    elif template == DEFAULT_TEMPLATE:  # the usual case, without parsing the template per item
        texts = columns_of_text["title"]
    else:
        names = columns_of_text.keys()
        rows = zip(*columns_of_text.values(), strict=True)
        texts = hold(render(template, dict(zip(names, row, strict=True))) for row in rows)
    empty = [row for row, text in enumerate(texts) if not text]
    if empty:
        warnings.warn(
            f"{path}: {len(empty)} of {len(ids)} items have no text (first: {ids[empty[0]]!r}, row "
            f"{empty[0] + 1}); their id is used as text",
            SidtoolWarning,
            stacklevel=2,
        )
        texts = hold(text or item for text, item in zip(texts, ids, strict=True))
    item_fields = {name: plain[sources[name]] for name in fields}
    items = make_items(ids, titles, texts, fields=item_fields, template=template)
    return replace(items, columns=columns, folder=place)


def make_items(
    ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    *,
    fields: Mapping[str, Sequence[str]],
    template: str,
) -> Items:
    """Items from columns in memory, with their digest."""
    return Items(ids, titles, texts, fields, template, digest_strings(ids, titles, texts))


def plain_text(value: str | None) -> str:
    """A cell as one line of plain text. The members of a list ("['a', 'b']", '["a", "b"]', nested
    or not) are joined."""
    if value is None:
        return ""
    if value.startswith("["):
        members = parse_list(value)
        if members is None and BROKEN_LIST.fullmatch(value):
            members = re.split(r"""['"], ['"]""", value[2:-2].replace("\\n", " "))
        if members is not None and all(isinstance(member, str | list) for member in members):
            value = _join(_flatten(members))
    return " ".join(value.split())


def template_columns(template: str) -> tuple[str, ...]:
    """The column names in a text template. Raises UsageError if it is malformed or names none."""
    names = tuple(dict.fromkeys(name for _, name in _parts(template) if name is not None))
    if not names:
        raise UsageError(
            f"text template {template!r} names no column",
            hint="write for example '{title}. {brand}'",
        )
    return names


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with the values filled in; the literal text around an empty value is left out.

    The text before a field belongs to the field, and so do closing brackets after it: "{title}.
    {brand} ({year})" gives "T (1999)" for an empty brand. A full stop is not doubled: "Wow!" and
    "B" give "Wow! B"."""
    text = ""
    value = ""
    for index, (literal, name) in enumerate(_parts(template)):
        opening = literal.lstrip(CLOSING)
        closing = literal[: len(literal) - len(opening)]
        if value:  # of the field before
            text += closing
        if name is not None:  # the final text belongs to the last field
            value = values[name]
        if not value:
            continue
        if text and text[-1] in ".!?":
            opening = opening.removeprefix(".")
        elif not text and index > 0:
            opening = opening.lstrip(SEPARATORS)
        text += opening + (value if name is not None else "")
    return " ".join(text.split())


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Pairs of a column name and the text before it; the last one is the final text and None."""
    with raised_as(UsageError, f"text template {template!r} is malformed", errors=(ValueError,)):
        parsed = list(string.Formatter().parse(template))
    if any(name == "" or spec or conversion for _, name, spec, conversion in parsed):
        raise UsageError(
            f"text template {template!r} is malformed: braces hold a column name and nothing else"
        )
    parts: list[tuple[str, str | None]] = []
    before = ""
    for literal, name, _, _ in parsed:  # an escaped brace also ends a part
        before += literal
        if name is not None:
            parts.append((before, name))
            before = ""
    return [*parts, (before, None)]


def _source(header: Header, title_name: str | None, name: str) -> str:
    """The column of the file for a name in the template or in `fields`."""
    if name == "title" and title_name is not None:
        return title_name
    if name not in header.names:
        hint = f"it has {', '.join(header.names)}" + (
            "; --title-column names the title" if name == "title" else ""
        )
        raise UsageError(f"{header.path} has no column {name!r}", hint=hint)
    return name


def _flatten(members: Sequence[Any]) -> list[str]:
    return [
        text
        for member in members
        for text in (_flatten(member) if isinstance(member, list) else [str(member)])
    ]


def _join(members: Sequence[str]) -> str:
    """Members joined: after the end of a sentence by a blank, otherwise by a comma."""
    text = ""
    for member in filter(None, (" ".join(member.split()) for member in members)):
        text += ("" if not text else " " if text[-1] in ".!?:;," else ", ") + member
    return text
