"""The catalog and the queries that tasks are made of, read with every column that they need."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.options import option
from sidtool.data.columns import CatalogColumns
from sidtool.data.items import CatalogNames, Items, read_items, template_columns
from sidtool.data.queries import Query, compose_queries, read_queries
from sidtool.examples.tasks import named_task


@dataclass(frozen=True)
class TaskCatalogOptions(CatalogNames):
    """How a catalog and its queries are read. Raises UsageError for two sources of queries."""

    fields: tuple[str, ...] = option((), flag="--field")
    """Catalog column that item-text shows; repeatable. The columns of other tasks are read."""
    queries: Path | None = option(None)
    """Search queries {"item", "text"}, optionally "user", for query-to-sid, as JSON Lines or a
    table."""
    query_text: str | None = option(None)
    """Template of a generated query per item, from catalog columns: "{genre} from {year}"."""

    @property
    def has_queries(self) -> bool:
        """Whether there are queries."""
        return self.queries is not None or self.query_text is not None

    def __post_init__(self) -> None:
        if self.queries is not None and self.query_text is not None:
            raise UsageError("give either --queries or --query-text, not both")

    def check_uses(self, tasks: Iterable[str]) -> None:
        """Raise UsageError for queries or columns that none of these tasks shows."""
        tasks = list(tasks)
        if self.has_queries and not any(named_task(task).needs_queries for task in tasks):
            raise UsageError("queries are for a task about them", hint="--task query-to-sid=1")
        if self.fields and "item-text" not in tasks:
            raise UsageError(
                f"columns ({', '.join(self.fields)}) are shown by the task item-text only",
                hint="--task item-text=1, or a task of a column, as sid-to-COLUMN",
            )


def read_catalog(
    items: Path,
    tasks: Iterable[str],
    options: TaskCatalogOptions,
    recorded: CatalogColumns | None = None,
) -> tuple[Items, tuple[Query, ...]]:
    """The catalog with every column that a task or a query shows, and the queries. `recorded` are
    the columns of ids and titles that the bundle records.

    Raises UsageError for an unknown task or a missing column, DataError for a malformed file."""
    fields = list(options.fields)
    for task in tasks:
        fields += named_task(task).fields
    if options.query_text is not None:
        columns = template_columns(options.query_text)
        fields += [name for name in columns if name != "title"]
    catalog = read_items(
        items,
        id_column=options.id_column,
        title_column=options.title_column,
        text_template="",  # examples show titles and columns
        fields=tuple(dict.fromkeys(fields)),
        recorded=recorded,
    )
    if catalog.columns is not None and catalog.columns.title is None:
        for task in tasks:
            if named_task(task).shows_title:
                raise UsageError(
                    f"task {task} shows titles, but {items} has no column of them",
                    hint="name it with --title-column",
                )
    if options.query_text is not None:
        return catalog, compose_queries(catalog, options.query_text)
    if options.queries is not None:
        return catalog, read_queries(options.queries)
    return catalog, ()
