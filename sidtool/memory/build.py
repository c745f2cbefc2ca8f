"""Builds a memory of a split's training events."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.extras import library_versions
from sidtool.base.locations import opened
from sidtool.base.options import options_from
from sidtool.base.threads import thread_count
from sidtool.data import Texts, Vectors
from sidtool.data.split import Example, Split, SplitManifest, evenly_spaced, open_split
from sidtool.data.split.pairs import WINDOW, item_sequences
from sidtool.memory.content import ItemContent, nearest_items
from sidtool.memory.manifest import CONTENT_WEIGHT, KnnSettings, MemoryManifest, with_floats
from sidtool.memory.memory import Memory
from sidtool.memory.rows import Shards, SparseRows
from sidtool.memory.similarity import CountedPairs, content_similarity, count_events, similar_items
from sidtool.tokenizer.bundle import Bundle, now

DEFAULT = KnnSettings(reverse=0.3, normalization=0.3, neighbors=100)
"""Settings of a memory, a compromise over the validation users of four data sets (docs/memory.md);
more neighbors cost time at inference."""


class PairCounter(Protocol):
    """Counts the training events of a split, and what follows from the counts."""

    def count(self, ids: Texts, distance: float) -> NDArray[np.int64]:
        """(items,): the events of each item. Raises RefusedError if a held-out event is among the
        training events."""

    def similar(
        self, events: NDArray[np.int64], settings: KnnSettings, content: Any
    ) -> tuple[SparseRows, SparseRows]:
        """The counted pairs of each item with later ones, and `similar_items`, by the counts of
        the last distance."""

    def nearest_items(self, directions: Vectors) -> Any:
        """As `nearest_items` of content."""

    def validation_examples(self, count: int | None) -> Sequence[Example]:
        """So many validation examples of the split, or all."""


class SplitPairs:
    """A `PairCounter` in this process; arrays lie in files of the shards' folder if they are given.
    The counts of each distance are kept, in files those of the last one."""

    def __init__(
        self, split: Split | SplitManifest, shards: Shards | None = None, threads: int | None = None
    ) -> None:
        assert isinstance(split, Split)  # other counters take the manifest
        self.split = split
        self.shards = shards
        self.threads = thread_count(threads)
        self.counted: dict[float, CountedPairs] = {}

    def count(self, ids: Texts, distance: float) -> NDArray[np.int64]:
        """As `PairCounter.count`."""
        if distance not in self.counted:
            if self.shards is not None:
                self.counted.clear()  # their files are written over
            sequences = item_sequences(self.split, ids, self.threads)  # not held below
            self.events = count_events(sequences, len(ids))
            self.counted[distance] = CountedPairs.count(
                sequences, len(ids), distance, self.shards, self.threads
            )
        self.pairs = self.counted[distance]
        return self.events

    def similar(
        self, events: NDArray[np.int64], settings: KnnSettings, content: Any
    ) -> tuple[SparseRows, SparseRows]:
        """As `PairCounter.similar`."""
        neighbors = similar_items(
            self.pairs, events, settings, content, shards=self.shards, threads=self.threads
        )
        return self.pairs.later, neighbors

    def nearest_items(self, directions: Vectors) -> Any:
        """As `PairCounter.nearest_items`."""
        return nearest_items(directions)

    def validation_examples(self, count: int | None) -> Sequence[Example]:
        """As `PairCounter.validation_examples`, evenly spread."""
        return evenly_spaced(self.split.valid, count)


def build_memory(
    split: Split | SplitManifest | str | Path,
    bundle: Bundle | str | Path,
    settings: KnnSettings | None = None,
    *,
    earlier: Memory | str | Path | None = None,
    content: ItemContent | None = None,
    tuned_on: int | None = None,
    shards: Shards | None = None,
    threads: int | None = None,
    counter: PairCounter | None = None,
    **given: Any,
) -> Memory:
    """The memory of a split's training events, by the items of a bundle. Each may be a value, or
    where it is: `split` a folder or a file of events (`open_split`), `bundle` and `earlier` a path,
    URL or reference.

    Single `settings` may be given as keywords; the others are those of an `earlier` memory.
    With `content`, as `ItemContent.of(bundle, item_vectors(bundle, "items.csv"))`, items are also
    similar by content, new ones too, as by `build-memory --items`; the content of the earlier
    memory is used only if it is given here. `tuned_on` is the number of validation users that chose
    the settings, if they did. With `shards`, the arrays of the memory lie in files of their folder;
    the values are the same, as for any number of `threads` (default: one per core). A `counter`
    reads the events in place of this process (`ClusterPairs`); `split` may then be its manifest.

    Raises CompatibilityError if the bundle's codebook, or the choice of the earlier memory's
    settings, may have learned from events that the split holds out, RefusedError if a held-out
    event is among the training events, DataError if no two items co-occur, UsageError if the budget
    is too small.

    Examples:
        >>> split = sidtool.open_split("split")
        >>> memory = sidtool.build_memory(split, sidtool.open_bundle("shop.zarr"))
        >>> memory.save("memory.zarr")
    """
    options_from(KnnSettings, settings, given)  # refuses unknown keywords, and both
    bundle, earlier = opened(bundle, "open_source"), opened(earlier, "open_memory")
    if isinstance(split, str | Path):
        split = open_split(split, recorded=bundle.manifest.made_from.event_columns)
    bundle.check_split("the memory", split.reference)
    before = None if earlier is None else earlier.manifest
    if before is not None and settings in (None, before.settings):
        before.check_choice(split.reference)
    if settings is None:
        settings = replace(DEFAULT if before is None else before.settings, **given)
    if before is not None and before.settings == settings:
        tuned_on = before.tuned_on
    stored_ids = bundle.items.whole_ids()
    ids = Texts.of_utf8(stored_ids.data, stored_ids.offsets)
    counter = counter or SplitPairs(split, shards, threads)
    events = counter.count(ids, settings.distance)
    by_content = None
    if content is not None:
        by_content = content_similarity(content.nearest, content.settings.weight, events)
    later, neighbors = counter.similar(events, settings, by_content)
    if not len(later.items):
        raise DataError(
            f"no two of the {len(ids)} items co-occur in the training events of split "
            f"{split.reference}",
            hint="do the item ids of the events match the bundle's?",
        )
    manifest = MemoryManifest(
        bundle=bundle.identity,
        split=split.reference,
        train_digest=split.train_digest,
        train_events=split.counts.train_events,
        window=WINDOW,
        settings=with_floats(settings),
        items=len(ids),
        digest="",
        content=None if content is None else with_floats(content.settings),
        tuned_on=tuned_on,
        libraries=library_versions("sidtool", "numpy", "scipy"),
        created=now(),
    )
    nearest = None if content is None else SparseRows.of(content.nearest, np.float32)
    return Memory.of(manifest, stored_ids, events, later, neighbors, nearest)


def rebuild_memory(
    memory: Memory, split: Split, bundle: Bundle, vectors: Vectors | None = None
) -> Memory:
    """The memory of another split and bundle, with the settings of an earlier memory.

    Raises UsageError if that compared the items' vectors, the bundle is another one, and (n, dim)
    `vectors` are not given, or if they are and it compared none; and as `build_memory`."""
    memory.manifest.check_vectors(bundle.identity, are_given=vectors is not None)
    content = content_of(bundle, vectors, None, memory)
    return build_memory(split, bundle, earlier=memory, content=content)


def content_of(
    bundle: Bundle,
    vectors: Vectors | None,
    weight: float | None,
    earlier: Memory | None,
    compare: Callable[[Vectors], Any] = nearest_items,
) -> ItemContent | None:
    """The content of a bundle's items; None if it is not used. Without vectors it is compared as an
    earlier memory that has content compared its own; a weight changes that of the earlier one.

    Raises UsageError if that needs the items' vectors."""
    recorded = None if earlier is None else earlier.manifest.content
    if weight == 0 or (vectors is None and weight is None and recorded is None):
        return None
    if weight is None:
        weight = CONTENT_WEIGHT if recorded is None else recorded.weight
    if vectors is None and earlier is not None and recorded is not None:
        if earlier.manifest.bundle.digest == bundle.identity.digest:
            earlier.check_bundle(bundle)
            assert earlier.content is not None
            return ItemContent(earlier.content.to_scipy(), recorded).weighted(weight)
        earlier.manifest.check_vectors(bundle.identity, are_given=False)
    return ItemContent.of(bundle, vectors, weight, compare)
