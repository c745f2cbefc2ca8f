import re
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.model.contract.compat import Verdict, check_bundle, compare, usable_items
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import Codes, SidSpace
from tests.bundles import renamed
from tests.model.cases import SIZES, distinct_codes, make_bundle, make_codebook

IDS = [f"item{n}" for n in range(20)]
CODES = distinct_codes(40)
MOST_SORTS = 60
"""The most that comparing two bundles may cost, in sorts of as many hashes."""


def made(ids: Sequence[str], codes: Codes, seed: int | None = 0, **facts: object) -> Bundle:
    return make_bundle(ids, codes, codebook=None if seed is None else make_codebook(seed), **facts)


OLD = made(IDS, CODES[:20])


def swapped() -> Codes:
    codes = CODES[:20].copy()
    codes[[0, 1]] = codes[[1, 0]]
    return codes


def test_same_identity_is_fine() -> None:
    assert check_bundle(OLD, renamed(OLD, "other name")) == Verdict("same")


def test_additions_are_a_refresh() -> None:
    verdict = check_bundle(OLD, made([*IDS, "new"], CODES[:21]))
    assert verdict.kind == "refreshed"
    assert "20 items kept their SID, 1 were added, 0 removed" in verdict.message


def test_removals_and_titles_are_a_refresh() -> None:
    assert check_bundle(OLD, made(IDS[:15], CODES[:15])).kind == "refreshed"
    items = ItemMap.of(OLD.space, IDS, CODES[:20], ["t"] * 20)
    retitled = Bundle.of(items, None, "reassign", name="x")
    assert check_bundle(OLD, retitled).kind == "refreshed"  # the codebook is gone, and no SID moved


def test_retired_items_keep_their_sid() -> None:
    retired = replace(OLD.items, retired=np.arange(20) < 3)
    fewer = Bundle.of(retired, None, "reassign", name="x")
    verdict = check_bundle(OLD, fewer)
    assert verdict.kind == "refreshed"
    assert "20 items kept their SID, 0 were added, 3 removed" in verdict.message
    assert "20 items kept their SID, 3 were added, 0 removed" in check_bundle(fewer, OLD).message
    other = replace(OLD.items, retired=np.arange(20) < 2)
    restored = check_bundle(fewer, Bundle.of(other, None, "reassign", name="x"))
    assert "20 items kept their SID, 1 were added, 0 removed" in restored.message


OTHER_CODEBOOK = "the model was made for codebook"


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (made(IDS, swapped()), "2 of 20 common items have another SID"),
        # an item was removed and another one took its SID, so the model would recommend the wrong
        # item, although no common item moved
        (made([*IDS[1:], "new"], CODES[[*range(1, 20), 0]]), r"1 SIDs? \w+ reused"),
        (made(IDS, swapped(), seed=1), OTHER_CODEBOOK),
        (made(IDS, swapped(), seed=None), OTHER_CODEBOOK),
        (made([f"other{n}" for n in range(20)], CODES[20:], seed=1), OTHER_CODEBOOK),
    ],
    ids=["moved", "reused", "another codebook", "no codebook", "no item in common"],
)
def test_other_sids_are_refused(new: Bundle, message: str) -> None:
    with pytest.raises(CompatibilityError, match=message):
        check_bundle(OLD, new)


MAP = made(IDS, CODES[:20], seed=None)
WIDE = SidSpace((8, 8, 8))
WIDE_MAP = made(IDS, CODES[:20], seed=None, space=WIDE)
OTHER_MAP = made(IDS, CODES[:20], seed=None, space=SidSpace((8, 8, 8), template="<{level}{code}>"))
WIDE_BUNDLE = make_bundle(IDS, CODES[:20], codebook=make_codebook(sizes=(8, 8, 8)), space=WIDE)
RETRAIN = "extend and train a model"


@pytest.mark.parametrize(
    ("model", "new", "hint"),
    [
        # add-items and refresh need codebooks
        (OLD, made(IDS, swapped()), "add-items"),
        (MAP, made(IDS, swapped(), seed=None), RETRAIN),
        (OLD, made(IDS, swapped(), seed=1), "sidtool refresh"),
        (MAP, made(IDS, swapped(), seed=1), RETRAIN),
        (OLD, made(IDS, swapped(), seed=None), RETRAIN),
        # an imported map has other levels than its codebook or a tokenizer
        (OLD, WIDE_MAP, "import --levels 8x4x6"),
        (MAP, WIDE_MAP, "import --levels 8x4x6"),
        (MAP, WIDE_BUNDLE, "adopt the model with this bundle"),
        (OLD, WIDE_BUNDLE, RETRAIN),
        (MAP, OTHER_MAP, RETRAIN),
    ],
)
def test_no_command_is_advised_that_refuses_the_bundle(
    model: Bundle, new: Bundle, hint: str
) -> None:
    with pytest.raises(CompatibilityError) as refusal:
        check_bundle(model, new)
    assert hint in str(refusal.value.shell_hint)


