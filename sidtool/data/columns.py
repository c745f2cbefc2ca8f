"""Which column of a table holds what: named by the user, recorded by an artifact, or guessed.

Names are guessed in tiers. A column of an earlier tier wins, and two columns of one tier are
ambiguous. Names are compared without case, `_`, `-` and blanks: `movieId` is `movie_id`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord

Tiers = tuple[tuple[str, ...], ...]

ID_COLUMNS: Tiers = (
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
)
"""Names of an item id column."""
TITLE_COLUMNS: Tiers = (
    ("title",),
    ("movie_title", "item_title", "product_title", "item_name", "product_name", "headline"),
    ("name",),
)
"""Names of a title column."""
USER_COLUMNS: Tiers = (
    ("user_id",),
    ("reviewer_id", "customer_id", "client_id", "member_id", "account_id", "visitor_id"),
    ("uid", "user", "customer", "client", "member", "visitor", "reviewer"),
    ("session_id", "session"),
)
"""Names of a user column."""
ORDER_COLUMNS: Tiers = (
    ("timestamp",),
    ("unix_review_time", "sort_timestamp", "time_ms", "event_time"),
    (
        *("bought_at", "purchased_at", "ordered_at", "viewed_at", "clicked_at", "rated_at"),
        *("played_at", "watched_at", "reviewed_at", "happened_at"),
    ),
    ("time", "ts", "datetime"),
    ("date", "purchase_date", "order_date", "event_date", "created_at"),
    ("order", "position"),
)
"""Names of a timestamp or order column."""
HISTORY_COLUMNS: Tiers = (
    ("history_item_id",),
    ("item_id_list",),
    ("history_item_ids", "history_ids", "history_items", "history"),
)
"""Names of the history column of a windowed file."""


@dataclass(frozen=True)
class CatalogColumns(JsonRecord):
    """The columns that a catalog was read from; a bundle records them."""

    id: str
    title: str | None = None
    """None: the catalog has no titles."""


@dataclass(frozen=True)
class EventColumns(JsonRecord):
    """The columns that events were read from; a split and its reference record them."""

    user: str
    item: str
    order: str | None
    """None: the order of the rows was meant."""


def choose_column(
    path: Path,
    available: Sequence[str],
    named: str | None,
    conventional: Tiers,
    content: str,
    hint: str = "rename one of them",
    *,
    recorded: str | None = None,
) -> str | None:
    """The column `named`, else the `recorded` one if the file has it, else a guess, else None.

    `content` describes the column in errors, `hint` says how to name it. Raises UsageError if the
    file lacks the named column, or two columns of one tier could be meant.
    """
    if named is not None:
        if named not in available:
            raise UsageError(
                f"{path} has no column {named!r} for the {content}",
                hint=f"it has {', '.join(available)}",
            )
        return named
    if recorded in available:
        return recorded
    for tier in conventional:
        names = {_plain_name(name) for name in tier}
        matches = [each for each in available if _plain_name(each) in names]
        if len(matches) > 1:
            raise UsageError(
                f"{path} has two columns that look like the {content}: {matches[0]!r} and "
                f"{matches[1]!r}",
                hint=hint,
            )
        if matches:
            return matches[0]
    return None


def need_column(
    path: Path,
    available: Sequence[str],
    named: str | None,
    conventional: Tiers,
    content: str,
    hint: str,
    *,
    recorded: str | None = None,
) -> str:
    """As `choose_column`, but raises UsageError if there is none."""
    name = choose_column(path, available, named, conventional, content, hint, recorded=recorded)
    if name is None:
        raise UsageError(
            f"{path} has no column that looks like the {content}: {', '.join(available)}",
            hint=hint,
        )
    return name


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
