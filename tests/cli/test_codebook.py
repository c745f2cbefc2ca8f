import io
import json
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, Road, build_words, done, refused, retire, run


def test_the_report_is_printed_and_the_next_command_named(road: Road) -> None:
    said = road.said["build-codebook"]
    assert said.last == f"next: sidtool extend-model MODEL {road.bundle} -o MODEL+sid"
    for words in ("perplexity", "residual variance", "Jaccard@20", "items reassigned"):
        assert words in said.out


def test_json_is_one_object_and_the_same_command_gives_the_same_bundle(
    road: Road, tmp_path: Path
) -> None:
    ran = done(*build_words(road, tmp_path / "again.zarr", "--json"))
    opened = Bundle.open(road.bundle)
    assert ran.json["digest"] == opened.identity.digest
    seconds = ran.json["report"]["seconds"]
    assert ran.json["report"] == {**opened.manifest.report, "seconds": seconds}
    assert all(second > 0 for second in seconds.values())
    assert [level["size"] for level in ran.json["report"]["levels"]] == [4, 4, 8]
    assert ran.json["bundle"] == str(tmp_path / "again.zarr")
    assert not (tmp_path / "again.zarr.partial").exists()


def test_inspect_shows_the_manifest(road: Road) -> None:
    shown = done("inspect", road.bundle).out
    digest = Bundle.open(road.bundle).identity.digest
    for words in ("shop 1.0", "4x4x8", "reassign", "rq-kmeans", digest, "perplexity"):
        assert words in shown
    manifest = done("inspect", road.bundle, "--json").json
    assert manifest["items"] == N_ITEMS
    assert manifest == {**Bundle.open(road.bundle).manifest.to_json(), "retired_items": 0}


def test_inspect_counts_retired_items_apart(road: Road, tmp_path: Path) -> None:
    newer = retire(road.bundle, tmp_path / "newer.zarr", "b001", "b002")
    done("rebind", road.tuned, newer, "-o", tmp_path / "model")
    for artifact in (newer, tmp_path / "model"):
        shown = done("inspect", artifact).out
        assert re.search(rf"^items +{N_ITEMS - 2} *$", shown, re.MULTILINE), shown
        assert re.search(r"^retired items +2 *$", shown, re.MULTILINE), shown
    assert done("inspect", newer, "--json").json["retired_items"] == 2


def test_inspect_compares_prefixes_with_events_labels_and_an_earlier_bundle(
    road: Road, tmp_path: Path
) -> None:
    newer = retire(road.bundle, tmp_path / "newer.zarr", "b001")
    labels = ("--items", road.items, "--field", "description")
    command = ("inspect", road.bundle, "--split", road.split, *labels, "--against", newer)
    manifest = done("inspect", road.bundle, "--json").json
    shown = done(*command, "--json").json
    assert (shown["same_prefix"], shown["drift"]) == ([1, 1, 1], [0, 0, 0])
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
    # what cannot be measured is shown as such
    rows = map(json.loads, road.items.read_text().splitlines())
    unlabeled = tmp_path / "unlabeled.jsonl"
    unlabeled.write_text("".join(json.dumps({**row, "brand": ""}) + "\n" for row in rows))
    shown = done("inspect", road.bundle, "--items", unlabeled, "--field", "brand").out
    assert "purity: probability" in shown


def test_inspect_lists_what_the_items_of_a_code_have_in_common(road: Road) -> None:
    bundle = Bundle.open(road.bundle)
    prefix = ("inspect", road.bundle, "--prefix", "<s_a_1>")
    group = done(*prefix, "--examples", 3, "--json").json
    n_items = int((bundle.items.codes[:, 0] == 1).sum())
    assert (group["items"], len(group["examples"])) == (n_items, min(3, n_items))
    shown = done(*prefix).out
    assert all(f"{term['word']} ({term['share']:.0%}, overall" in shown for term in group["terms"])
    for artifact in (road.bundle, road.tuned):
        assert "--examples requires --prefix" in refused(2, "inspect", artifact, "--examples", 3)