def test_a_newcomer_that_shares_a_sid_reuses_none() -> None:
    """Where collisions are allowed, a SID that still has its old item keeps its meaning."""
    assert check_bundle(OLD, made([*IDS, "new"], CODES[[*range(20), 0]])).kind == "refreshed"


def test_an_aligned_codebook_is_fine_and_names_what_moved() -> None:
    codes = swapped()
    codes[2] = CODES[20]  # a SID that no item had
    aligned = made(IDS, codes, seed=1, compatible_with=(OLD.identity.codebook,), name="aligned")
    verdict = check_bundle(OLD, aligned)
    assert (verdict.kind, verdict.reassigned_share) == ("aligned", pytest.approx(0.15))
    assert "15.0% of the 20 common items" in verdict.message
    others = [f"other{n}" for n in range(20)]
    replaced = made(others, CODES[:20], seed=1, compatible_with=(OLD.identity.codebook,))
    assert check_bundle(OLD, replaced).reassigned_share == 0


def test_items_without_tokens_are_left_out_with_a_warning() -> None:
    code = int(OLD.items.codes[0, 0])
    ids = [-1 if place == code else 500 + place for place in range(len(OLD.space.tokens))]
    tokens = SidTokens.of_ids(OLD.space, ids)
    n_lacking = int((OLD.items.codes[:, 0] == code).sum())
    with pytest.warns(SidtoolWarning, match=f"{n_lacking} of 20 items .* {OLD.items.ids[0]!r}"):
        usable = usable_items(OLD, tokens)
    assert usable.active.tolist() == np.flatnonzero(OLD.items.codes[:, 0] != code).tolist()
    assert usable_items(usable, tokens) is usable
    alone = made(IDS[:1], OLD.items.codes[:1])
    with pytest.raises(CompatibilityError, match="no tokens for any item"):
        usable_items(alone, tokens)


@pytest.mark.parametrize(
    "space",
    [
        SidSpace((8, 4, 7)),
        SidSpace(SIZES, begin=None, end=None),
        SidSpace(SIZES, template="<{level}_{code}>"),
    ],
)
def test_another_space_is_refused(space: SidSpace) -> None:
    new = make_bundle(IDS, CODES[:20], codebook=make_codebook(sizes=space.sizes), space=space)
    with pytest.raises(CompatibilityError, match="their tokens differ") as refusal:
        check_bundle(OLD, new)
    other, model = re.findall(r"is (\S+ \(\S+\))", str(refusal.value))
    assert other != model


items = st.dictionaries(st.text("ab", min_size=1, max_size=4), st.integers(0, 11), max_size=12)


@given(old=items, new=items)
@settings(max_examples=60, deadline=None)
def test_the_comparison_agrees_with_dictionaries(old: dict[str, int], new: dict[str, int]) -> None:
    space = SidSpace((3, 4))

    def as_map(held: dict[str, int]) -> ItemMap:
        codes = np.array([divmod(place, 4) for place in held.values()], dtype=np.uint16)
        codes = codes.reshape(-1, 2)
        return ItemMap.of(space, list(held), codes)

    overlap = compare(as_map(old), as_map(new))
    common = old.keys() & new.keys()
    assert overlap.common == len(common)
    assert overlap.reassigned == sum(old[item] != new[item] for item in common)
    preserved_sids = {old[item] for item in common if old[item] == new[item]}
    assert overlap.reused == len((set(old.values()) & set(new.values())) - preserved_sids)


@pytest.mark.slow
def test_the_comparison_costs_no_more_than_a_few_sorts_of_the_ids() -> None:
    """The join sorts hashes: for many items its time is a small multiple of a sort of the same
    number of keys, measured in the same run."""
    n = 300_000
    space = SidSpace((256, 256, 256))
    keys = np.random.default_rng(0).permutation(np.arange(n, dtype=np.uint64) * np.uint64(16))
    keys.sort()
    from sidtool.tokenizer.bundle.item_map import StringArray

    codes = space.unpack(keys)
    names = StringArray.of([f"B{place * 7919 % n:09d}" for place in range(n)])
    old = ItemMap(space, names, codes, np.zeros(n, dtype=np.bool_))
    fewer = StringArray(names.data[: 10 * (n - 9)], names.offsets[: n - 8])
    new = ItemMap(space, fewer, codes[: n - 9], old.retired)
    hashes = names.hashes()
    started = time.process_time()
    np.argsort(hashes, kind="stable")
    sorting = time.process_time() - started
    started = time.process_time()
    overlap = compare(old, new)
    comparing = time.process_time() - started
    assert (overlap.common, overlap.reassigned, overlap.reused) == (n - 9, 0, 0)
    assert comparing < MOST_SORTS * sorting
