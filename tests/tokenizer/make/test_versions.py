import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, RefusedError
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import AlignChange, BuildChange, ItemsChange, Manifest
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.make.add import add_items
from sidtool.tokenizer.make.align import align
from sidtool.tokenizer.make.diff import diff
from sidtool.tokenizer.quantize.codebook import QuantizerParams
from sidtool.tokenizer.quantize.methods import fit
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import renamed as with_name
from tests.bundles import reopened, small_bundle

SPACE = SidSpace((3, 4))

names = st.sampled_from([f"i{n}" for n in range(9)])
items = st.tuples(st.integers(0, 11), st.booleans(), st.sampled_from(["", "lamp", "soap"]))
held = st.dictionaries(names, items, min_size=1)


def made(items: dict[str, tuple[int, bool, str]]) -> Bundle:
    codes = np.array([divmod(place, 4) for place, _, _ in items.values()], dtype=np.uint16)
    retired = np.array([gone for _, gone, _ in items.values()])
    titles = [title for _, _, title in items.values()]
    sorted_items = ItemMap.of(SPACE, list(items), codes, titles, retired)
    return Bundle.of(sorted_items, None, "allow", name="shop")


@given(old=held, new=held)
def test_diff_agrees_with_dictionaries(
    old: dict[str, tuple[int, bool, str]], new: dict[str, tuple[int, bool, str]]
) -> None:
    result = diff(made(old), made(new))
    common = old.keys() & new.keys()
    assert set(result.added) == {item for item in new.keys() - old.keys() if not new[item][1]}
    assert set(result.gone) == {item for item in old.keys() - new.keys() if not old[item][1]}
    assert set(result.retired) == {item for item in common if not old[item][1] and new[item][1]}
    assert set(result.restored) == {item for item in common if old[item][1] and not new[item][1]}
    assert set(result.retitled) == {item for item in common if old[item][2] != new[item][2]}
    moved = {item: (old[item][0], new[item][0]) for item in common if old[item][0] != new[item][0]}
    depths = {item: 1 if one // 4 != other // 4 else 2 for item, (one, other) in moved.items()}
    assert {move.item: move.depth for move in result.moved} == depths
    assert result.kept == len(common) - len(moved)
    n_moved = [sum(depth <= level for depth in depths.values()) for level in (1, 2)]
    shares = [(1 - moved_so_far / len(common) if common else 0) for moved_so_far in n_moved]
    assert result.same_prefix == pytest.approx(shares)
    for move in result.moved:
        places = tuple(SPACE.spell(divmod(place, 4)) for place in moved[move.item])
        assert (move.old, move.new) == places
    assert result.same == (old == new)


def test_drift_is_the_mean_distance_relative_to_the_norm() -> None:
    old = small_bundle()
    assert diff(old, old).drift == (0.0, 0.0, 0.0)
    first, second, _ = old.codebook.levels
    doubled = replace(old.codebook, levels=(2 * first, 2 * second, np.ones((2, 8))))
    drift = diff(old, Bundle.of(old.items, doubled, "reassign", name="small")).drift
    norms = [np.linalg.norm(level, axis=1) for level in old.codebook.levels]
    assert drift[:2] == pytest.approx([float(n.mean() / np.sqrt((n**2).mean())) for n in norms[:2]])
    assert drift[2] is None
    assert diff(old, small_bundle(codebook=False)).drift == (None,) * 3


def test_prices_of_balanced_levels_are_no_place_of_a_centroid() -> None:
    old = small_bundle(3)  # most codes have no item
    priced, order = [], np.random.default_rng(0)
    names = [order.permutation(size) for size in old.space.sizes]
    for level, name in zip(old.codebook.levels, names, strict=True):
        prices = order.uniform(size=(len(level), 3)).astype(np.float32)
        priced.append(np.hstack([level, prices])[name])
    params = replace(old.codebook.params, dim=8)
    codebook = replace(old.codebook, levels=tuple(priced), params=params)
    codes = np.stack(
        [np.argsort(name)[column] for name, column in zip(names, old.items.codes.T, strict=True)],
        axis=1,
    ).astype(np.uint16)
    balanced = Bundle.of(
        ItemMap.of(old.space, list(old.items.ids), codes, list(old.items.titles)),
        codebook,
        "reassign",
        name="balanced",
    )
    assert diff(old, align(balanced, old)).drift == (0.0, 0.0, 0.0)


def test_the_manifests_are_compared_key_by_key() -> None:
    old = small_bundle()
    codebook = replace(old.codebook, params=QuantizerParams(fit={"seed": 7}))
    new = Bundle.of(old.items, codebook, "allow", name="other")
    changed = {"name": ("small", "other"), "collisions.policy": ("reassign", "allow")}
    assert diff(old, new).manifest == changed | {"recipe.quantizer.parameters.seed": (0, 7)}


def test_sids_of_different_depth_differ_at_the_shorter_length() -> None:
    deep = small_bundle()
    items = ItemMap.of(SidSpace((4, 5)), list(deep.items.ids), deep.items.codes[:, :2])
    shallow = Bundle.of(items, None, "allow", name="flat")
    assert {move.depth for move in diff(deep, shallow).moved} == {3}


def test_versions_count_up_and_the_history_grows() -> None:
    first = small_bundle().manifest
    assert [version.change for version in first.history] == [BuildChange(40)]
    added, aligned = ItemsChange(added=2), AlignChange("0" * 64, 42, (42, 40, 38), (42, 41, 40))
    second = replace(first, **first.next_version(added))
    third = replace(second, **second.next_version(aligned, new_codebook=True))
    assert [version.version for version in third.history] == ["1.0", "1.1", "2.0"]
    assert [version.change for version in third.history] == [BuildChange(40), added, aligned]
    assert Manifest.from_json(third.to_json()) == third


@pytest.mark.parametrize(
    ("published", "items", "codebook"),
    [
        ([], "1.1", "2.0"),
        (["1.0"], "1.1", "2.0"),
        (["1.1", "1.0"], "1.2", "2.0"),
        (["2.1", "2.0", "1.10", "1.9", "1.0"], "1.11", "3.0"),
    ],
)
def test_the_next_number_is_past_the_published_ones(
    published: list[str], items: str, codebook: str
) -> None:
    manifest, change = small_bundle().manifest, ItemsChange(added=2)
    made = manifest.next_version(change, published=published)
    assert (made["version"], made["parent"]) == (items, manifest.digest)
    made = manifest.next_version(change, published=published, new_codebook=True)
    assert made["version"] == codebook


def test_a_published_version_that_is_no_number_is_refused() -> None:
    bundle = small_bundle()
    with pytest.raises(DataError, match=r"'1\.x' is not a version: two numbers"):
        add_items(bundle, remove=[bundle.items.ids[0]], published=["1.0", "1.x"])


def shop(
    vectors: Vectors, seed: int, policy: str = "reassign", space: SidSpace | None = None
) -> Bundle:
    ids = [f"i{row:03d}" for row in range(len(vectors))]
    book = fit(vectors, (8, 8, 8), seed=seed)
    assigned = assign(book.encode(vectors), vectors, book, ids, policy)  # type: ignore[arg-type]
    titles = [f"film {item}" for item in ids]
    items = ItemMap.of(space or SidSpace(assigned.level_sizes), ids, assigned.codes, titles)
    return Bundle.of(items, book, policy, name=f"shop{seed}")


@pytest.fixture(scope="module")
def clusters() -> Vectors:
    rng = np.random.default_rng(0)
    centers = 4 * rng.normal(size=(8, 6))
    return (centers[np.arange(160) % 8] + rng.normal(size=(160, 6))).astype(np.float32)


def renamed(bundle: Bundle, seed: int) -> Bundle:
    """The same bundle with the codes of every level shuffled, so that only the names of codes
    differ."""
    rng = np.random.default_rng(seed)
    names = [rng.permutation(size) for size in bundle.codebook.sizes]
    pairs = zip(bundle.codebook.levels, names, strict=True)
    levels = tuple(level[np.argsort(name)] for level, name in pairs)
    columns = [name[bundle.items.codes[:, level]] for level, name in enumerate(names)]
    codes = np.stack(columns, axis=1).astype(np.uint16)
    titles = [*(bundle.items.titles or [])] or None
    items = ItemMap.of(bundle.space, list(bundle.items.ids), codes, titles)
    return Bundle.of(items, replace(bundle.codebook, levels=levels), "reassign", name="renamed")


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), n=st.integers(1, 60))
def test_aligning_shuffled_codes_restores_the_bundle(seed: int, n: int) -> None:
    """Codes without items are matched by their centroids."""
    old = small_bundle(n)
    aligned = align(renamed(old, seed), old)
    assert aligned.manifest.change.after == (n, n, n)
    assert aligned.identity == old.identity


