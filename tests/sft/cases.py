"""All tasks and queries for them."""

from sidtool.data.queries import Query
from sidtool.sft.tasks import FAMILIES, TASKS

ALL_TASKS = (*TASKS, *(family.replace("FIELD", "brand") for family in FAMILIES))
"""Every task by name, those for any column with the column `brand`."""

QUERIES = (
    *(Query(f"i{row}", f"something like number {row}") for row in range(40)),
    Query("i3", "another name for three"),
)
