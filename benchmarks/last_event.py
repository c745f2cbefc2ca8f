"""Print how well training rows tell the last event of a user (test), and the one before (valid).

Usage: last_event.py INTERACTIONS. Training rows are those of leave-one-out less one event more
(`--hold-back` of all users), the same for both columns, which differ by the target alone: the test
event, or the valid event."""

import sys
from collections import Counter
from pathlib import Path
from statistics import median

from sidtool.data.interactions import read_interactions
from sidtool.data.splits import leave_one_out

COLUMNS = {"test": 1, "valid": 2}


def main() -> None:
    """A Markdown table, a row for each thing that may tell a target."""
    split = leave_one_out(read_interactions(Path(sys.argv[1])), hold_back=sys.maxsize)
    together: set[tuple[str, str]] = set()
    follows: set[tuple[str, str]] = set()
    events = Counter(item for user in split.train for item in user.items)
    for user in split.train:
        follows.update(zip(user.items, user.items[1:], strict=False))
        together.update((one, other) for one in user.items for other in user.items if one != other)
    wholes = [(*asked.history, asked.item) for asked in split.test]
    print(f"| of {len(wholes)} users | " + " | ".join(COLUMNS) + " |\n| --- | --- | --- |")
    asked = {
        name: [(whole[:-back], whole[-back]) for whole in wholes] for name, back in COLUMNS.items()
    }
    rows = {
        "follows the event before it in a training row": lambda history, item: (
            (history[-1], item) in follows
        ),
        "met together with it in a training row": lambda history, item: (
            (history[-1], item) in together
        ),
        "met together with any of the history": lambda history, item: any(
            (one, item) in together for one in history
        ),
        "has an id above that of the event before it": lambda history, item: history[-1] < item,
    }
    for name, holds in rows.items():
        shares = [sum(holds(*one) for one in asked[column]) / len(wholes) for column in COLUMNS]
        print(f"| {name} | " + " | ".join(f"{share:.4f}" for share in shares) + " |")
    medians = [median(events[item] for _, item in asked[column]) for column in COLUMNS]
    print("| training events, median | " + " | ".join(f"{value:g}" for value in medians) + " |")


if __name__ == "__main__":
    main()
