"""Items have neighbors by content, new ones too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.data import Vectors, make_items
from sidtool.memory import content as module
from sidtool.memory import verify_memory
from sidtool.memory.build import build_memory, content_of, rebuild_memory
from sidtool.memory.content import CONTENT_WEIGHT, ItemContent, nearest_items
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.memory import Memory
from sidtool.memory.mixture.index import MemoryIndex
from sidtool.memory.similarity import content_similarity
from sidtool.tokenizer.make.add import add_items
from sidtool.tokenizer.quantize.mlp import unit
from tests.bundles import small_bundle
from tests.memory.cases import forged, random_histories, split_of, squared_cosines

BUNDLE = small_bundle()
ITEMS = len(BUNDLE.items)
SPLIT = split_of(random_histories(0, 40, ITEMS))
RNG = np.random.default_rng(3)
NEW_VECTORS = RNG.normal(size=(4, 8)).astype(np.float32)
NEW_IDS = tuple(f"i{number}" for number in range(ITEMS, ITEMS + 4))
CATALOG = make_items(NEW_IDS, NEW_IDS, NEW_IDS, fields={}, template="{title}")
GROWN = add_items(BUNDLE, CATALOG, NEW_VECTORS)
NEW_ROWS = GROWN.items.rows(NEW_IDS)
VECTORS = GROWN.require_codebook().reconstruct(GROWN.items.codes)
VECTORS = VECTORS + RNG.normal(scale=0.1, size=VECTORS.shape).astype(np.float32)


def test_the_directions_are_those_of_the_codebook_less_their_mean() -> None:
    prepared = GROWN.require_codebook().prepare(VECTORS)
    centered = unit((prepared - prepared.mean(axis=0)).astype(np.float32))
    content = ItemContent.of(GROWN, VECTORS, 0.5)
    expected = np.triu(squared_cosines(centered.astype(np.float64), 100))
    np.testing.assert_allclose(content.nearest.toarray(), expected, rtol=1e-3, atol=1e-6)
    heavier = content.weighted(2.0)
    assert (heavier.settings.weight, heavier.settings.source) == (2.0, "vectors")


def test_content_counts_more_for_items_without_events() -> None:
    nearest = sparse.csr_matrix(np.array([[0, 0.5, 0.25], [0, 0, 1.0], [0, 0, 0]]))
    result = content_similarity(nearest, 0.8, np.array([0, 3, 9])).toarray()
    np.testing.assert_allclose(result, [[0, 0.6, 0.3], [0, 0, 0.9], [0, 0, 0]])


@pytest.mark.parametrize("vectors", [VECTORS, None], ids=["vectors", "codes"])
def test_new_items_are_reached_from_old_ones(vectors: np.ndarray | None) -> None:
    memory = build_memory(SPLIT, GROWN, content=ItemContent.of(GROWN, vectors))
    similar = memory.neighbors.to_scipy().toarray()
    assert (similar[NEW_ROWS].sum(axis=1) > 0).all()
    assert (similar[:, NEW_ROWS].sum(axis=0) > 0).all()
    index = MemoryIndex.of(memory, GROWN)
    item_positions = np.argsort(GROWN.active)
    for row in NEW_ROWS.tolist():
        nearest_old = int(np.argmax(np.delete(similar[:, row], NEW_ROWS)))
        old_rows = np.delete(np.arange(len(GROWN.items)), NEW_ROWS)
        (distribution,) = index.distributions([old_rows[[nearest_old]]], 1.0)
        assert item_positions[row] in distribution.positions
        (from_new,) = index.distributions([np.array([row])], 1.0)
        assert len(from_new)


def test_similarity_by_content_is_added_to_that_of_the_events() -> None:
    content = ItemContent.of(GROWN, VECTORS, 0.7)
    knn = KnnSettings(neighbors=None)
    plain = build_memory(SPLIT, GROWN, knn)
    both = build_memory(SPLIT, GROWN, knn, content=content)
    added = content_similarity(content.nearest, 0.7, plain.events).toarray()
    expected = plain.neighbors.to_scipy().toarray() + added + added.T
    np.testing.assert_allclose(both.neighbors.to_scipy().toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(both.arrays["pairs/weight"], plain.arrays["pairs/weight"])


@pytest.mark.parametrize("neighbors", [2, None])
def test_neighbors_follow_from_what_is_stored(tmp_path: Path, neighbors: int | None) -> None:
    content = ItemContent.of(GROWN, VECTORS)
    memory = build_memory(SPLIT, GROWN, KnnSettings(neighbors=neighbors), content=content)
    memory.save(tmp_path / "m.zarr")
    assert verify_memory(tmp_path / "m.zarr") == []


def test_the_content_is_recorded_and_covered_by_the_digest(tmp_path: Path) -> None:
    plain = build_memory(SPLIT, GROWN)
    contents = [
        ItemContent.of(GROWN),
        ItemContent.of(GROWN, weight=0.2),
        ItemContent.of(GROWN, VECTORS),
        ItemContent.of(GROWN, VECTORS + np.float32(1e-3)),
    ]
    memories = [plain, *(build_memory(SPLIT, GROWN, content=content) for content in contents)]
    assert len({memory.digest for memory in memories}) == 5
    for number, content in enumerate(contents, 1):
        memories[number].save(tmp_path / f"{number}.zarr")
        stored = Memory.open_verified(tmp_path / f"{number}.zarr")
        assert stored.manifest.content == content.settings


DAMAGES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "other weight": lambda a: a["content/weight"].__setitem__(0, 0.9),
    "negative weight": lambda a: a["content/weight"].__setitem__(0, -1),
    "nan": lambda a: a["content/weight"].__setitem__(0, np.nan),
    "item of its own row": lambda a: a["content/item"].__setitem__(0, 0),
    "item out of range": lambda a: a["content/item"].__setitem__(0, 44),
    "offsets that fall": lambda a: a["content/offset"].__setitem__(1, 1 << 40),
    "no weights": lambda a: a.pop("content/weight"),
    "neighbors without it": lambda a: a.update(
        {name: build_memory(SPLIT, GROWN).arrays[name] for name in a if "neighbors" in name}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_content_that_contradicts_the_rest_is_reported(tmp_path: Path, damage: str) -> None:
    """Although digests and objects agree with it."""
    memory = build_memory(SPLIT, GROWN, content=ItemContent.of(GROWN))
    forged(memory, DAMAGES[damage]).save(tmp_path / "m.zarr")
    ((name, _),) = verify_memory(tmp_path / "m.zarr")
    assert name == "content/item" or damage != "item of its own row"


def test_content_is_that_of_the_vectors_or_of_the_earlier_memory() -> None:
    earlier = build_memory(SPLIT, GROWN, content=ItemContent.of(GROWN, weight=0.2))
    for nothing in ((VECTORS, 0.0, earlier), (None, None, build_memory(SPLIT, GROWN)), [None] * 3):
        assert content_of(GROWN, *nothing) is None
    for values, source, weight in (
        ((None, None, earlier), "codes", 0.2),
        ((None, 0.9, earlier), "codes", 0.9),
        ((None, 0.3, None), "codes", 0.3),
        ((VECTORS, None, earlier), "vectors", 0.2),
        ((VECTORS, None, None), "vectors", CONTENT_WEIGHT),
    ):
        settings = content_of(GROWN, *values).settings
        assert (settings.source, settings.weight) == (source, weight)
    by_vectors = build_memory(SPLIT, BUNDLE, content=ItemContent.of(BUNDLE, VECTORS[:ITEMS]))
    with pytest.raises(UsageError, match="compares the items' vectors"):
        content_of(GROWN, None, None, by_vectors)
    renewed = rebuild_memory(by_vectors, SPLIT, GROWN, VECTORS).manifest.content
    assert renewed == ItemContent.of(GROWN, VECTORS).settings


@pytest.mark.parametrize("weight", [-1.0, 101.0, float("nan"), float("inf"), 0.0])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="weight must be"):
        ItemContent.of(GROWN, weight=weight)


def test_vectors_that_do_not_fit_or_lack_a_codebook_are_refused() -> None:
    with pytest.raises(DataError, match="43 vectors for 44 items"):
        ItemContent.of(GROWN, VECTORS[:-1])
    with pytest.raises(DataError, match="expected"):
        ItemContent.of(GROWN, VECTORS[:, :-1])
    with pytest.raises(DataError, match="not finite"):
        ItemContent.of(GROWN, np.full_like(VECTORS, np.nan))
    with pytest.raises(RefusedError, match="without a codebook"):
        ItemContent.of(small_bundle(codebook=False))


def mixture(n: int, clusters: int, seed: int) -> Vectors:
    """n vectors of length 1 around so many centers."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, 16))
    vectors = centers[rng.integers(clusters, size=n)] + 0.3 * rng.normal(size=(n, 16))
    return unit(vectors.astype(np.float32))


