"""Builds a memory of a split's training events, anew or from an earlier memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.data import Vectors
from sidtool.data.split import (
    WINDOW,
    ItemSequences,
    Split,
    UserSequence,
    add_pairs,
    check_split,
    count_pairs,
    item_sequences,
    packed_sequences,
)
from sidtool.memory.content import ItemContent, content_similarity
from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.memory import Memory
from sidtool.memory.rows import Shards, SparseRows
from sidtool.memory.similarity import CountedPairs, KnnSettings, count_events, similar_items
from sidtool.tokenizer.bundle import Bundle, library_versions, now

DEFAULT = KnnSettings(reverse=0.3, normalization=0.3, neighbors=100)
"""Settings of a memory, a compromise over the validation users of four data sets (docs/memory.md);
more neighbors cost time at inference."""


@dataclass(frozen=True, eq=False)
class EarlierMemory:
    """A memory to update, and the split that it was built from.

    Raises CompatibilityError if it was built from another one, or with another window."""

    memory: Memory
    split: Split

    def __post_init__(self) -> None:
        recorded = self.memory.manifest.train_digest
        if recorded != self.split.train_digest:
            raise CompatibilityError(
                f"the memory counts training events {recorded[:12]}, the earlier split has "
                f"{self.split.train_digest[:12]}",
                hint="give the split that the memory was built from",
            )
        window = self.memory.manifest.window
        if window != WINDOW:
            raise CompatibilityError(
                f"the memory counts pairs within {window} positions, this version within {WINDOW}",
                hint="build the memory anew",
            )


def check_memory_split(bundle: Bundle, split: Split) -> None:
    """Raise CompatibilityError if the codebook of a bundle may have learned from events that a
    split holds out."""
    codebook = f"the codebook of bundle {bundle.manifest.name!r}"
    made_from = bundle.manifest.made_from.split
    check_split(codebook, made_from, "the split of the memory", split.reference)


def build_memory(
    split: Split,
    bundle: Bundle,
    settings: KnnSettings | None = None,
    *,
    earlier: EarlierMemory | None = None,
    content: ItemContent | None = None,
    tuned_on: int | None = None,
    shards: Shards | None = None,
) -> Memory:
    """The memory of a split's training events, by the items of a bundle.

    With `earlier`, only users whose events changed are counted again; the result equals that of
    building anew, and `settings` defaults to those of the earlier memory. With `content`, items
    are also similar by content, new ones too; the content of the earlier memory is used only if it
    is given here. `tuned_on` is the number of validation users that chose the settings, if they
    did. With `shards`, the arrays of the memory lie in files of their folder; the values are the
    same.

    Raises CompatibilityError if the bundle's codebook, or the choice of the earlier memory's
    settings, may have learned from events that the split holds out, RefusedError if a held-out
    event is among the training events, DataError if no two items co-occur, UsageError if `settings`
    count pairs otherwise than the earlier memory or the budget is too small, IntegrityError if that
    one does not count the pairs of its split.

    Examples:
        >>> split = sidtool.open_split("split")
        >>> memory = sidtool.build_memory(split, sidtool.open_bundle("shop.zarr"))
        >>> memory.save("memory.zarr")
    """
    check_memory_split(bundle, split)
    before = None if earlier is None else earlier.memory.manifest
    if settings is None:
        settings = DEFAULT if before is None else before.settings
    if before is not None and before.settings == settings:
        tuned_on = before.tuned_on
        if tuned_on is not None:
            used = "the split of the memory"
            check_split("the tuned earlier memory", before.split, used, split.reference)
    if earlier is not None and shards is not None:
        raise UsageError(
            "an update holds all pairs in memory: it takes no memory budget",
            hint="build the memory anew within the budget",
        )
    ids = list(bundle.items.ids)
    sequences = item_sequences(split, ids)
    events = count_events(sequences, len(ids))
    by_content = None
    if content is not None:
        by_content = content_similarity(content.nearest, content.settings.weight, events)
    if earlier is None:
        pairs = CountedPairs.count(sequences, len(ids), settings.distance, shards)
    else:
        updated = _updated_pairs(earlier, split, sequences, bundle, settings)
        pairs = CountedPairs.of(SparseRows.of(updated, np.int64))
    if not len(pairs.later.items):
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
        settings=settings,
        items=len(ids),
        digest="",
        content=None if content is None else content.settings,
        tuned_on=tuned_on,
        libraries=library_versions("numpy", "scipy"),
        created=now(),
    )
    neighbors = similar_items(pairs, events, settings, by_content, shards=shards)
    nearest = None if content is None else SparseRows.of(content.nearest, np.float32)
    return Memory.of(manifest, bundle.items.ids, events, pairs.later, neighbors, nearest)


def rebuild_memory(
    memory: Memory, split: Split, bundle: Bundle, vectors: Vectors | None = None
) -> Memory:
    """The memory of another split and bundle, with the settings of an earlier memory.

    Raises UsageError if that compared the items' vectors, the bundle is another one, and (n, dim)
    `vectors` are not given, or if they are and it compared none."""
    manifest = memory.manifest
    content = None
    if vectors is not None and (manifest.content is None or manifest.content.source == "codes"):
        raise UsageError(
            "the memory compares no vectors: --embeddings would have no effect",
            hint="sidtool build-memory --embeddings, then tune-memory",
        )
    if manifest.content is not None:
        content = content_of(memory, bundle, vectors)
    return build_memory(
        split, bundle, manifest.settings, content=content, tuned_on=manifest.tuned_on
    )


def content_of(memory: Memory, bundle: Bundle, vectors: Vectors | None = None) -> ItemContent:
    """The content of a bundle's items, compared as a memory that has content compared its own.

    Raises UsageError if that needs the items' vectors, and they are not given."""
    settings = memory.manifest.content
    stored = memory.content
    assert settings is not None
    assert stored is not None
    is_same = memory.manifest.bundle.digest == bundle.identity.digest
    if is_same and (vectors is None or settings.source == "codes"):
        memory.check_bundle(bundle)
        return ItemContent(stored.to_scipy(), settings)
    if settings.source == "codes":
        return ItemContent.of(bundle, weight=settings.weight)
    if vectors is None:
        raise UsageError(
            "the earlier memory compares the items' vectors, and the bundle has other items",
            hint="--embeddings FILE, once per source of the bundle",
        )
    return ItemContent.of(bundle, vectors, settings.weight)


