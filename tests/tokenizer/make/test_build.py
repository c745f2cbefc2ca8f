import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data import TextNames, read_items
from sidtool.tokenizer.bundle import ItemMap
from sidtool.tokenizer.make import build
from sidtool.tokenizer.make.add import add_items
from sidtool.tokenizer.make.build import build_codebook
from sidtool.tokenizer.make.encode import item_vectors
from sidtool.tokenizer.sid import SidSpace
from tests.data.tables.files import write_table
from tests.tokenizer.quantize.material import mixture

N, DIM = 60, 6
IDS = [f"{'bé日🎈'[row % 4]}{row:02d}" for row in range(N)]
TITLES = [f"film  {row} of 日本 é"[: row % 14] for row in range(N)]


def stored(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The objects of a bundle, and the root document without times."""
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    root = json.loads(files.pop("zarr.json").read_bytes())
    del root["attributes"]["sidtool_sha256"]
    del root["attributes"]["sidtool"]["created"]
    root["attributes"]["sidtool"]["report"]["seconds"] = {}
    return {name: file.read_bytes() for name, file in files.items()}, root


@pytest.mark.parametrize(
    ("catalog", "titles", "template", "collisions", "dims"),
    [
        ("items.parquet", TITLES, "{title} ({item_id})", "reassign", [DIM]),
        ("items.csv", IDS[::-1], None, "allow", [DIM]),
        ("items.jsonl", None, "{item_id}", "append", [DIM]),
        ("items.tsv", [""] * N, "{item_id}", "reassign", [DIM, 3]),
    ],
)
def test_a_memory_budget_changes_no_byte(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    catalog: str,
    titles: list[str] | None,
    template: str | None,
    collisions: str,
    dims: list[int],
) -> None:
    table = {"item_id": IDS, **({} if titles is None else {"title": titles})}
    items = write_table(tmp_path / catalog, table)
    sources = []
    order = np.random.default_rng(2).permutation(N)  # of the vectors, two of which are of no item
    for number, dim in enumerate(dims):
        vectors = mixture(number, N, dim)
        vectors[: N // 2] = np.round(vectors[: N // 2])  # some are equal
        path = tmp_path / f"vectors-{number}.npy"
        np.save(path, np.concatenate([vectors[order], vectors[:2]]))
        listed = [*(IDS[row] for row in order), "x", "y"]
        path.with_suffix(".ids.txt").write_text("\n".join(listed) + "\n")
        sources.append(path)

    def built(folder: str, **budget: int) -> tuple[dict[str, bytes], dict[str, Any]]:
        out = tmp_path / folder / "shop.zarr"
        options = {"embeddings": sources, "levels": "4x4x8", "collisions": collisions}
        names = TextNames(text_template=template)
        bundle = build_codebook(items, out, catalog=names, **options, **budget)
        assert (bundle.items.titles is not None) == any(titles or ())
        assert [path.name for path in out.parent.iterdir()] == ["shop.zarr"]
        return stored(out)

    in_memory = built("one")
    for module, name in [
        ("data.coded", "BLOCK"),
        ("data.vector_files", "LOOKED_UP"),
        ("tokenizer.bundle.item_map", "CHUNK"),
    ]:
        monkeypatch.setattr(f"sidtool.{module}.{name}", 7)
    assert built("other", memory_limit=1 << 22) == in_memory


def test_texts_within_a_memory_budget_take_none(tmp_path: Path) -> None:
    table = {"item_id": [f"i{row:03d}" for row in range(200)], "title": ["film " * 5000] * 200}
    path = write_table(tmp_path / "items.parquet", table)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        items = read_items(path, packed=True, folder=tmp_path)
        codes = np.arange(200, dtype=np.uint16)[::-1, None]
        ordered = ItemMap.of(SidSpace((200,)), items.ids, codes, items.titles, folder=tmp_path)
        held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    finally:
        tracemalloc.stop()
    assert ordered.title(0) == items.titles[199] == ("film " * 5000).strip()
    assert held < 1 << 18  # of two copies of 5 MB
    assert list(tmp_path.iterdir()) == [path]


def test_the_columns_of_a_catalog_are_keywords(tmp_path: Path) -> None:
    vectors = mixture(0, N + 1, DIM)
    items = write_table(tmp_path / "items.csv", {"Nr": IDS, "Wort": TITLES})
    names = {"id_column": "Nr", "title_column": "Wort", "text_template": "{Nr}: {Wort}"}
    out, levels = tmp_path / "shop.zarr", {"levels": "4x4x8"}
    bundle = build_codebook(items, out, embeddings=vectors[:N], **levels, **names)
    assert bundle.title(IDS[13]) == "film 13 of 日"
    assert bundle.manifest.made_by.text_template == "{Nr}: {Wort}"
    with pytest.raises(UsageError, match="there is no option columns"):
        build_codebook(items, tmp_path / "x.zarr", embeddings=vectors[:N], columns="Nr")
    later = write_table(tmp_path / "new.csv", {"Code": ["new"], "Wort": ["film"], "Nr": ["7"]})
    assert add_items(bundle, later, vectors[N:], id_column="Code").title("new") == "film"
    with pytest.raises(UsageError, match="there is no option text_template"):
        add_items(bundle, later, vectors[N:], text_template="{Code}")
    with pytest.raises(UsageError, match="text_template is not for a bundle"):
        add_items(bundle, later, vectors[N:], catalog=TextNames(text_template="{Code}"))
    with pytest.raises(UsageError, match="there is no option removes"):
        add_items(bundle, removes=[IDS[0]])
    read = read_items(items, **names)
    with pytest.raises(UsageError, match="id_column is for a catalog that is given by its path"):
        add_items(bundle, read, id_column="Nr")
    texts = build_codebook(read, tmp_path / "texts.zarr", encoder="lexical", **levels)
    from_file = item_vectors(texts, items, id_column="Nr", title_column="Wort")
    assert from_file.shape[0] == N
    np.testing.assert_array_equal(item_vectors(texts, read), from_file)
    with pytest.raises(UsageError, match="there is no option ids"):
        item_vectors(texts, items, ids="Nr")
    either: tuple[dict[str, Any], ...] = ({}, {"items": items, "embeddings": ["x.npy"]})
    for inputs in either:
        with pytest.raises(UsageError, match="give either items or embeddings"):
            item_vectors(texts, **inputs)
    with pytest.raises(UsageError, match="text_template is for a catalog"):
        build_codebook(read, tmp_path / "x.zarr", embeddings=vectors[:N], text_template="{Nr}")


def test_events_that_match_no_item_are_refused_before_texts_are_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = write_table(tmp_path / "items.csv", {"item_id": IDS, "title": IDS})
    events = {
        "user_id": [f"u{row // 5}" for row in range(N)],
        "item_id": [f"other {item}" for item in IDS],
        "timestamp": [str(row) for row in range(N)],
    }
    write_table(tmp_path / "events.csv", events)
    monkeypatch.setattr(build, "load_encoder", None)  # which cannot be called
    (tmp_path / "encoder").mkdir()
    with pytest.raises(DataError, match="no two of the 60 items co-occur"):
        build_codebook(
            items,
            tmp_path / "new.zarr",
            encoder=str(tmp_path / "encoder"),
            interactions=tmp_path / "events.csv",
            levels="8x8x8",
        )
    assert not (tmp_path / "new.zarr").exists()
