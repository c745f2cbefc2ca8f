"""Files for engines, read back by readers that are written from the engines' formats alone."""

import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.errors import CompatibilityError, DataError, SidtoolWarning, UsageError
from sidtool.integrations.formats.convert import FORMATS, System, export_map, plan_export
from sidtool.integrations.formats.inference_engines import sid_option
from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.model.vocabulary.tokens import TokenTable
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.integrations.formats.cases import numbered_bundle, sorted_tokens


def expected_tokens(bundle: Bundle, tokens: SidTokens) -> dict[str, tuple[int, ...]]:
    """The token ids of each item, one look-up at a time."""
    return {
        bundle.items.ids[row]: tuple(
            int(tokens.level_ids[level][code])
            for level, code in enumerate(bundle.items.codes[row].tolist())
        )
        for row in bundle.active.tolist()
    }


def read_xllm(path: Path) -> list[tuple[int, tuple[int, ...]]]:
    """As xLLM's RecVocabDict reads it: an int64, then three int32, until the file ends."""
    records = []
    with path.open("rb") as stream:
        while item := stream.read(8):
            triple = stream.read(12)
            assert len(item) == 8
            assert len(triple) == 12, "possibly containing incomplete lines"
            records.append((struct.unpack("<q", item)[0], struct.unpack("<iii", triple)))
    return records


@pytest.mark.parametrize("duplicates", [False, True])
def test_xllm_reads_every_item_with_its_tokens(tmp_path: Path, duplicates: bool) -> None:
    bundle = numbered_bundle(300, (9, 8, 7), duplicates=duplicates)
    tokens = SidTokens(bundle.space, 151_669)
    export_map(bundle, tmp_path / "vocab.bin", "xllm", tokens=tokens)
    records = read_xllm(tmp_path / "vocab.bin")
    expected = expected_tokens(bundle, tokens)
    assert len(records) == 300
    assert {str(item): triple for item, triple in records} == expected
    assert [triple for _, triple in records] == sorted(expected.values())  # SID order


@pytest.mark.parametrize("system", ["xllm", "sid-gr", "flashrec"])
def test_tokens_of_other_levels_are_refused(system: System, tmp_path: Path) -> None:
    bundle = numbered_bundle(5, (8, 8, 8))
    for sizes in ((4, 4, 4), (8, 8, 8, 8)):
        tokens = SidTokens(numbered_bundle(5, sizes).space, 0)
        with pytest.raises(CompatibilityError, match="and the bundle has 8x8x8"):
            export_map(bundle, tmp_path / "x", system, tokens=tokens)
    assert list(tmp_path.iterdir()) == []


def test_xllm_needs_three_levels_and_ids_that_are_numbers(tmp_path: Path) -> None:
    four = numbered_bundle(5, (4, 4, 4, 4))
    with pytest.raises(UsageError, match="of 3 levels, and these have 4"):
        export_map(four, tmp_path / "x.bin", "xllm", tokens=SidTokens(four.space, 0))
    named = small_bundle()
    with pytest.raises(DataError, match="ids that are numbers, not 'i"):
        export_map(named, tmp_path / "x.bin", "xllm", tokens=SidTokens(named.space, 0))
    assert list(tmp_path.iterdir()) == []


def test_items_without_a_token_are_left_out_and_counted(tmp_path: Path) -> None:
    bundle = numbered_bundle(200, (9, 8, 12))
    tokens = sorted_tokens(bundle, 1000, unused=((1, 3), (2, 0)))
    codes = bundle.items.codes
    lost = int(((codes[:, 1] == 3) | (codes[:, 2] == 0)).sum())
    with pytest.warns(SidtoolWarning, match=f"^{lost} of 200 items are left out"):
        export_map(bundle, tmp_path / "vocab.bin", "xllm", tokens=tokens)
    with pytest.warns(SidtoolWarning, match=f"^{lost} of 200 items are left out"):
        assert plan_export(bundle, "xllm", tokens=tokens) == 200 - lost
    expected = {item: ids for item, ids in expected_tokens(bundle, tokens).items() if min(ids) >= 0}
    records = read_xllm(tmp_path / "vocab.bin")
    assert 0 < len(records) == 200 - lost
    assert {str(item): triple for item, triple in records} == expected
    table = TokenTable(tuple((NO_TOKEN,) * size for size in (9, 8, 12)))
    nothing = SidTokens(replace(bundle.space, begin=None, end=None), 0, table)
    with pytest.raises(DataError, match="no tokens for the SIDs of all 200 items"):
        export_map(bundle, tmp_path / "none.bin", "xllm", tokens=nothing)


