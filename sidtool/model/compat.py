"""Whether a bundle may serve a model that was made for another one.

Knows two bundles and the model's contract; knows nothing of weights. The verdicts, first that
holds:

    same identity                                                            same same space; no
    common item's SID moved, none reused for another item     refreshed   a notice the model's
    codebook is in the bundle's `compatible_with`                aligned     a warning: the share
    that moved anything else                                                            refused
    CompatibilityError

A bundle with another codebook that shares no item with the model's has moved none, and is refused
all the same."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import ItemMap
from sidtool.errors import CompatibilityError
from sidtool.model.contract import Contract


@dataclass(frozen=True)
class Verdict:
    """What holds between a bundle and a model, as a line for people ("" where all is the same), and
    the share of common items whose SID moved."""

    kind: Literal["same", "refreshed", "aligned"]
    message: str = ""
    moved_share: float = 0.0


@dataclass(frozen=True)
class Overlap:
    """Two item maps of one space against each other, retired items included."""

    common: int
    moved: int
    reused: int
    """SIDs that only other items than before hold now"""


def check(contract: Contract, model_bundle: Bundle, bundle: Bundle) -> Verdict:
    """Judge `bundle` for a model with this contract, whose own bundle is `model_bundle`.

    Raises CompatibilityError, naming what differs, if it is refused.
    """
    if bundle.identity == contract.identity:
        return Verdict("same")
    if bundle.space != contract.space:
        raise CompatibilityError(
            f"the bundle's space is {_spelled(bundle)}, the model's is "
            f"{_spelled(model_bundle)}: their tokens differ",
            hint="extend and train a model for this bundle",
        )
    same_codebook = bundle.identity.codebook == contract.identity.codebook
    overlap = compare(model_bundle.items, bundle.items)
    if not overlap.moved and not overlap.reused and (overlap.common or same_codebook):
        return Verdict("refreshed", _refreshed(model_bundle, bundle, overlap))
    share = overlap.moved / max(overlap.common, 1)
    if contract.identity.codebook in bundle.manifest.compatible_with:
        moved = f"{share:.1%} of the {overlap.common} common items have another SID than the model was trained on"
        return Verdict(
            "aligned",
            f"bundle {bundle.manifest.name!r} is aligned with the model's: {moved}",
            share,
        )
    raise _refusal(contract, bundle, overlap, same_codebook)


def compare(old: ItemMap, new: ItemMap) -> Overlap:
    """Join two item maps by id and by SID: about a second for a million items."""
    rows = matching_rows(old, new)  # (n_old,)
    common = np.flatnonzero(rows >= 0)
    stayed = old.keys[common] == new.keys[rows[common]]
    kept = np.unique(old.keys[common[stayed]])
    shared = np.intersect1d(_distinct(old.keys), _distinct(new.keys), assume_unique=True)
    return Overlap(common=len(common), moved=int((~stayed).sum()), reused=len(shared) - len(kept))


def matching_rows(old: ItemMap, new: ItemMap) -> NDArray[np.int64]:
    """(n_old,) int64: where each item of `old` is in `new`, -1 where it is not. Joined by hash,
    checked by bytes."""
    if not len(old) or not len(new):
        return np.full(len(old), -1, dtype=np.int64)
    hashes = old.ids.hashes()
    places = np.minimum(np.searchsorted(new.index.hashes, hashes), len(new) - 1)
    rows = new.index.rows[places].astype(np.int64)
    rows[new.index.hashes[places] != hashes] = -1
    found = np.flatnonzero(rows >= 0)
    unlike = found[
        ~_same_ids(old, found, new, rows[found])
    ]  # two ids of one hash: look these few up by text
    rows[unlike] = new.rows([old.ids[int(row)] for row in unlike])
    return rows


def _same_ids(
    old: ItemMap, old_rows: NDArray[np.int64], new: ItemMap, new_rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(n,) bool: whether the ids at these rows are equal byte for byte."""
    starts, others = old.ids.offsets[old_rows], new.ids.offsets[new_rows]
    lengths = old.ids.offsets[old_rows + 1] - starts
    same: NDArray[np.bool_] = lengths == new.ids.offsets[new_rows + 1] - others
    starts, others, lengths = starts[same], others[same], lengths[same]
    if len(lengths):
        firsts = np.concatenate(
            [[0], np.cumsum(lengths)[:-1]]
        )  # where each id begins in the gathered bytes
        within = np.arange(int(lengths.sum())) - np.repeat(firsts, lengths)
        equal = (
            old.ids.data[np.repeat(starts, lengths) + within]
            == new.ids.data[np.repeat(others, lengths) + within]
        )
        same[np.flatnonzero(same)] = np.logical_and.reduceat(equal, firsts)
    return same


def _distinct(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted keys without repeats."""
    return keys[np.concatenate([np.ones(min(len(keys), 1), dtype=np.bool_), keys[1:] != keys[:-1]])]


def _refreshed(model_bundle: Bundle, bundle: Bundle, overlap: Overlap) -> str:
    added, gone = len(bundle.items) - overlap.common, len(model_bundle.items) - overlap.common
    return (
        f"the catalog was refreshed since the model was made: {overlap.common} items kept their "
        "SID, "
        f"{added} are new, {gone} are gone"
    )


def _refusal(
    contract: Contract, bundle: Bundle, overlap: Overlap, same_codebook: bool
) -> CompatibilityError:
    if same_codebook:
        what = f"{overlap.moved} of {overlap.common} common items have another SID, {overlap.reused} SIDs are reused"
        return CompatibilityError(
            f"bundle {bundle.manifest.name!r} moves SIDs that the model knows: {what}",
            hint="extend the model's own bundle with add-items, which moves none",
        )
    ours, theirs = bundle.identity.codebook[:12], contract.identity.codebook[:12]
    return CompatibilityError(
        f"bundle {bundle.manifest.name!r} has codebook {ours}, the model was made for codebook "
        f"{theirs} "
        f"({overlap.moved} of {overlap.common} common items have another SID)",
        hint="train a model for this bundle, or use the bundle that the model was made for",
    )


def _spelled(bundle: Bundle) -> str:
    return f"{bundle.space.spelled_sizes} ({bundle.space.example})"
