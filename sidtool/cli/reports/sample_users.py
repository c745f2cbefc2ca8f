"""The part of an evaluation's page that shows a few users: what each did, what the systems
recommended, and what followed."""

from collections.abc import Iterator, Mapping

from sidtool.cli.reports.blocks import Block, Details, Listing, Mark, Table, Text, named
from sidtool.evaluation import Sample, StoredEvaluation

MODEL = "model"
"""The name of the evaluated model among the systems of its evaluation."""

Titles = Mapping[str, str]
"""Item id -> title."""
Lists = Mapping[str, tuple[str, ...]]
"""System -> its first recommendations, best first."""


def sample_blocks(
    evaluations: Mapping[str, StoredEvaluation], titles: Titles | None = None
) -> Iterator[Block]:
    """The samples of evaluations by name, one part to open per user; nothing without any.

    A sample that several evaluations have is shown once, with the recommendations of each.
    `titles` come before those of the evaluations."""
    merged: dict[tuple[str, str, int, tuple[str, ...]], dict[str, Sample]] = {}
    of_items: dict[str, str] = {}
    for name, evaluation in evaluations.items():
        of_items |= evaluation.titles
        for sample in evaluation.samples:
            key = (sample.user, sample.target, sample.earlier, sample.history)
            merged.setdefault(key, {})[name] = sample
    of_items |= titles or {}
    if not merged:
        return
    n_examples = next(iter(evaluations.values())).n
    yield Text(
        f"{len(merged):,} of {n_examples:,} examples, evenly spread and not chosen by result. Open "
        "one to see the history of the user and what each system recommends; the item that "
        "followed is marked."
    )
    for by_name in merged.values():
        yield _sample_details(by_name, of_items)


def _sample_details(by_name: Mapping[str, Sample], titles: Titles) -> Details:
    sample = next(iter(by_name.values()))
    lists = _lists(by_name)
    ranks = ", ".join(f"{system}: {_rank(items, sample.target)}" for system, items in lists.items())
    target = named(sample.target, titles.get(sample.target, ""))
    summary = f"User {sample.user}, then {target} ({ranks})"
    return Details(summary, (_history(sample, titles), _recommendations(sample, lists, titles)))


def _lists(by_name: Mapping[str, Sample]) -> dict[str, tuple[str, ...]]:
    """The recommendations by system: models by the names of their evaluations, other systems once
    where they agree."""
    lists = {name: sample.recommended.get(MODEL, ()) for name, sample in by_name.items()}
    for name, sample in by_name.items():
        for system, items in sample.recommended.items():
            if system == MODEL or lists.get(system) == items:
                continue
            lists[f"{system} ({name})" if system in lists else system] = items
    return lists


def _rank(items: tuple[str, ...], target: str) -> str:
    return str(items.index(target) + 1) if target in items else "–"


def _history(sample: Sample, titles: Titles) -> Listing:
    caption = f"History of user {sample.user}, oldest first"
    if sample.earlier:
        caption += f"; {sample.earlier:,} earlier items are left out"
    return Listing(caption, tuple(named(item, titles.get(item, "")) for item in sample.history))


def _recommendations(sample: Sample, lists: Lists, titles: Titles) -> Table:
    depth = max(map(len, lists.values()), default=0)
    rows = []
    for place in range(depth):
        cells: list[object] = [place + 1]
        for items in lists.values():
            item = items[place] if place < len(items) else None
            text = None if item is None else named(item, titles.get(item, ""))
            cells.append(Mark(text) if text and item == sample.target else text)
        rows.append(tuple(cells))
    caption = f"Recommendations for user {sample.user}"
    return Table(caption, ("rank", *lists), tuple(rows))
