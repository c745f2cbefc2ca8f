"""Which column of a table holds what: named by the user, recorded by an artifact, or guessed.

Names are guessed in tiers. A column of an earlier tier wins, and two columns of one tier are
ambiguous. Names are compared without case, `_`, `-` and blanks: `movieId` is `movie_id`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord
from sidtool.data.times import check_time_format

Tiers = tuple[tuple[str, ...], ...]
Order = Literal["column", "row"]
"""What orders events: a column, or the rows of the file."""

TIME = "time or order of an event"
GUESSES: Mapping[str, Tiers] = {
    "item id": (
        ("item_id",),
        ("parent_asin",),
        ("asin",),
        (
            *("sku", "item_sku", "product_sku", "product_id", "goods_id", "listing_id", "offer_id"),
            *("movie_id", "video_id", "track_id", "song_id", "artist_id", "book_id", "isbn"),
            *("news_id", "article_id", "business_id", "recipe_id", "game_id"),
        ),
        ("iid", "item", "product"),
        ("id",),
    ),
    "title": (
        ("title",),
        (
            *("movie_title", "item_title", "product_title", "item_name", "product_name"),
            *("headline", "book_title", "track_title", "song_title", "game_title", "video_title"),
            *("movie_name", "game_name", "book_name", "track_name", "song_name", "artist_name"),
        ),
        ("name",),
    ),
    "user id": (
        ("user_id",),
        ("reviewer_id", "customer_id", "client_id", "member_id", "account_id", "visitor_id"),
        ("uid", "user", "customer", "client", "member", "visitor", "reviewer"),
        ("session_id", "session"),
    ),
    TIME: (
        ("timestamp",),
        ("unix_review_time", "sort_timestamp", "time_ms", "event_time"),
        (
            *("bought_at", "purchased_at", "ordered_at", "viewed_at", "clicked_at", "rated_at"),
            *("played_at", "watched_at", "reviewed_at", "happened_at"),
        ),
        ("time", "ts", "datetime"),
        ("date", "purchase_date", "order_date", "event_date", "created_at"),
        ("order", "position"),
    ),
    "history": (
        ("history_item_id",),
        ("item_id_list",),
        ("history_item_ids", "history_ids", "history_items", "history"),
    ),
    "vector": (("vector", "embedding", "embeddings", "vectors", "emb"),),
}
"""What a column holds -> the names by which it is guessed."""


@dataclass(frozen=True)
class CatalogColumns(JsonRecord):
    """The columns that a catalog was read from; a bundle records them."""

    id: str
    title: str | None = None
    """None: the catalog has no titles."""


@dataclass(frozen=True)
class EventColumns(JsonRecord):
    """The columns that events were read from; a split and its reference record them."""

    OMITTED = ("time_format",)
    user: str
    item: str
    order: str | None
    """None: the order of the rows was meant."""
    time_format: str | None = None
    """Format of the dates in it (codes of strftime); None for numbers and ISO dates."""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.user, self.item, self.order)))


@dataclass(frozen=True)
class EventNames:
    """Columns of events as a user names them. Raises UsageError for a column of an order that is
    that of the rows."""

    user: str | None = option(None, flag="--user-column")
    """Event column of user ids; guessed by default."""
    item: str | None = option(None, flag="--item-column")
    """Event column of item ids; guessed by default."""
    order: str | None = option(None, flag="--order-column")
    """Event column of time or order; guessed by default."""
    order_by: Order = option("column", flag="--order")
    """What orders events: a column of time or order, or the rows of the file."""
    time_format: str | None = option(None, flag="--time-format", metavar="FORMAT")
    """Format of the times of the events, like '%d/%m/%Y' (codes of strftime), if they are neither
    numbers nor ISO dates."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.order_by == "row" and self.order is not None:
            raise UsageError("--order row and --order-column contradict each other")
        if self.order_by == "row" and self.time_format is not None:
            raise UsageError("--time-format requires a column of times, not --order row")
        if self.time_format is not None:
            check_time_format(self.time_format)


