"""All tasks, queries for them, and the items of what they made."""

from collections.abc import Iterable

import numpy as np

from sidtool.data.queries import Query
from sidtool.examples.tasks import TASKS
from sidtool.model.prompt.segments import Segment
from sidtool.tokenizer.bundle.bundle import Bundle

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


def shown_items(bundle: Bundle, segments: Iterable[Segment]) -> list[str]:
    """The items whose SIDs segments have, in order."""
    space = bundle.space
    tokens = [token for segment in segments for token in segment.sid_tokens]
    codes = np.array([token for token in tokens if token < space.n_codes])
    rows, _ = bundle.items.rows_at(codes.reshape(-1, space.levels) - space.offsets)
    return [bundle.items.ids[row] for row in rows]
