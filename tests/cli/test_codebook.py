"""The commands build-codebook, inspect, verify, encode and decode."""

import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, Road, build_command, done, refused, run, tree, write_lines


def test_the_report_is_printed_and_the_next_command_named(road: Road) -> None:
    said = road.said["build-codebook"]
    assert said.last == f"next: sidtool extend-model MODEL {road.bundle} -o MODEL+sid"
    for word in (
        "perplexity",
        "residual variance",
        "neighbors",
        "Jaccard@20",
        "after",
        "items reassigned",
    ):
        assert word in said.out


def test_json_is_one_object_and_the_same_command_gives_the_same_bundle(
    road: Road, tmp_path: Path
) -> None:
    ran = done(*build_command(road, tmp_path / "again.zarr", "--json"))
    opened = Bundle.open(road.bundle)
    assert ran.json["digest"] == opened.identity.digest
    reports = [
        {**report, "seconds": None} for report in (ran.json["report"], opened.manifest.report)
    ]
    assert reports[0] == reports[1]
    assert all(seconds > 0 for seconds in ran.json["report"]["seconds"].values())
    assert [level["size"] for level in ran.json["report"]["levels"]] == [4, 4, 8]
    assert ran.json["bundle"] == str(tmp_path / "again.zarr")
    assert not (tmp_path / "again.zarr.partial").exists()


def test_a_zip_is_the_same_bundle(road: Road) -> None:
    assert Bundle.open(road.zipped).identity == Bundle.open(road.bundle).identity
    for command in (
        ("inspect",),
        ("decode", "<s_a_1><s_b_1><s_c_1>"),
        ("encode", "--embeddings", road.vectors),
    ):
        name, *rest = command
        outputs = []
        for bundle in (road.bundle, road.zipped):
            value = done(name, bundle, *rest, "--json").out
            outputs.append(None if name == "inspect" else value)
        assert outputs[0] == outputs[1]


def test_a_dry_run_writes_nothing(road: Road, tmp_path: Path) -> None:
    ran = done(*build_command(road, tmp_path / "new.zarr", "--dry-run"))
    assert (ran.out, list(tmp_path.iterdir())) == ("", [])
    assert f"4x4x8 for {N_ITEMS} items" in ran.err
    plan = done(*build_command(road, tmp_path / "new.zarr", "--dry-run", "--json")).json
    assert (plan["dry_run"], plan["items"]) == (True, N_ITEMS)
    assert plan["options"]["sizes"] == [4, 4, 8]


def test_an_existing_output_is_refused_and_replaced_by_force(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "shop.zarr"
    shutil.copytree(road.other, out)
    before = tree(out)
    assert f"{out} exists already\nhint: --force replaces it" in refused(
        2, *build_command(road, out)
    )
    assert tree(tmp_path) == {f"shop.zarr/{name}": content for name, content in before.items()}
    done(*build_command(road, out, "--force"))
    assert Bundle.open(out).identity == Bundle.open(road.bundle).identity
    assert [path.name for path in tmp_path.iterdir()] == ["shop.zarr"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (['{"item_id": "a", "title": "A"}', '{"item_id": "a", "title": "B"}'], "'a'"),
        (['{"item_id": "a", "title"'], "items.jsonl"),
        ([], "items.jsonl"),
    ],
)
def test_a_bad_catalog_is_exit_1(
    road: Road, tmp_path: Path, content: list[str], message: str
) -> None:
    items = write_lines(tmp_path / "items.jsonl", content)
    command = ("build-codebook", items, "-o", tmp_path / "x.zarr", "--embeddings", road.vectors)
    assert message in refused(1, *command)


def test_vectors_that_are_not_finite_are_exit_1(road: Road, tmp_path: Path) -> None:
    vectors = np.load(road.vectors)
    vectors[3, 1] = np.nan
    np.save(tmp_path / "v.npy", vectors)
    shutil.copy(road.vectors.with_suffix(".ids.txt"), tmp_path / "v.ids.txt")
    assert "not finite" in refused(
        1, *build_command(road, tmp_path / "x.zarr", "--embeddings", tmp_path / "v.npy")
    )