@dataclass(frozen=True)
class Header:
    """The names of a table's columns."""

    path: Path
    names: Sequence[str]

    def check(self, name: str, content: str) -> None:
        """Raise UsageError unless the table has the column `name`, which holds some content."""
        if name not in self.names:
            raise UsageError(
                f"{self.path} has no column {name!r} for the {content}",
                hint=f"it has {', '.join(self.names)}",
            )

    def choose(
        self, content: str, hint: str, *, named: str | None = None, recorded: str | None = None
    ) -> str | None:
        """The column `named`, else the `recorded` one if the table has it, else a guess, else None.

        `content`, a key of GUESSES, describes the column in errors, `hint` says how to name it.
        Raises UsageError if the table lacks the named column, or two columns of one tier could be
        meant."""
        if named is not None:
            self.check(named, content)
            return named
        if recorded in self.names:
            return recorded
        for tier in GUESSES[content]:
            plain_names = {_plain_name(name) for name in tier}
            matches = [name for name in self.names if _plain_name(name) in plain_names]
            if len(matches) > 1:
                raise UsageError(
                    f"{self.path} has two columns that look like the {content}: {matches[0]!r} and "
                    f"{matches[1]!r}",
                    hint=hint,
                )
            if matches:
                return matches[0]
        return None

    def need(
        self, content: str, hint: str, *, named: str | None = None, recorded: str | None = None
    ) -> str:
        """As `choose`, but raises UsageError if there is none."""
        name = self.choose(content, hint, named=named, recorded=recorded)
        if name is None:
            raise self.lacking([content], hint)
        return name

    def lacking(self, contents: Iterable[str], hint: str) -> UsageError:
        """The error for columns that are neither named nor guessed."""
        return UsageError(
            f"{self.path} has no column that looks like the {', the '.join(contents)}: "
            f"{', '.join(self.names)}",
            hint=hint,
        )

    def catalog(
        self,
        id_column: str | None = None,
        title_column: str | None = None,
        recorded: CatalogColumns | None = None,
    ) -> CatalogColumns:
        """The columns of ids and titles; arguments and errors as in `read_items`."""
        past = recorded.id if recorded else None
        item_id = self.need("item id", "name it with --id-column", named=id_column, recorded=past)
        past = recorded.title if recorded else None
        hint = "name it with --title-column"
        title = self.choose("title", hint, named=title_column, recorded=past)
        return CatalogColumns(item_id, title)

    def events(
        self, named: EventNames, recorded: EventColumns | None = None, *, has_options: bool = False
    ) -> EventColumns:
        """The columns of events; errors as in `read_interactions`. `has_options` says whether the
        command itself has the options that name them, as `check` has."""
        path = self.path
        command = (
            "name it with" if has_options else f"`sidtool split {path} -o SPLIT` names it with"
        )
        if named.user is named.item is None and self.choose("history", "rename one of them"):
            raise UsageError(
                f"{path} holds windows (histories and targets), not events",
                hint=f"sidtool split {path} --protocol given --valid FILE --test FILE -o FOLDER",
            )
        names_times = named.order is not None or named.time_format is not None
        rows_ordered = recorded is not None and recorded.order is None and not names_times
        past = recorded or EventNames()
        contents_by_flag = {
            "--user-column": ("user id", named.user, past.user),
            "--item-column": ("item id", named.item, past.item),
            "--order-column": (TIME, named.order, past.order),
        }
        if named.order_by == "row" or rows_ordered:
            del contents_by_flag["--order-column"]
        column_by_flag = {}
        missing = {}
        for flag, (content, name, recorded_name) in contents_by_flag.items():
            column = self.choose(content, f"{command} {flag}", named=name, recorded=recorded_name)
            if column is None:
                missing[flag] = content
            else:
                column_by_flag[flag] = column
        if missing:
            rows = ", or with --order row if the rows are in order"
            hint = f"{command} {', '.join(missing)}{rows if '--order-column' in missing else ''}"
            raise self.lacking(missing.values(), hint)
        if len(set(column_by_flag.values())) < len(column_by_flag):
            flags = ", ".join(f"{flag} {column}" for flag, column in column_by_flag.items())
            raise UsageError(f"{path}: user, item and order need different columns, not {flags}")
        order = column_by_flag.get("--order-column")
        time_format = named.time_format
        if recorded is not None and recorded.order == order:
            time_format = time_format or recorded.time_format
        return EventColumns(
            column_by_flag["--user-column"], column_by_flag["--item-column"], order, time_format
        )


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
