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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.data.split import SplitReference, check_split
from sidtool.model.contract.contract import Contract
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
    hint = "extend and train a model for this bundle"
    quantizers = [made.manifest.made_by.quantizer for made in (bundle, model_bundle)]
    if bundle.space != model_bundle.space:
        model_space, bundle_space = (
            f"{space.spelled_sizes} ({space.spell([0] * space.levels, begin_end_tokens=True)})"
            for space in (model_bundle.space, bundle.space)
        )
        space = model_bundle.space
        if None in quantizers and replace(bundle.space, sizes=space.sizes) == space:
            # a map alone does not say how many codes its levels have
            hint = "adopt the model with this bundle in place of its map alone"
            if quantizers[0] is None:
                hint = (
                    f"sidtool import --levels {space.spelled_sizes} gives a map the model's levels"
                )
        raise CompatibilityError(
            f"the bundle's space is {bundle_space}, the model's is {model_space}: their tokens "
            "differ",
            hint=hint,
        )
    name = bundle.manifest.name
    codebook, model_codebook = bundle.identity.codebook, model_bundle.identity.codebook
    overlap = compare(model_bundle.items, bundle.items)
    unchanged = not overlap.reassigned and not overlap.reused
    if unchanged and (overlap.common or codebook == model_codebook):
        added = int((~bundle.items.retired).sum()) - overlap.active
        removed = int((~model_bundle.items.retired).sum()) - overlap.active
        message = (
            f"the catalog changed since the model was made: {overlap.common} items kept their SID, "
            f"{added} were added, {removed} removed"
        )
        return Verdict("refreshed", message)
    if model_codebook in bundle.manifest.compatible_with:
        share = overlap.reassigned / max(overlap.common, 1)
        message = (
            f"bundle {name!r} is aligned with the model's: {share:.1%} of the "
            f"{overlap.common} common items have another SID than the model was trained on"
        )
        return Verdict("aligned", message, share)
    changed = f"{overlap.reassigned} of {overlap.common} common items have another SID"
    if codebook == model_codebook:
        if quantizers[0] is not None:
            hint = "extend the model's bundle with add-items, which changes no SID"
        raise CompatibilityError(
            f"bundle {name!r} changes SIDs of the model's bundle: {changed}, "
            f"{overlap.reused} SIDs are reused",
            hint=hint,
        )
    if None not in quantizers:
        hint = (
            "sidtool refresh brings the model to this bundle; the one that it was made for is in "
            "its folder, sid.zarr"
        )
    raise CompatibilityError(
        f"bundle {name!r} has codebook {codebook[:12]}, the model was made for codebook "
        f"{model_codebook[:12]} ({changed})",
        hint=hint,
    )


def compare(old: ItemMap, new: ItemMap) -> Overlap:
    """Join two item maps by id and by SID: about a second for a million items."""
    new_rows = old.id_texts.places_in(new.id_texts)  # (n_old,)
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


def further_splits(
    bundle: Bundle, contracts: Iterable[Contract], *others: SplitReference
) -> tuple[SplitReference, ...]:
    """The splits that a bundle's codebook and models may have learned from, and others, without
    repeats."""
    model_splits = (reference for contract in contracts for reference in contract.splits)
    references = (bundle.manifest.made_from.split, *model_splits, *others)
    return tuple(dict.fromkeys(reference for reference in references if reference))


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
    bundle.check_split(label, split)
    for reference in contract.splits:
        check_split(model, reference, label, split)
