import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, SidtoolError, UsageError
from sidtool.data.items import Items, make_items
from sidtool.integrations.formats.convert import export_map, import_map
from sidtool.integrations.formats.inference_engines import infers_layout, sid_option
from sidtool.integrations.formats.maps import Export
from sidtool.integrations.formats.minionerec import read_minionerec, write_minionerec
from sidtool.integrations.formats.openonerec import read_openonerec
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import LETTERS, SidSpace
from tests.bundles import small_bundle
from tests.shared_data import DATA

INDEX = {"0": ["<a_5>", "<b_0>"], "1": ["<a_2>", "<b_3>"], "10": ["<a_2>", "<b_1>"]}
INFO = "<a_5><b_0>\tA lamp\t0\n<a_2><b_3>\tSoap, 3 pieces\t1\n<a_2><b_1>\t\t10\n"


def written(folder: Path, index: object = INDEX, info: str = INFO) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "info.txt").write_bytes(info.encode())
    return folder / "index.json", folder / "info.txt"


def catalog(*ids: str) -> Items:
    titles = tuple(f"title of {item}" for item in ids)
    return make_items(ids, titles, titles, fields={}, template="{title}")


def retire(bundle: Bundle, *ids: str) -> Bundle:
    retired = np.zeros(len(bundle.items), dtype=np.bool_)
    retired[bundle.items.rows(ids)] = True
    items = replace(bundle.items, retired=retired)
    return Bundle.of(items, bundle.codebook, "reassign", name="retired")


def sids(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    items = bundle.items
    return {items.ids[row]: tuple(items.codes[row].tolist()) for row in bundle.active.tolist()}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
def test_the_industrial_files_are_reproduced(tmp_path: Path) -> None:
    folder = DATA / "minionerec-industrial"
    bundle = read_minionerec(folder / "index.json", name="industrial", info=folder / "info.txt")
    bundle.save(tmp_path / "x.zarr")
    assert Bundle.broken(tmp_path / "x.zarr") == []
    export_map(Bundle.open(tmp_path / "x.zarr"), tmp_path / "out", "minionerec")
    for name in ("index.json", "info.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert bundle.manifest.collisions.policy == "allow"  # 3,686 items on 3,670 SIDs


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(0, 300)] * n), min_size=1, max_size=20)
    ),
    around=st.sampled_from(
        ["<{level}_{code}>", "<s_{level}_{code}>", "[{level}{code}]", "<|{level}:{code}|>"]
    ),
)
def test_any_index_is_reproduced(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]], around: str
) -> None:
    folder = tmp_path_factory.mktemp("index")
    spelled = {
        str(item): [
            around.replace("{level}", LETTERS[n]).replace("{code}", str(code))
            for n, code in enumerate(sid)
        ]
        for item, sid in enumerate(rows)
    }
    path, _ = written(folder, spelled)
    bundle = read_minionerec(path, name="any")
    assert bundle.space.template == around
    assert not bundle.space.has_begin_end_tokens
    assert sids(bundle) == {str(item): sid for item, sid in enumerate(rows)}
    for size, codes in zip(bundle.space.sizes, zip(*rows, strict=True), strict=True):
        powers = (1 << bits for bits in range(17))
        assert size == min(power for power in powers if power > max(codes))
    policy = "reassign" if len(set(rows)) == len(rows) else "allow"
    assert bundle.manifest.collisions.policy == policy
    export_map(bundle, folder / "out", "minionerec")
    assert (folder / "out" / "index.json").read_bytes() == path.read_bytes()


