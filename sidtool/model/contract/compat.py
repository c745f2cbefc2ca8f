"""Whether a model may be used with a bundle other than the one that it was made for.

The first row that applies is the verdict:

| the bundle, compared with the model's | verdict | consequence |
| --- | --- | --- |
| same identity | same | none |
| same space; no common item's SID changed, none is reused by another item | refreshed | a notice |
| its `compatible_with` has the model's codebook | aligned | a warning with the changed share |
| anything else | CompatibilityError | refused |

A bundle with another codebook and no item in common changes no SID, but is refused too."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.base.ranges import consecutive
from sidtool.data import EventColumns
from sidtool.data.split import SplitReference, check_split
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.stage_record import RlParams, TrainParams
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.sid import ItemRows


@dataclass(frozen=True)
class Verdict:
    """How a bundle relates to the bundle of a model."""

    kind: Literal["same", "refreshed", "aligned"]
    message: str = ""
    """one line for the user; empty for `same`"""
    reassigned_share: float = 0.0
    """share of the common items whose SID changed"""


@dataclass(frozen=True)
class Overlap:
    """Counts from a join of two item maps of one space, retired items included but in `active`."""

    common: int
    """items in both"""
    reassigned: int
    """common items whose SID changed"""
    reused: int
    """SIDs in both maps that no item has in both"""
    active: int
    """common items that are retired in neither"""


def check_bundle(model_bundle: Bundle, bundle: Bundle) -> Verdict:
    """The verdict on `bundle` for a model that was made for `model_bundle`.

    Raises CompatibilityError, with the values that differ, if the bundle is refused."""
    if bundle.identity == model_bundle.identity:
        return Verdict("same")
    if bundle.space != model_bundle.space:
        own, other = (
            f"{each.space.spelled_sizes} ({each.space.example})" for each in (model_bundle, bundle)
        )
        raise CompatibilityError(
            f"the bundle's space is {other}, the model's is {own}: their tokens differ",
            hint="extend and train a model for this bundle",
        )
    name = bundle.manifest.name
    codebook, own_codebook = bundle.identity.codebook, model_bundle.identity.codebook
    overlap = compare(model_bundle.items, bundle.items)
    unchanged = not overlap.reassigned and not overlap.reused
    if unchanged and (overlap.common or codebook == own_codebook):
        added = int((~bundle.items.retired).sum()) - overlap.active
        removed = int((~model_bundle.items.retired).sum()) - overlap.active
        message = (
            f"the catalog changed since the model was made: {overlap.common} items kept their SID, "
            f"{added} were added, {removed} removed"
        )
        return Verdict("refreshed", message)
    if own_codebook in bundle.manifest.compatible_with:
        share = overlap.reassigned / max(overlap.common, 1)
        message = (
            f"bundle {name!r} is aligned with the model's: {share:.1%} of the "
            f"{overlap.common} common items have another SID than the model was trained on"
        )
        return Verdict("aligned", message, share)
    changed = f"{overlap.reassigned} of {overlap.common} common items have another SID"
    if codebook == own_codebook:
        raise CompatibilityError(
            f"bundle {name!r} changes SIDs of the model's bundle: {changed}, "
            f"{overlap.reused} SIDs are reused",
            hint="extend the model's bundle with add-items, which changes no SID",
        )
    raise CompatibilityError(
        f"bundle {name!r} has codebook {codebook[:12]}, the model was made for codebook "
        f"{own_codebook[:12]} ({changed})",
        hint="train a model for this bundle, or use the bundle that the model was made for",
    )


def compare(old: ItemMap, new: ItemMap) -> Overlap:
    """Join two item maps by id and by SID: about a second for a million items."""
    new_rows = matching_rows(old, new)  # (n_old,)
    common = np.flatnonzero(new_rows >= 0)
    unchanged = old.keys[common] == new.keys[new_rows[common]]
    retired = old.retired[common] | new.retired[new_rows[common]]
    unchanged_keys = np.unique(old.keys[common[unchanged]])
    shared_keys = np.intersect1d(old.keys, new.keys)
    # a SID in both maps is that of an unchanged item, or is reused
    return Overlap(
        common=len(common),
        reassigned=int((~unchanged).sum()),
        reused=len(shared_keys) - len(unchanged_keys),
        active=int((~retired).sum()),
    )


def usable_items(bundle: Bundle, tokens: SidTokens) -> Bundle:
    """The bundle without the active items that a model has no tokens for, which it can never
    recommend; that there are some is a SidtoolWarning.

    Raises CompatibilityError if no item is left."""
    if tokens.table is None:
        return bundle
    lacking = bundle.active[tokens.lacking(bundle.items.codes[bundle.active])]
    if not len(lacking):
        return bundle
    if len(lacking) == len(bundle.active):
        raise CompatibilityError("the model has no tokens for any item of the bundle")
    warnings.warn(
        f"{len(lacking)} of {len(bundle.active)} items have a code without a token in the model, "
        f"so they are not recommended; the first is {bundle.items.ids[int(lacking[0])]!r}",
        SidtoolWarning,
        stacklevel=3,
    )
    return bundle.without(ItemRows(lacking))


def matching_rows(old: ItemMap, new: ItemMap) -> NDArray[np.int64]:
    """(n_old,) int64: the row of each item of `old` in `new`, -1 if it is not there.

    Ids are joined by hash and compared by bytes."""
    if not len(old) or not len(new):
        return np.full(len(old), -1, dtype=np.int64)
    hashes = old.ids.hashes()
    positions = np.searchsorted(new.index.hashes, hashes)
    positions = np.minimum(positions, len(new) - 1)
    rows = new.index.rows[positions].astype(np.int64)
    rows[new.index.hashes[positions] != hashes] = -1
    candidates = np.flatnonzero(rows >= 0)
    old_starts = old.ids.offsets[candidates]
    new_starts = new.ids.offsets[rows[candidates]]
    lengths = old.ids.offsets[candidates + 1] - old_starts
    equal = lengths == new.ids.offsets[rows[candidates] + 1] - new_starts
    if equal.any():
        # gather the bytes of all ids of equal length at once; `firsts` is where each id begins
        lengths = lengths[equal]
        firsts = np.cumsum(lengths) - lengths
        old_bytes = old.ids.data[consecutive(old_starts[equal], lengths)]
        new_bytes = new.ids.data[consecutive(new_starts[equal], lengths)]
        equal[equal] = np.logical_and.reduceat(old_bytes == new_bytes, firsts)
    # two ids with one hash are rare: look these up by text
    collisions = candidates[~equal]
    rows[collisions] = new.rows([old.ids[int(row)] for row in collisions])
    return rows


def splits_of(contract: Contract) -> Iterator[SplitReference]:
    """The splits that a model may have learned from, by its training examples, the codebooks of its
    bundles, teachers, rewards, and the tuning of its memory; oldest first."""
    for record in contract.stages:
        if isinstance(record.params, TrainParams | RlParams):
            yield from record.params.learned_from
            yield record.params.split
    if contract.memory is not None and contract.memory.split is not None:
        yield contract.memory.split


def further_splits(
    bundle: Bundle, contracts: Iterable[Contract], *others: SplitReference
) -> tuple[SplitReference, ...]:
    """The splits that a bundle's codebook and models may have learned from, and others, without
    repeats."""
    of_models = (reference for contract in contracts for reference in splits_of(contract))
    references = (bundle.manifest.made_from.split, *of_models, *others)
    return tuple(dict.fromkeys(reference for reference in references if reference))


def event_columns(contract: Contract, bundle: Bundle) -> EventColumns | None:
    """The columns of the events that a model was trained on last, or that its bundle was built
    from; None if neither records them."""
    references = [bundle.manifest.made_from.split, *splits_of(contract)]
    columns = (reference.columns for reference in reversed(references) if reference)
    return next((each for each in columns if each is not None), None)


def targets_repeat(contract: Contract) -> bool | None:
    """Whether a held-out target of the model's newest split that records it repeats an item of its
    history; None if no split does."""
    facts = [reference.targets_repeat for reference in splits_of(contract)]
    return next((fact for fact in reversed(facts) if fact is not None), None)


def check_bundle_split(bundle: Bundle, label: str, split: SplitReference | None) -> None:
    """Raise CompatibilityError if the bundle's codebook may have learned from events that `split`
    holds out. `label` names the input with this split in the message."""
    made = f"the codebook of bundle {bundle.manifest.name!r}"
    check_split(made, bundle.manifest.made_from.split, label, split)


def check_model_split(
    contract: Contract,
    bundle: Bundle,
    label: str,
    split: SplitReference | None,
    *,
    model: str = "the model",
) -> None:
    """Raise CompatibilityError if a model or its bundle may have learned from events that `split`
    holds out. `label` names the input with this split in the message."""
    check_bundle_split(bundle, label, split)
    for reference in splits_of(contract):
        check_split(model, reference, label, split)
