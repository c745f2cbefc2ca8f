"""Comparison of bundles of one catalog: use of codes, residual variance, information in SIDs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.locations import opened
from sidtool.base.records import JsonRecord
from sidtool.data import Items, Vectors, read_items, read_vectors, rows_in
from sidtool.data.split import Split, UserSequence, open_split
from sidtool.data.split.pairs import packed_sequences
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.codes import measure
from sidtool.tokenizer.codes.report import CollisionCounts, LevelUse
from sidtool.tokenizer.quantize.fusion import COLLABORATIVE
from sidtool.tokenizer.quantize.mlp import has
from sidtool.tokenizer.sid import Codes

Figures = Sequence[float | None]


@dataclass(frozen=True)
class Behavior:
    """Training events of n items, by index."""

    steps: NDArray[np.int64]
    """(m, 2): an item and the next item of the same user"""
    events: NDArray[np.int64]
    """(n,): training events of each item"""

    @classmethod
    def of(cls, users: Sequence[UserSequence], ids: Sequence[str]) -> "Behavior":
        """The training events of items `ids`. Raises DataError if no two of them are
        consecutive."""
        packed = packed_sequences(users)
        index_of_name = packed.names.places_in(ids).astype(np.int64)  # -1 for items without an id
        items = index_of_name[packed.items.joined]
        event_users = np.repeat(np.arange(len(packed)), packed.items.lengths)
        # whether each event but the first is the next one of the same user
        follows = (np.diff(event_users) == 0) & (np.diff(packed.event_positions) == 1)
        follows &= (items[:-1] >= 0) & (items[1:] >= 0)
        if not follows.any():
            raise DataError("no user has two consecutive training events with items of the bundles")
        steps = np.stack([items[:-1], items[1:]], axis=1)[follows]
        return cls(steps, np.bincount(items[items >= 0], minlength=len(ids)))


@dataclass(frozen=True)
class Evidence:
    """Data that bundles are compared on, in the order of `ids`."""

    ids: tuple[str, ...] | None
    """None: the active items of the one bundle that is measured, in the order of their SIDs."""
    vectors: Vectors | None = None
    """(n, dim)."""
    labels: tuple[str, ...] | None = None
    """One per item, "" if it has none."""
    behavior: Behavior | None = None
    """The training events of the items."""


@dataclass(frozen=True)
class LevelFigures(JsonRecord):
    """Measurements of one level; None without the evidence that they need."""

    use: LevelUse
    neighbors: float | None
    """Jaccard overlap of `neighbor_preservation` at that depth."""
    purity: float | None
    """`prefix_purity` at that depth."""
    mutual_information: float | None
    """Of that level alone, in bits (`mutual_information`)."""
    mutual_information_by_chance: float | None
    alignment: float | None
    """Share of steps to another item that has the same prefix (`prefix_alignment`)."""
    alignment_by_chance: float | None
    head_spread: float | None
    """Distinct prefixes per item among the most frequent items (`prefix_spread`)."""
    tail_spread: float | None

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object."""
        value = super().to_json()
        use: dict[str, Any] = value.pop("use")
        return use | value | {"alignment_lift": self.alignment_lift}

    @property
    def alignment_lift(self) -> float | None:
        """How much likelier than by chance the next item has the same prefix; None where chance
        has none."""
        if self.alignment is None or not self.alignment_by_chance:
            return None
        return self.alignment / self.alignment_by_chance