def test_level_sizes_may_be_given(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    assert read_minionerec(path, name="map", sizes=(6, 256)).space.sizes == (6, 256)
    message = r"the largest codes are \[5, 3\], the level sizes are 5x256"
    with pytest.raises(UsageError, match=message):
        read_minionerec(path, name="map", sizes=(5, 256))
    with pytest.raises(UsageError, match="there are 3 level sizes, the semantic IDs have 2 levels"):
        read_minionerec(path, name="map", sizes=(8, 8, 8))


def test_keys_may_be_lines_of_a_catalog(tmp_path: Path) -> None:
    items = catalog("x", "b", "c")
    path, _ = written(tmp_path, {"0": ["<a_0>"], "2": ["<a_1>"], "1": ["<a_1>"]})
    bundle = read_minionerec(path, name="map", items=items, keys="line")
    assert sids(bundle) == {"x": (0,), "c": (1,), "b": (1,)}
    assert bundle.items.title(bundle.items.row("c")) == "title of c"
    write_minionerec(bundle, tmp_path / "out", Export(items=items, keys="line"))
    assert json.loads((tmp_path / "out" / "index.json").read_text()) == json.loads(path.read_text())
    assert list(json.loads((tmp_path / "out" / "index.json").read_text())) == ["0", "1", "2"]
    write_minionerec(bundle, tmp_path / "ids", Export(items=items))
    assert list(json.loads((tmp_path / "ids" / "index.json").read_text())) == ["x", "b", "c"]
    for call in (
        lambda: read_minionerec(path, name="map", keys="line"),
        lambda: write_minionerec(bundle, tmp_path / "no", Export(keys="line")),
    ):
        with pytest.raises(UsageError, match="keys are line numbers, but there is no catalog"):
            call()
    with pytest.raises(DataError, match="key '2' is not a line number of a catalog of 2 items"):
        read_minionerec(path, name="map", items=catalog("a", "b"), keys="line")
    with pytest.raises(DataError, match="the catalog lacks 3 of 3 items \\(first: '0'\\)"):
        read_minionerec(path, name="map", items=items)
    with pytest.raises(DataError, match="the catalog lacks 2 of 3 items \\(first: 'b'\\)"):
        write_minionerec(bundle, tmp_path / "no", Export(items=catalog("x")))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "no JSON object"),
        ("{}", "no JSON object"),
        ("{", "is not an index"),
        ('{"0": ["<a_1>"], "0": ["<a_2>"]}', "the key '0' occurs twice"),
        ('{"0": []}', "no tokens"),
        ('{"0": "<a_1>"}', "not a list of tokens"),
        ('{"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}', "not a list of 1 tokens"),
        ('{"0": ["<a_1>", "<a_2>"]}', "'<a_2>' is not a token of level 'b'"),
        ('{"0": ["<a_01>"]}', "'<a_01>' is not a token"),
        ('{"0": ["<a_1>"], "1": ["<a-1>"]}', "'<a-1>' is not a token"),
        ('{"0": ["<a_70000>"]}', "a level holds 0 to 65535"),
        ('{"0": ["<a_99999999999999999999>"]}', "is not a token of level 'a'"),
        ('{"": ["<a_1>"]}', "empty id"),
        ("[" * 100_000, "too deep"),
        ('{"0": ' + "9" * 5000 + "}", "too many digits"),
        ('{"0": ["<a_1>"], "0\\ud800": ["<a_2>"]}', "lone surrogate"),
        ('{"0": [NaN]}', "NaN is not JSON"),
        ('{"0": ["<a_1>", "' + "x" * 100_000 + '1"]}', "is not a token"),
        (json.dumps({"0": [f"<{letter}_1>" for letter in LETTERS] + ["<a_1>"]}), "token of level"),
        (json.dumps({"0": ["<a_1>"] * 10_000}), "token of level 'b'"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path: Path, index: str, message: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(index)
    with pytest.raises(SidtoolError, match=message):
        read_minionerec(path, name="map")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("<a_5><b_0>\tA lamp\n", "line 1: .* is not SID, title and key"),
        ("<a_5><b_1>\tA lamp\t0\n", "the index has <a_5><b_0>"),
        ("<a_5><b_0>\tA lamp\tx0\n", "has none of the 3 items of the index"),
        ("<a_5><b_0>\tA lamp\t0\n<a_5><b_0>\tRug\t0\n", "line 2: item '0' has the title 'Rug'"),
    ],
)
def test_an_info_file_that_contradicts_the_index_is_refused(
    tmp_path: Path, info: str, message: str
) -> None:
    path, lines = written(tmp_path, INDEX, info)
    with pytest.raises(DataError, match=message):
        read_minionerec(path, name="map", info=lines)


