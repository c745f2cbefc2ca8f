import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, RefusedError, SidtoolWarning, UsageError
from sidtool.data.items import Items, make_items
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import ItemsChange
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.codes.report import Policy
from sidtool.tokenizer.make import encode
from sidtool.tokenizer.make.add import add_items, item_change, planned_change, unknown
from sidtool.tokenizer.make.encode import embed_texts, item_vectors, recorded_encoder
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle

SIZES, DIM = (3, 4, 5), 6
NAMES = [f"n{row}" for row in range(12)]


def vector(item: str) -> Vectors:
    """The vector of an item, the same in every call. A third of the items share theirs with others,
    so that they collide."""
    total = sum(item.encode())
    seed = total % 7 if total % 3 == 0 else int.from_bytes(item.encode(), "big") % 2**32
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def listed(ids: Sequence[str], title: str = "film") -> Items:
    titles = tuple(f"{title} {item}" for item in ids)
    return make_items(tuple(ids), titles, titles, fields={}, template="{title}")


def vectors_of(ids: Sequence[str]) -> Vectors:
    return np.array([vector(item) for item in ids], dtype=np.float32).reshape(-1, DIM)


def built(policy: Policy = "reassign", n: int = 8) -> Bundle:
    rng = np.random.default_rng(1)
    levels = [rng.normal(size=(size, DIM)) / depth for depth, size in enumerate(SIZES, 1)]
    levels = tuple(level.astype(np.float32) for level in levels)
    book = Codebook("rq-kmeans", levels, {}, QuantizerParams(fit={"seed": 1}))
    ids = [f"old{row}" for row in range(n)]
    vectors = vectors_of(ids)
    assigned = assign(book.encode(vectors), vectors, book, ids, policy)
    titles = [f"film {item}" for item in ids]
    items = ItemMap.of(SidSpace(assigned.level_sizes), ids, assigned.codes, titles)
    return Bundle.of(items, book, policy, name="shop", recipe={"encoder": {"vectors": "given"}})


def grown(bundle: Bundle, ids: Sequence[str], title: str = "film") -> Bundle:
    """Add items with the vectors of `vector`; the warning about items that exist already is
    ignored."""
    new = [ids[at] for at in unknown(bundle, ids)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SidtoolWarning)
        return add_items(bundle, listed(ids, title), vectors_of(new))