class VllmGrCatalog:
    """As vllm-gr's Catalog reads a file: a trie of the token ids of each list of tokens."""

    def __init__(self, path: Path, added_tokens: dict[str, int]) -> None:
        self.trie: dict[int, Any] = {}
        for tokens in json.loads(path.read_text(encoding="utf-8")):
            node = self.trie
            for token in tokens:
                node = node.setdefault(added_tokens[token], {})

    def paths(self, node: dict[int, Any] | None = None) -> list[tuple[int, ...]]:
        """Every path from the root to a leaf."""
        node = self.trie if node is None else node
        if not node:
            return [()]
        return [(token, *suffix) for token, child in node.items() for suffix in self.paths(child)]


@pytest.mark.parametrize("begin_end_tokens", [True, False])
@pytest.mark.parametrize("duplicates", [False, True])
def test_vllm_gr_generates_the_sid_of_every_item(
    tmp_path: Path, duplicates: bool, begin_end_tokens: bool
) -> None:
    bundle = numbered_bundle(200, (9, 8, 7), duplicates=duplicates)
    if not begin_end_tokens:
        space = replace(bundle.space, begin=None, end=None)
        bundle = Bundle.of(replace(bundle.items, space=space), None, "allow", name="bare")
    start = 500
    added = {text: start + number for number, text in enumerate(bundle.space.tokens)}
    export_map(bundle, tmp_path / "catalog.json", "vllm-gr")
    paths = VllmGrCatalog(tmp_path / "catalog.json", added).paths()
    expected = set(expected_tokens(bundle, SidTokens(bundle.space, start)).values())
    if begin_end_tokens:
        ends = (added["<|sid_begin|>"], added["<|sid_end|>"])
        expected = {(ends[0], *ids, ends[1]) for ids in expected}
    assert set(paths) == expected
    assert len(json.loads((tmp_path / "catalog.json").read_text())) == len(expected)


def read_sid_gr(path: Path, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """As sid-gr-inference's SemanticItemCatalog reads a file: item -> path, both unique."""
    paths: dict[str, tuple[int, ...]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        ids = tuple(record["token_ids"])
        assert ids
        assert all(type(token) is int and 0 <= token < vocab_size for token in ids)
        assert record["item_id"] not in paths
        assert ids not in paths.values()
        paths[record["item_id"]] = ids
    return paths


def test_sid_gr_reads_every_item_with_its_tokens(tmp_path: Path) -> None:
    bundle = numbered_bundle(200, (9, 8, 7))
    tokens = SidTokens(bundle.space, 151_669)
    export_map(bundle, tmp_path / "catalog.jsonl", "sid-gr", tokens=tokens)
    read = read_sid_gr(tmp_path / "catalog.jsonl", tokens.stop)
    assert read == expected_tokens(bundle, tokens)
    colliding = numbered_bundle(200, (9, 8, 7), duplicates=True)
    with pytest.raises(UsageError, match="one item for each SID, and"):
        export_map(colliding, tmp_path / "no.jsonl", "sid-gr", tokens=SidTokens(colliding.space, 0))
    assert not (tmp_path / "no.jsonl").exists()


def test_flashrec_refuses_ids_that_are_no_block() -> None:
    bundle = small_bundle(sizes=(4, 5, 12))
    with pytest.raises(CompatibilityError, match="ids follow each other level by level"):
        sid_option(sorted_tokens(bundle, 7, unused=()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "suffix"),
    [("xllm", "bin"), ("flashrec", "json"), ("vllm-gr", "json"), ("sid-gr", "jsonl")],
)
def test_the_memory_of_an_export_does_not_grow_with_the_catalog(
    tmp_path: Path, system: System, suffix: str
) -> None:
    peaks = []
    for items in (40_000, 160_000):
        bundle = numbered_bundle(items)
        tokens = SidTokens(bundle.space, 100) if FORMATS[system].tokens == "must" else None
        assert len(bundle.active) == len(bundle.items.ids) == items
        tracemalloc.start()
        try:
            export_map(bundle, tmp_path / f"{items}.{suffix}", system, tokens=tokens)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # 120,000 more items; rows that are written are counted by 8-byte numbers and flags
    assert peaks[1] - peaks[0] < 32 * 120_000
    assert peaks[1] < 12 << 20
