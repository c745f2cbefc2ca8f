import tracemalloc
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data.items import Items, make_items
from sidtool.data.split import Split, UserSequence
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.codes.measure import (
    mutual_information,
    neighbor_preservation,
    prefix_alignment,
    prefix_spread,
)
from sidtool.tokenizer.make.add import add_items
from sidtool.tokenizer.make.compare import (
    Behavior,
    Evidence,
    LevelFigures,
    common_ids,
    compare_bundles,
    describe,
    prefix_purity,
)
from sidtool.tokenizer.quantize.fusion import add_collaborative, fuse_sources
from sidtool.tokenizer.sid import Codes
from tests.bundles import small_bundle

N = 80


def vectors() -> Vectors:
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(5, 6))[np.arange(N) % 5]
    return (centers + 0.3 * rng.normal(size=(N, 6))).astype(np.float32)


def built() -> Bundle:
    """A bundle of items "i00", "i01" ..."""
    ids = [f"i{row:02d}" for row in range(N)]
    return Bundle.from_vectors(ids, vectors(), levels=(4, 4, 8), name="built")


def test_without_vectors_the_report_of_the_build_is_used() -> None:
    bundle = built()
    report = bundle.manifest.codebook_report
    figures = describe(bundle, Evidence(common_ids([bundle])))
    assert (figures.before, figures.after) == (report.collisions.before, report.collisions.after)
    expected = (report.reassigned, "rq-kmeans", N)
    assert (figures.reassigned, figures.method, figures.items) == expected
    assert figures.residual_variance == report.residual_variance_assigned
    assert figures.seconds == sum(report.seconds.values())
    assert tuple(level.neighbors for level in figures.levels) == report.neighbors.jaccard
    for level, use in zip(figures.levels, report.levels, strict=True):
        assert level == LevelFigures(use, level.neighbors, *[None] * 7)


def test_with_vectors_a_bundle_is_measured_again() -> None:
    bundle = built()
    ids = common_ids([bundle])
    figures = describe(bundle, Evidence(ids, vectors()), seed=2)
    stored = bundle.manifest.report["residual_variance_assigned"]
    assert figures.residual_variance == pytest.approx(stored, rel=1e-5)
    codes = bundle.items.codes[bundle.items.rows(ids)]
    direct = neighbor_preservation(vectors(), codes, bundle.codebook, seed=2).jaccard
    assert tuple(level.neighbors for level in figures.levels) == direct


def test_the_names_of_codes_do_not_matter() -> None:
    bundle = built()
    # the first level's codes, renamed: every row of the bundle moves
    names = np.array([2, 0, 3, 1])
    codes = bundle.items.codes.copy()
    codes[:, 0] = names[codes[:, 0]]
    first = bundle.codebook.levels[0][np.argsort(names)]
    codebook = replace(bundle.codebook, levels=(first, *bundle.codebook.levels[1:]))
    items = ItemMap.of(bundle.space, list(bundle.items.ids), codes)
    renamed = Bundle.of(items, codebook, "reassign", name="renamed")
    assert list(items.ids) != list(bundle.items.ids)
    ids = common_ids([bundle, renamed])
    steps = np.random.default_rng(0).integers(0, N, size=(300, 2))
    behavior = Behavior(steps, np.bincount(steps.ravel(), minlength=N))
    evidence = Evidence(ids, vectors(), tuple(f"kind {row % 5}" for row in range(N)), behavior)
    one, other = describe(bundle, evidence), describe(renamed, evidence)
    assert other.residual_variance == pytest.approx(one.residual_variance)
    for level, renamed_level in zip(one.levels, other.levels, strict=True):
        expected = {name: pytest.approx(value) for name, value in level.to_json().items()}
        assert renamed_level.to_json() == expected


def test_a_map_without_a_codebook_has_neighbors_and_no_residual_variance() -> None:
    bundle = small_bundle(N, codebook=False)
    ids = common_ids([bundle])
    bare = describe(bundle, Evidence(ids))
    assert (bare.method, bare.reassigned, bare.residual_variance, bare.before) == (None,) * 4
    assert [level.neighbors for level in bare.levels] == [None] * 3
    seen = describe(bundle, Evidence(ids, vectors()))
    assert seen.residual_variance is None
    assert all(0 <= level.neighbors <= 1 for level in seen.levels)


def test_vectors_of_another_width_do_not_replace_the_report_of_the_build() -> None:
    bundle = built()
    figures = describe(bundle, Evidence(common_ids([bundle]), vectors()[:, :4]))
    assert figures.residual_variance == bundle.manifest.report["residual_variance_assigned"]


def test_vectors_without_the_fused_co_occurrence_do_not_replace_the_report_of_the_build() -> None:
    observed = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    events = np.full(N, 10)
    sources = fuse_sources([vectors()])
    fusion, arrays, fused = add_collaborative(sources, vectors(), observed, events, share=0.5)
    ids = [f"i{row:02d}" for row in range(N)]
    plain = Bundle.from_vectors(ids, fused, levels=(4, 4, 8))
    codebook = plain.codebook.with_fusion(fusion, arrays)
    report = plain.manifest.report
    bundle = Bundle.of(plain.items, codebook, "reassign", name="fused", report=report)
    figures = describe(bundle, Evidence(common_ids([bundle]), vectors()))
    assert figures.residual_variance == report["residual_variance_assigned"]