@pytest.mark.parametrize("encode", [lambda text: text.replace("\n", "\r\n"), "\ufeff{}".format])
def test_line_ends_and_byte_order_marks_of_windows_are_read(
    tmp_path: Path, encode: Callable[[str], str]
) -> None:
    path, info = written(tmp_path, INDEX, encode(INFO))
    path.write_bytes(encode(path.read_text()).encode())
    bundle = read_minionerec(path, name="map", info=info)
    titles = [bundle.items.title(bundle.items.row(key)) for key in INDEX]
    assert titles == ["A lamp", "Soap, 3 pieces", ""]


@pytest.mark.parametrize("key", ["007", "９", "1" * 5000, "-1", " 1", "1.0"])
def test_a_key_that_is_no_line_number_is_refused(tmp_path: Path, key: str) -> None:
    path, _ = written(tmp_path, {key: ["<a_1>"]})
    with pytest.raises(DataError, match="is not a line number of a catalog of 9 items"):
        read_minionerec(path, name="map", items=catalog(*"abcdefghi"), keys="line")


@pytest.mark.parametrize(
    ("pids", "sids", "message"),
    [
        (pa.array([1.0, 2.0]), [[1], [2]], "of type double"),
        (pa.array([True, False]), [[1], [2]], "of type bool"),
        (pa.array([b"\xff", b"a"]), [[1], [2]], "not UTF-8"),
        (pa.array([1, 2]), ["<s_a_1>junk", "<s_a_2>"], "spelled like"),
        (pa.array([1, 2]), pa.array([[2**64 - 1], [1]], pa.list_(pa.uint64())), "a level holds"),
        (pa.array([1, 2]), [[-1], [1]], "a level holds"),
        (pa.array([1, 2]), [[0] * 5000] * 2, "level"),
        (pa.array([1, 2]), [[1], None], "empty"),
        (pa.array([1, 2]), [[1], [2, 3]], "1 and 2 codes"),
        (pa.array([1, 2]), [[1], [None]], "a sid has an empty code"),
        (pa.array([1, 2]), pa.array([[], []], pa.list_(pa.int64())), "the same number, above 0"),
        (pa.array([1, 1]), [[1], [2]], "repeated, like '1'"),
        (pa.array([1, 2]), [1.5, 2.5], "not lists of codes"),
        (pa.array([1, 2]), ["<s_a_1>", "<s_b_1>"], "not a token of level 'a'"),
        (pa.array([1, 2]), ["<s_a_1>", "lamp"], "spelled like"),
        (pa.array([1, 1]), ["<s_a_1>", "<s_a_2>"], "every pid needs one row, with a sid"),
        (pa.array([1, 2]), ["<s_a_1>", "<s_a_1><s_b_1>"], "every pid needs one row, with a sid"),
        (pa.array([1, 2]), ["<a_1>", "<a_2>"], "'<a_1>', not a sid spelled like <s_a_1>"),
    ],
)
def test_a_malformed_parquet_map_is_refused(
    tmp_path: Path, pids: pa.Array, sids: object, message: str
) -> None:
    pq.write_table(pa.table({"pid": pids, "sid": sids}), tmp_path / "map.parquet")
    with pytest.raises(SidtoolError, match=message) as caught:
        read_openonerec(tmp_path / "map.parquet", name="map")
    assert "\n" not in str(caught.value)


def test_a_parquet_map_without_its_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pid": [1, 2], "code": [[1], [2]]}), tmp_path / "map.parquet")
    with pytest.raises(DataError, match="columns pid and sid"):
        read_openonerec(tmp_path / "map.parquet", name="map")


def test_titles_cannot_break_the_lines_of_info(tmp_path: Path) -> None:
    bundle = small_bundle(2)
    broken = ItemMap.of(bundle.space, ["0", "1"], bundle.items.codes, ["a\tb\nc", "d"])
    export_map(Bundle.of(broken, None, "reassign", name="x"), tmp_path / "out", "minionerec")
    lines = (tmp_path / "out" / "info.txt").read_text().splitlines()
    assert [line.split("\t")[1:] for line in lines] == [["a b c", "0"], ["d", "1"]]