def test_aligning_a_retrained_codebook_keeps_more_sids_and_its_vectors(clusters: Vectors) -> None:
    old, new = shop(clusters, 0), shop(clusters, 1)
    aligned = align(new, old)
    change = aligned.manifest.change
    assert change.after[0] > 0.9 * change.common  # eight clusters, found by both
    assert all(after > before for before, after in zip(change.before, change.after, strict=True))
    rows = aligned.items.rows(list(new.items.ids))
    for codes, others in (
        (aligned.items.codes[rows], new.items.codes),
        (aligned.encode(clusters), new.encode(clusters)),
    ):
        np.testing.assert_array_equal(aligned.codebook.decode(codes), new.codebook.decode(others))
    ours = old.items.codes == aligned.items.codes[aligned.items.rows(list(old.items.ids))]
    assert change.after == tuple(np.logical_and.accumulate(ours, axis=1).sum(axis=0).tolist())


def counted_from_one(bundle: Bundle) -> Bundle:
    """The same bundle with a placeholder as code 0 of each level, like a map that counts from 1."""
    book = bundle.codebook
    levels = tuple(np.pad(level, ((1, 0), (0, 0))) for level in book.levels)
    space = SidSpace(tuple(size + 1 for size in bundle.space.sizes))
    items = ItemMap.of(space, list(bundle.items.ids), bundle.items.codes + np.uint16(1))
    book = replace(book, levels=levels, params=replace(book.params, first_code=1))
    return Bundle.of(items, book, "reassign", name=bundle.manifest.name)


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_placeholders_keep_their_names(seed: int, tmp_path: Path) -> None:
    """With few items, a placeholder may be nearer to an unused code than to the placeholder."""
    old = counted_from_one(small_bundle(6))
    new = counted_from_one(small_bundle(6, seed=seed))
    aligned = align(new, old)
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    codes = aligned.encode(vectors)
    assert (codes.min(), aligned.items.codes.min()) == (1, 1)
    decoded = new.codebook.decode(new.encode(vectors))
    np.testing.assert_array_equal(aligned.codebook.decode(codes), decoded)
    assert reopened(aligned, tmp_path / "aligned.zarr").digest == aligned.digest