# inspect


def test_inspect_shows_the_manifest(road: Road) -> None:
    shown = done("inspect", road.bundle).out
    for word in (
        "shop 1.0",
        "4x4x8",
        "reassign",
        "rq-kmeans",
        Bundle.open(road.bundle).identity.digest,
        "perplexity",
    ):
        assert word in shown
    manifest = done("inspect", road.bundle, "--json").json
    assert manifest["items"] == N_ITEMS
    assert manifest == Bundle.open(road.bundle).manifest.to_json()


def test_inspect_compares_prefixes_with_events_labels_and_an_earlier_bundle(
    road: Road, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.txt"
    gone.write_text("b001\n")
    done("add-items", road.bundle, "-o", tmp_path / "newer.zarr", "--remove", gone)
    labels = ("--items", road.items, "--field", "description")
    command = ("inspect", road.bundle, "--split", road.split, *labels)
    command += ("--against", tmp_path / "newer.zarr")
    manifest = done("inspect", road.bundle, "--json").json
    shown = done(*command, "--json").json
    assert shown["same_prefix"] == [1, 1, 1]
    assert shown["drift"] == [0, 0, 0]
    compared = done("compare", road.bundle, *labels, "--interactions", road.split, "--json").json
    assert {"bundle": str(road.bundle), **shown["figures"]} == compared["bundles"][0]
    assert {name: shown[name] for name in manifest} == manifest
    first = shown["figures"]["levels"][0]
    # users go from kind to kind, and so from code to code
    assert first["alignment_lift"] == 0 < first["alignment_by_chance"]
    text = done(*command).out
    for word in ("lift", "head", "tail", "purity", "same prefix", "drift"):
        assert word in text
    assert "lift" not in done("inspect", road.bundle, *labels).out
    # the bundle of a model, too
    assert "lift" in done("inspect", road.tuned, "--split", road.split).out


def test_inspect_refuses_figures_that_it_would_not_show(road: Road) -> None:
    command = ("inspect", road.bundle)
    assert "belong together" in refused(2, *command, "--field", "title")
    assert "belong together" in refused(2, *command, "--items", road.items)
    prefix = ("--prefix", "<s_a_1>", "--split", road.split)
    assert "--prefix shows items" in refused(2, *command, *prefix)


def test_inspect_lists_what_the_items_of_a_code_have_in_common(road: Road) -> None:
    bundle = Bundle.open(road.bundle)
    counted = 0
    for code in range(4):
        group = done(
            "inspect", road.bundle, "--prefix", f"<s_a_{code}>", "--examples", 3, "--json"
        ).json
        row_ids = np.flatnonzero(bundle.items.codes[:, 0] == code)
        assert group["items"] == len(row_ids)
        assert len(group["examples"]) == min(3, len(row_ids))
        titles = [bundle.items.title(int(row)) for row in row_ids]
        for term in group["terms"]:
            assert term["share"] == pytest.approx(
                sum(term["word"] in title.split() for title in titles) / len(titles)
            )
        counted += group["items"]
    assert counted == N_ITEMS
    fewer_than_none = run("inspect", road.bundle, "--prefix", "<s_a_1>", "--examples", -3)
    assert (fewer_than_none.code, fewer_than_none.out) == (2, "")
    assert "greater than or equal to 0" in fewer_than_none.err
    table = done("inspect", road.bundle, "--prefix", "<s_a_1>").out
    assert "in common:" in table
    assert "is not a semantic ID of 4x4x8" in refused(
        2, "inspect", road.bundle, "--prefix", "<s_q_1>"
    )


# verify


def test_verify_accepts_an_intact_bundle(road: Road) -> None:
    for bundle in (road.bundle, road.zipped):
        assert done("verify", bundle, "--json").json == {"ok": True, "broken": []}
        assert Bundle.open(bundle).identity.digest in done("verify", bundle).out


def test_one_flipped_byte_in_any_file_is_exit_3_and_named(road: Road, tmp_path: Path) -> None:
    bundle, draw = tmp_path / "shop.zarr", Random(0)
    shutil.copytree(road.bundle, bundle)
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        if not whole:
            continue
        broken = bytearray(whole)
        broken[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        name = path.relative_to(bundle).as_posix()
        ran = run("verify", bundle)
        assert ran.code == 3, name
        assert name in ran.err, ran.err
        message = run("verify", bundle, "--json")
        assert (
            (message.code, message.json["ok"]) == (3, False)
            if name != "zarr.json"
            else message.code == 3
        )
        path.write_bytes(whole)
    assert done("verify", bundle).code == 0


def test_a_flipped_byte_in_a_zip_is_exit_3(road: Road, tmp_path: Path) -> None:
    whole, path = road.zipped.read_bytes(), tmp_path / "shop.zarr.zip"
    at = whole.index(b"PK\x03\x04") + 200
    for place in (at, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        ran = run("verify", path)
        assert ran.code == 3, (place, ran.err)
        assert "Traceback" not in ran.err


# encode and decode


def test_decode_returns_the_items_of_every_sid(road: Road) -> None:
    items = Bundle.open(road.bundle).items
    space = Bundle.open(road.bundle).space
    sids = [space.spell(row) for row in items.codes]
    result = done("decode", road.bundle, " then ".join(sids), "--strict", "--json").lines
    assert [piece["items"] for piece in result] == [[item] for item in list(items.ids)]
    assert {piece["status"] for piece in result} == {"item"}
    lines = done("decode", road.bundle, text="\n".join(sids) + "\n").out.splitlines()
    expected = [
        f"{sid}\titem\t{items.ids[row]}\t{items.title(row)}" for row, sid in enumerate(sids)
    ]
    assert lines == expected


def test_decode_reports_unknown_and_malformed_sids(road: Road) -> None:
    bundle = Bundle.open(road.bundle)
    taken = {tuple(row) for row in bundle.items.codes.tolist()}
    free = next(c for c in np.ndindex(4, 4, 8) if c not in taken)
    unknown, good = bundle.space.spell(np.array(free)), bundle.space.spell(bundle.items.codes[0])
    text = f"{good} {unknown} <s_a_1> <s_a_9><s_b_0><s_c_0>"
    ran = done("decode", road.bundle, text, "--json")
    assert [piece["status"] for piece in ran.lines[:3]] == ["item", "unknown", "malformed"]
    assert all(piece["status"] == "malformed" for piece in ran.lines[3:])
    padded = good.replace("<s_a_", "<s_a_0")  # no token of the model's
    assert [piece["status"] for piece in done("decode", road.bundle, padded, "--json").lines] == [
        "malformed"
    ]
    for bad in (unknown, "<s_a_1>", "nothing here"):
        done("decode", road.bundle, f"{bad}")
        strict = run("decode", road.bundle, bad, "--strict")
        assert strict.code == 3
        assert "error: 1 SID" in strict.err
    for quiet in ((), ("-q",)):
        ran = run("decode", road.bundle, "nothing here", *quiet)
        assert "warning: no semantic ID in 'nothing here'" in ran.err


def test_encode_gives_the_nearest_code_of_each_vector(road: Road) -> None:
    rows = done("encode", road.bundle, "--embeddings", road.vectors, "--json").lines
    bundle = Bundle.open(road.bundle)
    codes = bundle.encode(np.load(road.vectors))
    assert [row["codes"] for row in rows] == codes.tolist()
    ids = road.vectors.with_suffix(".ids.txt").read_text().split()
    at = {
        tuple(row): item
        for row, item in zip(bundle.items.codes.tolist(), list(bundle.items.ids), strict=True)
    }
    assert [row["items"] for row in rows] == [
        [at[tuple(code)]] if tuple(code) in at else [] for code in codes.tolist()
    ]
    unmoved = sum(row["items"] == [item] for row, item in zip(rows, ids, strict=True))
    assert unmoved == N_ITEMS - bundle.manifest.report["reassigned"]


def test_encode_lists_the_items_that_share_a_prefix(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "appended.zarr"
    done(*build_command(road, out, "--collisions", "append"))
    bundle = Bundle.open(out)
    rows = done("encode", out, "--embeddings", road.vectors, "--json").lines
    ids = road.vectors.with_suffix(".ids.txt").read_text().split()
    assert all(item in row["items"] for row, item in zip(rows, ids, strict=True))
    for row in rows:
        assert {bundle.sid(item).startswith(row["sid"]) for item in row["items"]} == {True}
    assert max(len(row["items"]) for row in rows) > 1
    for more in (("a text",), ("--encoder", "nowhere")):
        assert "--embeddings replace texts" in refused(
            2, "encode", out, *more, "--embeddings", road.vectors
        )


def test_encode_of_text_needs_the_encoder_of_the_recipe(
    road: Road, encoder: Path, tmp_path: Path
) -> None:
    assert "hint: give --embeddings" in refused(3, "encode", road.bundle, "a lamp")
    moved, out = tmp_path / "moved", tmp_path / "text.zarr"
    shutil.copytree(encoder, moved)
    done("build-codebook", road.items, "-o", out, "--levels", "4x4x8", "--encoder", moved)
    bundle = Bundle.open(out)
    titles = [bundle.items.title(row) for row in range(N_ITEMS)]
    here = done("encode", out, *titles, "--json").lines
    assert [row["text"] for row in here] == titles
    hits = sum(row["items"] == [bundle.items.ids[at]] for at, row in enumerate(here))
    assert (
        hits >= N_ITEMS - bundle.manifest.report["reassigned"] - 1
    )  # one may lie on the border of two codes
    shutil.rmtree(moved)
    assert "moved" in refused(1, "encode", out, "a lamp")
    assert (
        done(
            "encode", out, "--encoder", encoder, "--json", text="".join(f"{t}\n" for t in titles)
        ).lines
        == here
    )


def test_a_lexical_encoder_is_stored_and_encodes_later(road: Road, tmp_path: Path) -> None:
    out, grown, new = tmp_path / "text.zarr", tmp_path / "grown.zarr", tmp_path / "new.jsonl"
    done("build-codebook", road.items, "-o", out, "--levels", "4x4x8", "--encoder", "lexical")
    assert done("verify", out).code == 0
    bundle = Bundle.open(out)
    titles = [bundle.items.title(row) for row in range(N_ITEMS)]
    rows = done("encode", out, *titles, "--json").lines
    hits = sum(row["items"] == [bundle.items.ids[at]] for at, row in enumerate(rows))
    assert hits >= N_ITEMS - bundle.manifest.report["reassigned"] - 1
    new.write_text('{"item_id": "new", "title": "red lamp 99"}\n')
    done("add-items", out, new, "-o", grown)
    assert done("verify", grown).code == 0
    assert done("encode", grown, *titles, "--json").lines == rows
    memory = ("build-memory", road.split, grown, "--items", road.items, "-o", tmp_path / "m.zarr")
    assert "1 items of the bundle are not in the catalog" in refused(1, *memory)
    done(*(each if each is not grown else out for each in memory))
    moved = refused(3, "encode", out, "a lamp", "--encoder", road.items)
    assert "was built with the encoder lexical, not with" in moved
    assert "lexical has no pooling" in refused(
        2,
        "build-codebook",
        road.items,
        "-o",
        tmp_path / "b.zarr",
        "--encoder",
        "lexical",
        "--pooling",
        "cls",
    )


def test_embed_names_what_fits_a_lexical_encoder(road: Road, tmp_path: Path) -> None:
    error = refused(2, "embed", road.items, "-o", tmp_path / "vectors", "--encoder", "lexical")
    assert "hint: sidtool build-codebook ITEMS --encoder lexical" in error