@pytest.mark.parametrize("item", ["a\tb", "a\nb", "a\r"])
def test_an_id_that_breaks_the_lines_of_info_is_refused(tmp_path: Path, item: str) -> None:
    bundle = small_bundle(2)

    def with_titles(*titles: str) -> Bundle:
        items = ItemMap.of(bundle.space, [item, "c"], bundle.items.codes, titles)
        return Bundle.of(items, None, "reassign", name="x")

    with pytest.raises(DataError, match=r"the id 'a.* has a tab or a line end") as caught:
        export_map(with_titles("A", "C"), tmp_path / "out", "minionerec")
    assert not (tmp_path / "out").exists()
    assert "--keys line" in (caught.value.shell_hint or "")
    lines = Export(items=catalog(item, "c"), keys="line")
    write_minionerec(with_titles("A", "C"), tmp_path / "lines", lines)
    # an index alone may have any id
    assert len(export_map(with_titles("", ""), tmp_path / "index", "minionerec").files) == 1


def test_retired_items_are_not_written(tmp_path: Path) -> None:
    bundle = retire(small_bundle(30), "i3", "i7")
    export_map(bundle, tmp_path / "mini", "minionerec")
    export_map(bundle, tmp_path / "open.parquet", "openonerec")
    export_map(bundle, tmp_path / "flash.json", "flashrec")
    left = {f"i{n}" for n in range(30)} - {"i3", "i7"}
    assert set(json.loads((tmp_path / "mini" / "index.json").read_text())) == left
    assert set(pq.read_table(tmp_path / "open.parquet")["pid"].to_pylist()) == left
    flash = json.loads((tmp_path / "flash.json").read_text())
    assert {item["pid"] for group in flash.values() for item in group} == left


def test_openonerec_is_reproduced(tmp_path: Path) -> None:
    table = pa.table({"pid": [3, 20, 100], "sid": [[5, 0, 8191], [1, 2, 3], [1, 2, 3]]})
    pq.write_table(table, tmp_path / "map.parquet")
    bundle = read_openonerec(tmp_path / "map.parquet", name="map", items=catalog("3", "20", "100"))
    assert (bundle.space.sizes, bundle.manifest.collisions.policy) == ((8, 4, 8192), "allow")
    assert bundle.space.tokens[-2:] == ("<|sid_begin|>", "<|sid_end|>")
    assert bundle.sid("3") == "<s_a_5><s_b_0><s_c_8191>"
    assert bundle.items.title(bundle.items.row("3")) == "title of 3"
    export_map(bundle, tmp_path / "again.parquet", "openonerec")
    assert pq.read_table(tmp_path / "again.parquet").equals(table)


@pytest.mark.parametrize("name", ["maps", "map.parquet"])
def test_openonerec_may_be_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for number in (0, 1):
        rows = {"pid": [f"i{number}"], "sid": [[5, number]]}
        pq.write_table(pa.table(rows), folder / f"part-{number}.parquet")
    bundle = import_map(folder, tmp_path / "out.zarr")
    assert sids(bundle) == {"i0": (5, 0), "i1": (5, 1)}


def test_a_parquet_map_of_another_catalog_is_refused(tmp_path: Path) -> None:
    table = pa.table({"pid": [3, 20], "sid": [[5, 0], [1, 2]]})
    pq.write_table(table, tmp_path / "map.parquet")
    with pytest.raises(DataError, match=r"the catalog lacks 1 of 2 items .first: '20'.$"):
        read_openonerec(tmp_path / "map.parquet", name="map", items=catalog("3", "4"))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[5, 0], [1, 2]], pa.large_list(pa.int64())),
        pa.array([[5, 0], [1, 2]], pa.list_(pa.int32(), 2)),
        ["<|sid_begin|><s_a_5><s_b_0><|sid_end|>", "<s_a_1><s_b_2>"],
    ],
)
def test_openonerec_has_lists_of_any_type_or_spelled_sids(tmp_path: Path, column: object) -> None:
    pq.write_table(pa.table({"pid": ["x", "y"], "sid": column}), tmp_path / "map.parquet")
    assert sids(read_openonerec(tmp_path / "map.parquet", name="map")) == {"x": (5, 0), "y": (1, 2)}