def _updated_pairs(
    earlier: EarlierMemory,
    split: Split,
    sequences: ItemSequences,
    bundle: Bundle,
    settings: KnnSettings,
) -> Any:
    """(n, n) CSR int64: the earlier counts, less those of users whose events changed, plus what
    these users' events count now."""
    from scipy import sparse

    memory = earlier.memory
    counted = memory.manifest.settings.distance
    if settings.distance != counted:
        raise UsageError(
            f"the earlier memory counts with distance {counted}, not {settings.distance}",
            hint="build the memory anew for another distance",
        )
    earlier_ids = list(memory.ids)
    row_of = bundle.items.rows(earlier_ids)  # of each earlier item, -1 if the bundle lacks it
    counted_before = item_sequences(earlier.split, earlier_ids)
    removed, added = _changed(earlier.split.train, split.train, counted_before, sequences, row_of)
    unchanged = memory.pairs.to_scipy() - count_pairs(removed, len(earlier_ids), counted)
    unchanged.eliminate_zeros()
    entries = unchanged.tocoo()
    before = row_of[entries.row]
    after = row_of[entries.col]
    if (entries.data < 0).any() or (before < 0).any() or (after < 0).any():
        raise IntegrityError(
            "the earlier memory counts other pairs than the earlier split has",
            hint="build the memory anew",
        )
    n = len(bundle.items)
    moved = sparse.csr_matrix((entries.data, (before, after)), shape=(n, n))
    return add_pairs(moved, count_pairs(added, n, counted))


def _changed(
    before: Sequence[UserSequence],
    after: Sequence[UserSequence],
    earlier_sequences: ItemSequences,
    sequences: ItemSequences,
    number_of: NDArray[np.int64],
) -> tuple[ItemSequences, ItemSequences]:
    """The sequences before and after of the users whose events differ; `number_of` has the numbers
    that earlier items have now, -1 of those that are gone."""
    row_of = {user: row for row, user in enumerate(packed_sequences(after).users)}
    users = packed_sequences(before).users
    rows = np.array([row_of.get(user, -1) for user in users], dtype=np.int64)
    old_lengths = earlier_sequences.lengths
    is_same = (rows >= 0) & (old_lengths == np.append(sequences.lengths, -1)[rows])
    # (events,) of the users with equally many events before and after
    old = earlier_sequences.select(is_same)
    places = np.repeat(sequences.offsets[rows[is_same]] - old.offsets[:-1], old.lengths)
    differs = number_of[old.items] != sequences.items[places + np.arange(len(old.items))]
    users_of_events = np.repeat(np.flatnonzero(is_same), old.lengths)
    is_same[users_of_events[differs]] = False
    is_new = np.ones(len(sequences), dtype=np.bool_)
    is_new[rows[is_same]] = False
    return earlier_sequences.select(~is_same), sequences.select(is_new)