def published(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    return dict(zip(bundle.items.ids, map(tuple, bundle.items.codes.tolist()), strict=True))


def alive(bundle: Bundle) -> set[str]:
    return {bundle.items.ids[int(row)] for row in bundle.active}


POLICIES = st.sampled_from(["reassign", "append", "allow"])
STEPS = st.lists(
    st.tuples(st.booleans(), st.lists(st.sampled_from(NAMES), unique=True, max_size=5)), max_size=6
)


@given(policy=POLICIES, steps=STEPS)
def test_no_sequence_of_adds_and_removes_moves_a_published_sid(
    policy: Policy, steps: list[tuple[bool, list[str]]]
) -> None:
    bundle = built(policy)
    expected = alive(bundle)
    for adds, ids in steps:
        published_sids = published(bundle)
        changed_ids = ids if adds else [item for item in ids if item in published_sids]
        bundle = grown(bundle, changed_ids) if adds else add_items(bundle, remove=changed_ids)
        expected = expected | set(changed_ids) if adds else expected - set(changed_ids)
        assert published(bundle).items() >= published_sids.items()
        assert alive(bundle) == expected
        if policy != "allow":
            assert len(np.unique(bundle.items.keys)) == len(bundle.items)
        assert (np.diff(bundle.items.keys.astype(object)) >= 0).all()


@given(
    policy=st.sampled_from(["append", "allow"]),
    ids=st.lists(st.sampled_from(NAMES), unique=True),
    cuts=st.sets(st.integers(1, 11)),
)
def test_one_batch_equals_many_batches(policy: Policy, ids: list[str], cuts: set[int]) -> None:
    bundle = start = built(policy)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    for first, stop in itertools.pairwise(bounds):
        bundle = grown(bundle, ids[first:stop])
    assert bundle.identity == grown(start, ids).identity
    assert bundle.identity.codebook == start.identity.codebook


@given(ids=st.lists(st.sampled_from(NAMES), unique=True, min_size=1), data=st.data())
def test_a_retired_item_gets_its_sid_back(ids: list[str], data: st.DataObject) -> None:
    before = grown(built(), ids)
    removed = data.draw(st.lists(st.sampled_from(ids), unique=True, min_size=1))
    without = add_items(before, remove=removed)
    assert alive(without) == alive(before) - set(removed)
    assert without.trie().n_items == len(before.items) - len(removed)
    for item in removed:  # no newcomer takes it, though it is the nearest one
        newcomer = make_items(("twin",), ("",), ("x",), fields={}, template="{title}")
        assert add_items(without, newcomer, vectors_of([item])).sid("twin") != without.sid(item)
    assert grown(without, removed).identity == before.identity


def test_append_uses_the_lowest_free_code_and_allow_shares() -> None:
    for policy in ("append", "allow"):
        bundle = built(policy)
        newcomer = listed(["twin"])
        after = add_items(bundle, newcomer, vectors_of(["old3"]))
        old, new = published(after)["old3"], published(after)["twin"]
        assert old[:3] == new[:3]
        if policy == "allow":
            assert after.item_ids(after.sid("old3")) == sorted(after.item_ids(after.sid("old3")))
            assert {"old3", "twin"} <= set(after.item_ids(after.sid("old3")))
        else:
            first, stop = bundle.items.rows_under(old[:3])
            taken = set(bundle.items.codes[first:stop, 3].tolist())
            assert new[3] == min(set(range(len(taken) + 1)) - taken)


def test_an_appended_level_that_overflows_is_refused() -> None:
    bundle = built("append")
    size = bundle.space.sizes[-1]
    many = [f"x{n}" for n in range(size)]
    with pytest.raises(RefusedError, match=f"all {size} codes of the appended level"):
        add_items(bundle, listed(many), np.repeat(vectors_of(["old0"]), len(many), axis=0))


def test_new_items_in_a_full_space_are_refused() -> None:
    bundle = built(n=50)
    many = [f"x{n}" for n in range(11)]
    assert len(grown(bundle, many[:10]).items) == bundle.space.capacity
    with pytest.raises(RefusedError, match="50 of 60 semantic IDs are taken, and 11 items need"):
        grown(bundle, many)


def test_existing_items_keep_their_sid_and_get_the_new_title() -> None:
    bundle = built()
    novels = listed(["old1", "new", "old2"], "novel")
    with pytest.warns(SidtoolWarning, match="2 of 3 items .* keep their SID; 2 titles"):
        after = add_items(bundle, novels, vectors_of(["new"]))
    assert published(after).items() >= published(bundle).items()
    titles = ["film old0", "novel old1", "novel old2", "novel new"]
    assert [after.title(title.split()[1]) for title in titles] == titles
    assert after.manifest.change == ItemsChange(added=1, retitled=2, catalog=novels.digest)


def test_a_new_version_records_its_parents() -> None:
    first = built()
    second = grown(first, ["a", "b"])
    third = add_items(second, remove=["a", "a"])
    assert [bundle.manifest.version for bundle in (first, second, third)] == ["1.0", "1.1", "1.2"]
    assert third.manifest.parent == second.identity.digest
    digests = [first.identity.digest, second.identity.digest]
    assert [version.digest for version in third.manifest.lineage] == digests
    assert third.manifest.change == ItemsChange(retired=1)
    assert third.manifest.collisions == first.manifest.collisions
    assert third.manifest.recipe == first.manifest.recipe


def test_the_planned_change_is_that_of_the_new_version(tmp_path: Path) -> None:
    bundle = add_items(built(), remove=["old4", "old5"])
    items = listed(["old1", "a", "old4", "b"], "novel")
    remove = ["old2", "old2", "old5"]  # one twice, and one that is retired already
    planned = item_change(bundle, items, remove)
    assert planned == ItemsChange(added=2, restored=1, retitled=2, retired=1)
    np.save(tmp_path / "vectors.npy", vectors_of(items.ids))
    with_vectors = {"embeddings": [tmp_path / "vectors.npy"], "by_row": True}
    assert planned_change(bundle, items, remove=remove, **with_vectors) == planned
    with pytest.raises(RefusedError, match="built from given vectors"):
        planned_change(bundle, items, remove=remove)
    with pytest.warns(SidtoolWarning, match="1 of 4 items are in the bundle"):
        after = add_items(bundle, items, vectors_of(["a", "b"]), remove=remove)
    assert after.manifest.change == replace(planned, catalog=items.digest)
    with pytest.warns(SidtoolWarning, match="1 of 4 items are in the bundle"):
        by_array = add_items(bundle, items, embeddings=vectors_of(items.ids), remove=remove)
    assert by_array.identity == after.identity
    with pytest.raises(DataError, match="3 vectors for 4 items"):
        add_items(bundle, items, embeddings=vectors_of(items.ids)[:3])
    with pytest.raises(UsageError, match="an array has no item ids"):
        item_vectors(bundle, embeddings=vectors_of(bundle.items.ids))


def test_an_unchanged_bundle_is_no_new_version() -> None:
    bundle = built()
    assert grown(bundle, ["old1", "old2"]) is bundle
    gone = add_items(bundle, remove=["old1"])
    assert add_items(gone, remove=["old1"]) is gone


def test_invalid_additions_are_refused() -> None:
    bundle = built()
    with pytest.raises(DataError, match=r"1 ids to remove .*, the first is 'nobody'"):
        add_items(bundle, remove=pd.Series(["old1", "nobody"], index=[7, 8]))
    with pytest.raises(DataError, match="nobody cannot be read"):  # as the file of the command
        add_items(bundle, remove="nobody")
    with pytest.raises(UsageError, match="'old1' is both added and removed"):
        add_items(bundle, listed(["old1"]), remove=["old1"])
    with pytest.raises(DataError, match=r"1 vectors? for 2 new items"):
        add_items(bundle, listed(["a", "b"]), vectors_of(["a"]))
    with pytest.raises(DataError, match=r"1 item ids? .* twice"):
        add_items(bundle, listed(["a", "a"]), vectors_of(["a", "a"]))
    for sources in ({"embeddings": ["a.npy"]}, {"encoder": "minilm"}):
        with pytest.raises(UsageError, match="one of vectors, embeddings and encoder"):
            add_items(bundle, listed(["a"]), vectors_of(["a"]), **sources)
    with pytest.raises(UsageError, match="by_row requires embeddings"):
        add_items(bundle, remove=["old1"], by_row=True)
    for policy in ("reassign", "append", "allow"):
        with pytest.raises((DataError, UsageError), match=r"\(1, 2\)"):
            add_items(built(policy), listed(["a"]), np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(RefusedError, match="built from given vectors"):
        embed_texts(bundle, ["a lamp"])


@pytest.mark.parametrize(
    ("recorded", "hint"),
    [
        # as 0.2.0 recorded a model of the hub
        ({"model": "org/encoder", "revision": "c" * 40}, "--encoder hf://org/encoder downloads it"),
        ({"model": "hf://org/encoder"}, "--encoder hf://org/encoder downloads it"),
        ({"model": "/moved/encoder", "revision": "main"}, "--encoder with its present location"),
        ({"model": "moved"}, "--encoder with its present location"),
    ],
)
def test_the_encoder_of_a_bundle_is_on_this_machine(
    recorded: dict[str, str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = built()
    bundle = Bundle.of(
        old.items, old.codebook, "reassign", name="shop", recipe={"encoder": recorded}
    )
    with pytest.raises(DataError, match=f"{recorded['model']} is not on this machine") as caught:
        embed_texts(bundle, ["a lamp"])
    assert str(caught.value.shell_hint).startswith(hint)
    in_cache = {("hf://org/encoder", recorded.get("revision")): tmp_path}
    monkeypatch.setattr(encode, "download", lambda url, access: in_cache[url, access.revision])
    if "downloads" in hint:
        assert recorded_encoder(bundle).model == str(tmp_path)


def test_only_removals_apply_to_a_map_without_a_codebook() -> None:
    bundle = small_bundle(codebook=False)
    assert alive(add_items(bundle, remove=["i3"])) == alive(bundle) - {"i3"}
    with pytest.raises(RefusedError, match="a map without a codebook: it cannot encode") as refusal:
        add_items(bundle, listed(["a"]), vectors_of(["a"]))
    assert "import --codebook" in str(refusal.value.shell_hint)
    with pytest.raises(RefusedError, match="a map without a codebook"):
        embed_texts(bundle, ["a lamp"])