@given(
    count=st.integers(2, 50),
    neighbors=st.sampled_from([1, 3, 100]),
    block=st.sampled_from([1, 200, 2**24]),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_nearest_items_agree_with_loops(count: int, neighbors: int, block: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_VALUES", block)
        patch.setattr(module, "NEIGHBORS", neighbors)
        result = nearest_items(vectors).toarray()
    expected = np.triu(squared_cosines(vectors.astype(np.float64), neighbors))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("block", [2**24, 64])
def test_comparing_all_cells_is_comparing_all_pairs(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = mixture(300, 12, seed=1)
    exact = nearest_items(vectors)
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    monkeypatch.setattr(module, "PROBED", 300)
    monkeypatch.setattr(module, "BLOCK_VALUES", block)
    by_cells = nearest_items(vectors)
    np.testing.assert_allclose(by_cells.toarray(), exact.toarray(), rtol=1e-4, atol=1e-9)


def test_a_few_cells_hold_nearly_all_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = mixture(2000, 100, seed=2)
    monkeypatch.setattr(module, "NEIGHBORS", 10)
    exact = nearest_items(vectors)
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    by_cells = nearest_items(vectors)
    in_both = by_cells.multiply(exact > 0)
    assert in_both.sum() > 0.95 * exact.sum()
    assert by_cells.nnz < 1.1 * exact.nnz


def test_items_with_one_vector_in_common_are_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.repeat(mixture(3, 3, seed=3), 40, axis=0)  # fewer distinct ones than cells
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    monkeypatch.setattr(module, "NEIGHBORS", 5)
    similarity = nearest_items(vectors)
    symmetric = (similarity + similarity.T).tocsr()
    assert (np.diff(symmetric.indptr) >= 5).all()
    np.testing.assert_allclose(symmetric.data, 1.0, rtol=1e-5)