def test_codebooks_that_count_from_different_codes_are_refused() -> None:
    from_zero = small_bundle(sizes=(5, 6, 7))
    with pytest.raises(RefusedError, match="count from 1, those of the old one from 0"):
        align(counted_from_one(small_bundle()), from_zero)


def test_each_level_is_matched_optimally(clusters: Vectors) -> None:
    """No swap of two codes of a level increases the number of items that agree on this level."""
    old = shop(clusters, 0)
    aligned = align(shop(clusters, 1), old)
    codes = aligned.items.codes[aligned.items.rows(list(old.items.ids))]
    earlier = np.ones(len(codes), dtype=bool)
    for level in range(3):

        def score(names, level=level, earlier=earlier):
            agree = names[codes[:, level]] == old.items.codes[:, level]
            return int((agree & earlier).sum()), int(agree.sum())

        best = score(np.arange(8))
        for a, b in itertools.combinations(range(8), 2):
            swap = np.arange(8)
            swap[[a, b]] = b, a
            assert score(swap) <= best
        earlier = earlier & (codes[:, level] == old.items.codes[:, level])


def test_aligned_bundles_record_compatible_codebooks(clusters: Vectors, tmp_path: Path) -> None:
    old, new = shop(clusters, 0), shop(clusters, 1, space=SidSpace((8, 8, 8), begin=None, end=None))
    retired = replace(new.items, retired=np.arange(160) < 3, stored_index=None)
    new = Bundle.of(retired, new.codebook, "reassign", name="new")
    oldest = "abc0" * 16
    older = Bundle(replace(old.manifest, compatible_with=(oldest,), version="1.4"), old.arrays)
    aligned = align(new, older)
    change = aligned.manifest.change
    assert aligned.manifest.compatible_with == (old.identity.codebook, oldest)
    assert aligned.space == old.space
    assert (aligned.manifest.name, aligned.manifest.version) == ("shop0", "2.0")
    assert aligned.manifest.parent == old.identity.digest
    change = AlignChange(new.identity.digest, change.common, change.before, change.after)
    assert aligned.manifest.change == change
    gone = {new.items.ids[row] for row in range(3)}
    assert {aligned.items.ids[int(row)] for row in np.flatnonzero(aligned.items.retired)} == gone
    stored = reopened(aligned, tmp_path / "aligned.zarr").manifest.to_json()
    assert stored | {"objects": {}} == aligned.manifest.to_json()


@pytest.mark.parametrize("capacity", [3, 16, 64])
def test_an_appended_level_keeps_its_names(clusters: Vectors, capacity: int) -> None:
    """How many codes it has depends on the items: up to 3 items share their codes here."""
    old = shop(clusters, 0, "append", SidSpace((8, 8, 8, capacity)))
    new = shop(clusters, 1, "append")
    aligned = align(new, old)
    assert (aligned.space, aligned.manifest.collisions) == (old.space, old.manifest.collisions)
    rows = aligned.items.rows(list(new.items.ids))
    np.testing.assert_array_equal(aligned.items.codes[rows, 3], new.items.codes[:, 3])
    codes = new.items.codes.copy()
    codes[0, 3] = 15
    items = ItemMap.of(new.space, list(new.items.ids), codes)
    crowded = Bundle.of(items, new.codebook, "append", name="crowded")
    if capacity == 3:
        with pytest.raises(RefusedError, match=r"levels are 8x8x8x16, .* 8x8x8x3") as caught:
            align(crowded, old)
        assert "the appended level of the old bundle" in (caught.value.hint or "")
    else:
        assert align(crowded, old).space == old.space


def test_bundles_that_cannot_be_aligned_are_refused(clusters: Vectors) -> None:
    old, new = shop(clusters, 0), shop(clusters, 1)
    with pytest.raises(RefusedError, match="'small' is a map without a codebook"):
        align(small_bundle(codebook=False), old)
    with pytest.raises(RefusedError, match="levels are 4x5x6, the old one's 8x8x8"):
        align(small_bundle(), old)
    with pytest.raises(RefusedError, match="nothing to align"):
        align(with_name(old, "same"), old)
    strangers = ItemMap.of(new.space, [f"x{n}" for n in range(160)], new.items.codes)
    with pytest.raises(RefusedError, match="none of the 160 items"):
        align(Bundle.of(strangers, new.codebook, "reassign", name="new"), old)
