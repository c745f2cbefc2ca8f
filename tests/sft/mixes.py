"""Every task there is, with what it needs of a catalog: tests iterate over them, so that a new one
is covered."""

from sidtool.data.queries import Query
from sidtool.sft.tasks import FAMILIES, TASKS

ALL_TASKS = (*TASKS, *(family.replace("FIELD", "brand") for family in FAMILIES))
"""Every task by name, those of any column with the brand."""
QUERIES = (
    *(Query(f"i{row}", f"something like number {row}") for row in range(40)),
    Query("i3", "another name for three"),
)
