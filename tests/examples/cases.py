"""All tasks and queries for them."""

from sidtool.data.queries import Query
from sidtool.examples.tasks import FAMILIES, FIELD_TASKS, TASKS

ALL_TASKS = (*TASKS, *(family.replace("FIELD", "brand") for family in FAMILIES))
"""Every task by name that needs no fields, those for any column with the column `brand`."""
RATING_TASKS = tuple(task.replace("FIELD", "rating") for task in FIELD_TASKS)
"""Every task that needs fields, with the feedback `rating`."""

QUERIES = (
    *(Query(f"i{row}", f"something like number {row}") for row in range(40)),
    Query("i3", "another name for three"),
)
