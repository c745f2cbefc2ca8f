"""All tasks and queries for them."""

from sidtool.data.queries import Query
from sidtool.examples.tasks import TASKS

ALL_TASKS = tuple(
    name.replace("FIELD", "brand") for name, task in TASKS.items() if not task.needs_fields
)
"""Every task by name that needs no fields, those for any column with the column `brand`."""
RATING_TASKS = tuple(
    name.replace("FIELD", "rating") for name, task in TASKS.items() if task.needs_fields
)
"""Every task that needs fields, with the feedback `rating`."""

QUERIES = (
    *(Query(f"i{row}", f"something like number {row}") for row in range(40)),
    Query("i3", "another name for three"),
)