@dataclass(frozen=True)
class BundleFigures(JsonRecord):
    """Measurements of one bundle; None without the build report or evidence that they need."""

    name: str
    digest: str
    method: str | None
    sizes: tuple[int, ...]
    items: int
    policy: str
    before: CollisionCounts | None
    after: CollisionCounts
    reassigned: int | None
    seconds: float | None
    """Duration of the build without embedding."""
    residual_variance: float | None
    """Of the final codes: on the evidence's vectors if their width fits and no co-occurrence was
    fused, else as built."""
    purity_by_chance: float | None
    levels: tuple[LevelFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        value = super().to_json()
        collisions = {name: value.pop(name) for name in ("policy", "before", "after")}
        return value | {"collisions": collisions}


def compare_bundles(
    bundles: Sequence[Bundle | str | Path] | Bundle | str | Path,
    *,
    embeddings: Vectors | str | Path | None = None,
    items: Items | str | Path | None = None,
    field: str | None = None,
    interactions: Split | str | Path | None = None,
    by_row: bool = False,
    seed: int = 0,
) -> list[BundleFigures]:
    """Measure bundles of one catalog, values or where they are, on the same evidence.

    `embeddings` are vectors of the items, an array or a file: rows without ids (`by_row`), as an
    array's, follow the catalog `items`, a value or a file. `field` is a column of `items` that
    labels them; `interactions` is a split, its folder or a file of events (as `open_split`), whose
    training events give the steps from item to item. Raises DataError if the bundles have different
    items, or evidence does not cover them.

    Examples:
        >>> bundles = [sidtool.open_bundle(name) for name in ("shop.zarr", "other.zarr")]
        >>> figures = sidtool.compare_bundles(bundles, interactions="split")
        >>> [(each.name, each.after.items) for each in figures]
        [('shop', 0), ('other', 0)]
    """
    bundles = [bundles] if isinstance(bundles, Bundle | str | Path) else bundles
    opened_bundles = [opened(bundle, "open_bundle") for bundle in bundles]
    ids = common_ids(opened_bundles)
    made_from = opened_bundles[0].manifest.made_from
    if isinstance(items, str | Path):  # its texts are not used
        fields = [] if field is None else [field]
        items = read_items(items, fields=fields, text_template="", recorded=made_from.columns)
    vectors = labels = behavior = None
    if field is not None:
        if items is None or field not in items.fields:
            hint = f"read_items(ITEMS, fields=[{field!r}]) reads it"
            raise UsageError(f"the column {field!r} of the items was not read", hint=hint)
        column = items.fields[field]
        labels = tuple(column[row] for row in rows_in(items.ids, ids))
    if embeddings is not None:
        stored_ids: Sequence[str] = ids
        if by_row or not isinstance(embeddings, str | Path):
            # there may be no ids, but a row for each item of the catalog
            if items is None:
                raise UsageError("rows without ids need a catalog", hint="give it by --items ITEMS")
            stored_ids = items.ids
        stored = read_vectors(embeddings, stored_ids, by_row=by_row)
        vectors = stored[rows_in(stored_ids, ids)]
    if isinstance(interactions, str | Path):
        interactions = open_split(interactions, recorded=made_from.event_columns)
    if interactions is not None:
        behavior = Behavior.of(interactions.train, ids)
    evidence = Evidence(ids, vectors, labels, behavior)
    return [describe(bundle, evidence, seed=seed) for bundle in opened_bundles]


def common_ids(bundles: Sequence[Bundle]) -> tuple[str, ...]:
    """The active items of all bundles, by id. Raises DataError if they differ or there are none."""
    if not bundles:
        raise DataError("there are no bundles to compare")
    ids = [{bundle.items.ids[row] for row in bundle.active} for bundle in bundles]
    for bundle, ids_of_bundle in zip(bundles, ids, strict=True):
        different = sorted(ids_of_bundle ^ ids[0])
        if different:
            # with digests: versions of one bundle have one name
            names = [f"{one.manifest.name!r} ({one.digest[:12]})" for one in (bundles[0], bundle)]
            raise DataError(
                f"bundles {' and '.join(names)} differ in {len(different)} items, the first is "
                f"{different[0]!r}",
                hint="only bundles of one catalog compare; sidtool diff shows what differs",
            )
    return tuple(sorted(ids[0]))


def describe(bundle: Bundle, evidence: Evidence, *, seed: int = 0) -> BundleFigures:
    """Measure one bundle; without evidence the figures are those of its build report, or None."""
    rows = bundle.active if evidence.ids is None else bundle.items.rows(evidence.ids)
    codes = bundle.items.codes[rows]
    sizes = bundle.space.sizes
    report = bundle.manifest.codebook_report
    vectors, codebook = evidence.vectors, bundle.codebook
    variance = report.residual_variance_assigned if report else None
    if (
        vectors is not None
        and codebook is not None
        and codebook.dim == vectors.shape[1]
        # codes of fused co-occurrence do not approximate the vectors alone
        and not has(codebook.encoder, COLLABORATIVE)
    ):
        variance = measure.residual_variance(vectors, codebook, codes)[-1]
    purity: Figures = [None] * (len(sizes) + 1)
    if evidence.labels is not None:
        purity = prefix_purity(codes, sizes, evidence.labels)
    neighbors: Figures = [None] * len(sizes)
    if vectors is not None:
        neighbors = measure.neighbor_preservation(vectors, codes, codebook, seed=seed).jaccard
    elif report is not None:
        neighbors = report.neighbors.jaccard
    event_figures: Sequence[Figures] = [[None] * len(sizes)] * 6  # two of each measure
    if evidence.behavior is not None:
        steps = evidence.behavior.steps
        event_figures = (
            *measure.mutual_information(codes, steps, seed=seed),
            *measure.prefix_alignment(codes, sizes, steps),
            *measure.prefix_spread(codes, sizes, evidence.behavior.events),
        )
    # in the order of the fields of LevelFigures
    columns = zip(
        measure.level_use(codes, sizes), neighbors, purity[1:], *event_figures, strict=True
    )
    return BundleFigures(
        name=bundle.manifest.name,
        digest=bundle.identity.digest,
        method=codebook.method if codebook else None,
        sizes=sizes,
        items=len(codes),
        policy=bundle.manifest.collisions.policy,
        before=report.collisions.before if report else None,
        after=CollisionCounts.of(codes),
        reassigned=report.reassigned if report else None,
        seconds=sum(report.seconds.values()) if report else None,
        residual_variance=variance,
        purity_by_chance=purity[0],
        levels=tuple(LevelFigures(use, *figures) for use, *figures in columns),
    )


def prefix_purity(codes: Codes, sizes: Sequence[int], labels: Sequence[str]) -> list[float | None]:
    """Per depth from 0: the probability that another item with the same prefix has the same label,
    averaged over items. Depth 0 is the whole catalog, the value by chance. Left out are items
    without a label, and at each depth items whose prefix no other item has: one item alone is
    always pure. None if no item is left."""
    labeled = np.flatnonzero([bool(label) for label in labels])
    number_by_label: dict[str, int] = {}
    numbers = [number_by_label.setdefault(label, len(number_by_label)) for label in labels if label]
    label_numbers = np.array(numbers, dtype=np.int64)
    purity: list[float | None] = []
    whole_catalog = np.zeros(len(labeled), dtype=np.int64)
    for group in (whole_catalog, *measure.prefix_groups(codes[labeled], sizes)):
        group_and_label = group * (label_numbers.max(initial=0) + 1) + label_numbers
        _, pair, counts = np.unique(group_and_label, return_inverse=True, return_counts=True)
        # (labeled,): other items with the same prefix, and those of them with the same label
        n_others = np.bincount(group)[group] - 1
        n_same_label = counts[pair] - 1
        has_others = n_others > 0
        shares = n_same_label[has_others] / n_others[has_others]
        purity.append(float(shares.mean()) if len(shares) else None)
    return purity