@pytest.mark.parametrize("sizes", [(4, 5, 6), (3, 4), (2, 3, 4, 5)])
def test_flashrec_reads_the_same_tokens(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    bundle, start = small_bundle(10, sizes, duplicates=True), 1000
    export_map(bundle, tmp_path / "sids.json", "flashrec")
    block, spelled_sizes = sid_option(SidTokens(bundle.space, start)).split("/")
    first, last = map(int, block.split(":"))
    widths = list(map(int, spelled_sizes.split(",")))
    assert start == first
    assert last + 1 - start == len(bundle.space.tokens) == sum(widths)
    spelled = {}
    for key, items in json.loads((tmp_path / "sids.json").read_text()).items():
        # FlashRec: token = start + sum of the sizes before + code, and the last level is {begin,
        # end}
        ids = [start + sum(widths[:level]) + int(code) for level, code in enumerate(key.split(","))]
        tokens = (bundle.space.tokens[token - start] for token in ids)
        spelled["".join(tokens)] = [item["pid"] for item in items]
    expected: dict[str, list[str]] = {}
    for item in bundle.items.ids:
        expected.setdefault(bundle.sid(item) + "<|sid_end|>", []).append(item)
    assert spelled == expected


def test_flashrec_infers_three_levels_of_openonerec_only(tmp_path: Path) -> None:
    assert infers_layout(SidSpace((4, 5, 6)))
    assert not infers_layout(SidSpace((4, 5)))
    assert not infers_layout(SidSpace((4, 5, 6, 7)))
    assert not infers_layout(SidSpace((4, 5, 6), template="<{level}_{code}>"))
    with pytest.raises(UsageError, match="needs a begin and an end token"):
        export_map(small_bundle(begin_end_tokens=False), tmp_path / "sids.json", "flashrec")


def test_options_of_another_system_are_refused(tmp_path: Path) -> None:
    bundle = small_bundle()
    with pytest.raises(UsageError, match="apply to --to minionerec, not to flashrec"):
        export_map(bundle, tmp_path / "x.json", "flashrec", keys="line")
    with pytest.raises(UsageError, match="applies to --to sid-gr, flashrec, xllm, not to open"):
        export_map(bundle, tmp_path / "x", "openonerec", tokens=SidTokens(bundle.space, 0))
    with pytest.raises(UsageError, match="writes token ids, and they depend on the model"):
        export_map(bundle, tmp_path / "x.bin", "xllm")
    with pytest.raises(UsageError, match="unknown system 'tiger'"):
        export_map(bundle, tmp_path / "x", "tiger")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="keys must be one of id, line, not 'lines'"):
        export_map(bundle, tmp_path / "x", "minionerec", keys="lines")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("title", ['"title": "T"', '"tag": 5'])  # their texts are not used
def test_a_catalog_may_be_a_path(tmp_path: Path, title: str) -> None:
    bundle = small_bundle(2)
    lines = "".join(f'{{"item_id": "{item}", {title}}}\n' for item in bundle)
    (tmp_path / "items.jsonl").write_text(lines)
    items = str(tmp_path / "items.jsonl")
    export_map(bundle, tmp_path / "maps", "minionerec", items=items, keys="line")
    source, out = tmp_path / "maps" / "index.json", tmp_path / "x.zarr"
    assert import_map(source, out, items=items, keys="line").sids() == bundle.sids()
    with pytest.raises(UsageError, match="keys must be one of id, line, not 'lines'"):
        import_map(source, out, items=items, keys="lines", force=True)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="does not exist"):
        import_map(source, out, codebook=str(tmp_path / "none.npz"), force=True)


def test_a_bundle_of_retired_items_is_not_exported(tmp_path: Path) -> None:
    bundle = retire(small_bundle(2), "i0", "i1")
    with pytest.raises(UsageError, match="has no items to export: all 2 are retired"):
        export_map(bundle, tmp_path / "map.json", "flashrec")
    assert not list(tmp_path.iterdir())