def test_bundles_of_different_items_cannot_be_compared() -> None:
    one, other = small_bundle(40), small_bundle(41)
    assert common_ids([one, small_bundle(40, seed=1)]) == tuple(sorted(f"i{n}" for n in range(40)))
    names = r"'small' \(\w{12}\) and 'small' \(\w{12}\)"
    differ = f"bundles {names} differ in 1 items, the first is 'i40'"
    with pytest.raises(DataError, match=differ):
        common_ids([one, other])
    assert common_ids([one, add_items(other, remove=["i40"])]) == common_ids([one])
    with pytest.raises(DataError, match="no bundles"):
        common_ids([])


@pytest.mark.parametrize("by_row", [False, True])
def test_vectors_by_id_need_only_the_items_of_the_bundles(tmp_path: Path, by_row: bool) -> None:
    bundle = built()
    ids = common_ids([bundle])
    # the catalog has another order, and by id another item, too
    names = (*(() if by_row else ("later",)), *reversed(ids))
    items = make_items(names, names, names, fields={}, template="{title}")
    rows = vectors()[::-1] if by_row else vectors()
    np.save(tmp_path / "vectors.npy", rows)
    if not by_row:
        (tmp_path / "vectors.ids.txt").write_text("\n".join(ids) + "\n")
    path = tmp_path / "vectors.npy"
    figures = compare_bundles(bundle, embeddings=path, items=items, by_row=by_row)
    assert figures == [describe(bundle, Evidence(ids, vectors()))]
    if by_row:
        assert compare_bundles(bundle, embeddings=rows, items=items) == figures
    for source in ({"embeddings": path, "by_row": True}, {"embeddings": rows}):
        with pytest.raises(UsageError, match="rows without ids need a catalog"):
            compare_bundles([bundle], **source)


@pytest.mark.parametrize("items", [None, make_items(("i0",), ("",), ("",), fields={}, template="")])
def test_labels_need_a_column_that_was_read(items: Items | None) -> None:
    with pytest.raises(UsageError, match="the column 'brand' of the items was not read"):
        compare_bundles([small_bundle(40)], items=items, field="brand")


def by_hand(prefixes: list[tuple[int, ...]], labels: list[str]) -> float | None:
    shares = []
    for item, prefix in enumerate(prefixes):
        same = [
            n for n, other in enumerate(prefixes) if other == prefix and labels[n] and n != item
        ]
        if labels[item] and same:
            shares.append(sum(labels[n] == labels[item] for n in same) / len(same))
    return sum(shares) / len(shares) if shares else None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 3), st.sampled_from(["", "red", "red\0", "green"])
        ),
        min_size=1,
        max_size=25,
    )
)
def test_purity_equals_its_definition(rows: list[tuple[int, int, str]]) -> None:
    codes: Codes = np.array([row[:2] for row in rows], dtype=np.uint16)
    labels = [row[2] for row in rows]
    figures = prefix_purity(codes, (3, 4), labels)
    for depth, share in enumerate(figures):
        expected = by_hand([tuple(row[:depth]) for row in codes.tolist()], labels)
        assert share == (None if expected is None else pytest.approx(expected))


def test_one_long_label_takes_no_more_memory_for_every_item() -> None:
    labels = ["x" * 10**6, *map(str, range(1000))]
    tracemalloc.start()
    try:
        prefix_purity(np.zeros((len(labels), 2), dtype=np.uint16), (3, 4), labels)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_labels_and_steps_fill_the_columns() -> None:
    bundle = built()
    ids = common_ids([bundle])
    labels = tuple("" if row == 7 else f"kind {row % 5}" for row in range(N))
    steps = np.array(list(combinations(range(0, N, 9), 2)))
    event_counts = np.arange(N)[::-1].copy()
    behavior = Behavior(steps, event_counts)
    figures = describe(bundle, Evidence(ids, labels=labels, behavior=behavior), seed=4)
    codes = bundle.items.codes[bundle.items.rows(ids)]
    purity = [figures.purity_by_chance, *(level.purity for level in figures.levels)]
    assert purity == prefix_purity(codes, bundle.space.sizes, labels)

    def columns(*names: str) -> tuple[list[float], ...]:
        return tuple([getattr(level, name) for level in figures.levels] for name in names)

    information = mutual_information(codes, steps, seed=4)
    assert columns("mutual_information", "mutual_information_by_chance") == information
    alignment = prefix_alignment(codes, bundle.space.sizes, steps)
    assert columns("alignment", "alignment_by_chance") == alignment
    spread = prefix_spread(codes, bundle.space.sizes, event_counts)
    assert columns("head_spread", "tail_spread") == spread
    first = figures.levels[0]
    assert first.to_json()["alignment_lift"] == first.alignment / first.alignment_by_chance
    assert first.purity > 0.6 > 0.3 > figures.purity_by_chance  # items lie by kind


def test_the_events_may_be_a_split() -> None:
    bundle = small_bundle()
    users = [UserSequence("u", ("i0", "i1", "i2"), (0, 1, 2))]
    (figures,) = compare_bundles([bundle], interactions=Split("leave-one-out", users, (), ()))
    ids = common_ids([bundle])
    assert figures == describe(bundle, Evidence(ids, behavior=Behavior.of(users, ids)))
    assert figures.levels[0].alignment is not None