def test_verify_accepts_an_intact_bundle(road: Road) -> None:
    for bundle in (road.bundle, road.zipped):
        assert done("verify", bundle, "--json").json == {"ok": True, "broken": []}
        assert Bundle.open(bundle).identity.digest in done("verify", bundle).out


def test_a_flipped_byte_is_exit_3_and_its_object_is_named(road: Road, tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr"
    shutil.copytree(road.bundle, bundle)
    path = max(bundle.rglob("c/**/*"), key=lambda path: path.is_file())
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    ran = run("verify", bundle, "--json")
    assert (ran.code, ran.json["ok"]) == (3, False)
    name = path.relative_to(bundle).as_posix()
    assert name in {broken["object"] for broken in ran.json["broken"]}
    assert f"broken: {name}" in run("verify", bundle).err


def test_decode_returns_the_items_of_every_sid(road: Road) -> None:
    items = Bundle.open(road.bundle).items
    space = Bundle.open(road.bundle).space
    sids = [space.spell(row) for row in items.codes]
    result = done("decode", road.bundle, " then ".join(sids), "--strict", "--json").lines
    assert [piece["items"] for piece in result] == [[item] for item in list(items.ids)]
    assert {piece["status"] for piece in result} == {"item"}
    lines = done("decode", road.bundle, text="\n".join(sids) + "\n").out.splitlines()
    rows = zip(sids, items.ids, map(items.title, range(N_ITEMS)), strict=True)
    assert lines == [f"{sid}\titem\t{item}\t{title}" for sid, item, title in rows]


def test_decode_reports_unknown_and_malformed_sids(road: Road) -> None:
    bundle = Bundle.open(road.bundle)
    taken = {tuple(row) for row in bundle.items.codes.tolist()}
    free = next(c for c in np.ndindex(4, 4, 8) if c not in taken)
    unknown, good = bundle.space.spell(np.array(free)), bundle.space.spell(bundle.items.codes[0])
    text = f"{good} {unknown} <s_a_1> <s_a_9><s_b_0><s_c_0>"
    ran = done("decode", road.bundle, text, "--json")
    assert [piece["status"] for piece in ran.lines[:3]] == ["item", "unknown", "malformed"]
    for bad in (unknown, "<s_a_1>", "nothing here"):
        done("decode", road.bundle, f"{bad}")
        strict = run("decode", road.bundle, bad, "--strict")
        assert strict.code == 3
        assert "error: 1 SID" in strict.err
    for quiet in ((), ("-q",)):
        ran = run("decode", road.bundle, "nothing here", *quiet)
        assert "warning: no semantic ID in 'nothing here'" in ran.err


def test_encode_needs_the_encoder_of_the_recipe(road: Road, encoder: Path, tmp_path: Path) -> None:
    assert "hint: give --embeddings" in refused(3, "encode", road.bundle, "a lamp")
    moved, out = tmp_path / "moved", tmp_path / "text.zarr"
    shutil.copytree(encoder, moved)
    done("build-codebook", road.items, "-o", out, "--levels", "4x4x8", "--encoder", moved)
    bundle = Bundle.open(out)
    titles = [bundle.items.title(row) for row in range(N_ITEMS)]
    here = done("encode", out, *titles, "--json").lines
    assert [row["text"] for row in here] == titles
    hits = sum(row["items"] == [bundle.items.ids[at]] for at, row in enumerate(here))
    # one may lie on the border of two codes
    assert hits >= N_ITEMS - bundle.manifest.report["reassigned"] - 1
    shutil.rmtree(moved)
    assert "moved" in refused(1, "encode", out, "a lamp")
    piped = "".join(f"{title}\n" for title in titles)
    assert done("encode", out, "--encoder", encoder, "--json", text=piped).lines == here


def test_a_lexical_encoder_is_stored_and_encodes_later(road: Road, tmp_path: Path) -> None:
    out, grown, new = tmp_path / "text.zarr", tmp_path / "grown.zarr", tmp_path / "new.jsonl"
    done("build-codebook", road.items, "-o", out, "--levels", "4x4x8", "--encoder", "lexical")
    assert done("verify", out).code == 0
    bundle = Bundle.open(out)
    titles = [bundle.items.title(row) for row in range(N_ITEMS)]
    rows = done("encode", out, *titles, "--json").lines
    for line_end in ("\n", "\r\n"):
        stream = io.StringIO(line_end.join(titles), newline="")
        with patch("sidtool.cli.bundles.standard_input", lambda stream=stream: stream):
            assert done("encode", out, "--json").lines == rows
    hits = sum(row["items"] == [bundle.items.ids[at]] for at, row in enumerate(rows))
    assert hits >= N_ITEMS - bundle.manifest.report["reassigned"] - 1
    new.write_text('{"item_id": "new", "title": "red lamp 99"}\n')
    done("add-items", out, new, "-o", grown)
    assert done("verify", grown).code == 0
    assert done("encode", grown, *titles, "--json").lines == rows
    memory = ("build-memory", road.split, grown, "--items", road.items, "-o", tmp_path / "m.zarr")
    assert "the catalog lacks 1 of" in refused(1, *memory)
    done(*(word if word is not grown else out for word in memory))
    moved = refused(3, "encode", out, "a lamp", "--encoder", road.items)
    assert "was built with the encoder lexical, not with" in moved


def test_embed_names_what_fits_a_lexical_encoder(road: Road, tmp_path: Path) -> None:
    error = refused(2, "embed", road.items, "-o", tmp_path / "vectors", "--encoder", "lexical")
    assert "hint: sidtool build-codebook ITEMS --encoder lexical" in error


@pytest.fixture(scope="module")
def social(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("social") / "shop.zarr"
    fusion = ("--set", "collaborative_dim=6", "--set", "collaborative_weight=0.4")
    done(*build_words(road, out, "--interactions", road.events, *fusion))
    return out


def test_inspect_describes_the_co_occurrence_source(road: Road, social: Path) -> None:
    shown = done("inspect", social).out
    assert "training events, leave-one-out, fused into" in shown
    assert "weight 0.4" in shown
    assert "fused into" not in done("inspect", road.bundle).out
    done("verify", social)
    assert Bundle.open(social).identity != Bundle.open(road.bundle).identity


def test_an_encoder_and_events_are_combined(road: Road, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.zarr"
    command = ("build-codebook", road.items, "-o", out, "--levels", "4x4x8", "--encoder", encoder)
    done(*command, "--no-balanced", "--interactions", road.events, "--set", "collaborative_dim=4")
    assert len(done("encode", out, "a red lamp", "--json").lines) == 1
    assert Bundle.open(out).codebook.width == 20


def test_files_of_vectors_have_weights(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "two.zarr"
    done(*build_words(road, out, "--embeddings", f"{road.vectors}=3"))
    sources = Bundle.open(out).codebook.params.fusion.sources
    assert [source.weight for source in sources] == [0.25, 0.75]
    equals = tmp_path / "a=b.npy"
    for path in (road.vectors, road.vectors.with_suffix(".ids.txt")):
        shutil.copy(path, tmp_path / path.name.replace("vectors", "a=b"))
    words = ("--embeddings", equals, "--levels", "4x4x8", "--normalize")
    done("build-codebook", road.items, "-o", tmp_path / "one.zarr", *words)
    assert Bundle.open(tmp_path / "one.zarr").codebook.params.normalize


@pytest.mark.parametrize("flags", [("--balanced",), ("--no-balanced",), ("--normalize",)])
def test_a_flag_and_a_setting_of_one_option_agree(
    road: Road, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    name = flags[0].removeprefix("--").removeprefix("no-")
    values = ("true", "false") if "--no-" in flags[0] else ("false", "true")
    words = build_words(road, tmp_path / "x.zarr", "--dry-run", *flags)
    assert f"--set {name} contradicts {flags[0]}" in refused(
        2, *words, "--set", f"{name}={values[0]}"
    )
    done(*words, "--set", f"{name}={values[1]}")
