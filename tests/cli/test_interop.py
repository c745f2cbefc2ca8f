import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from sidtool.model.contract.folder import read_contract
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, Road, build_words, done, refused, tree
from tests.hostile.writing_commands import own_codebook


@pytest.fixture
def index(road: Road, tmp_path: Path) -> Path:
    done("export", road.bundle, "--to", "minionerec", "-o", tmp_path / "mini")
    return tmp_path / "mini"


def test_export_and_import_are_inverse(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.zarr"
    info = ("--info", index / "info.txt", "--levels", "4x4x8")
    ran = done("import", index / "index.json", *info, "-o", out)
    assert f"{N_ITEMS} items, 4x4x8, spelled <s_{{level}}_{{code}}>" in ran.out
    assert ran.last == f"next: sidtool extend-model MODEL {out} -o MODEL+sid --init mean"
    done("export", out, "--to", "minionerec", "-o", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(index)


def test_an_imported_map_supports_all_that_encodes_nothing(
    road: Road, index: Path, tmp_path: Path
) -> None:
    done("import", index / "index.json", "-o", tmp_path / "m.zarr")
    done("verify", tmp_path / "m.zarr")
    assert "a map without a codebook" in done("inspect", tmp_path / "m.zarr").out
    sid = done("decode", tmp_path / "m.zarr", Bundle.open(road.bundle).sid("b007"), "--json").json
    assert sid["items"] == ["b007"]
    encode = ("encode", tmp_path / "m.zarr", "--embeddings", road.vectors)
    memory = ("build-memory", road.split, tmp_path / "m.zarr", "-o", tmp_path / "memory.zarr")
    content = (*memory, "--content-weight", 0.5)
    for command in (encode, content, (*content, "--dry-run")):
        assert "without a codebook" in refused(3, *command)
    done("extend-model", road.base, tmp_path / "m.zarr", "-o", tmp_path / "m+sid", "--init", "mean")


def test_flashrec_gets_the_option_that_it_cannot_infer(road: Road, tmp_path: Path) -> None:
    ran = done("export", road.bundle, "--to", "flashrec", "-o", tmp_path / "my sids.json")
    assert shlex.split(ran.out) == ["--sid-vocab-file", str(tmp_path / "my sids.json")]
    four, model, out = tmp_path / "four.zarr", tmp_path / "four", tmp_path / "four.json"
    done(*build_words(road, four, "--levels", "4x4x4x4"))
    done("extend-model", road.base, four, "-o", model)
    command = ("export", four, "--to", "flashrec", "--force", "-o", out)
    assert "--model MODEL gives its --sid" in done(*command).err
    start = read_contract(model).token_start
    sid = f"--sid {start}:{start + 17}/4,4,4,4,2"
    assert done(*command, "--model", model).out == f"--sid-vocab-file {out} {sid}\n"
    engine_options = done(*command, "--model", model, "--json").json["engine_options"]
    assert engine_options == f"--sid-vocab-file {out} {sid}"
    assert "tokens differ" in refused(3, *command, "--model", road.model)


def test_a_codebook_is_imported_with_its_map(road: Road, tmp_path: Path) -> None:
    done(*build_words(road, tmp_path / "plain.zarr", "--no-balanced"))
    own_codebook(tmp_path / "plain.zarr", tmp_path / "codebooks.npz")
    done("export", tmp_path / "plain.zarr", "--to", "minionerec", "-o", tmp_path / "mini")
    command = ("import", tmp_path / "mini" / "index.json", "--codebook", tmp_path / "codebooks.npz")
    error = refused(2, *command, "-o", tmp_path / "m.zarr")
    assert "the encoder of" in error
    assert "is not known" in error
    command = (*command, "--embeddings", road.vectors)
    assert "4x4x8" in done(*command, "-o", tmp_path / "m.zarr", "--dry-run").err
    assert not (tmp_path / "m.zarr").exists()
    ran = done(*command, "-o", tmp_path / "m.zarr")
    assert "codebook of rq-kmeans for vectors of" in ran.out
    assert "--init codebook" in ran.last
    figures = done(*command, "-o", tmp_path / "n.zarr", "--json").json
    assert (figures["codebook"], figures["encoded"]["items"]) == ("rq-kmeans", N_ITEMS)
    np.save(tmp_path / "other.npy", np.load(road.vectors)[::-1])
    wrong = (*command[:-1], tmp_path / "other.npy", "--by-row", "-o", tmp_path / "x.zarr")
    assert "gives back the SIDs of" in refused(3, *wrong)
    done(*wrong, "--fail-under", 0)
    # two items of one SID, whose last level the codebook lacks
    sids = json.loads((tmp_path / "mini" / "index.json").read_text())
    sids["b001"] = sids["b002"]
    (tmp_path / "mini" / "index.json").write_text(json.dumps(sids))
    with np.load(tmp_path / "codebooks.npz") as levels:
        np.savez(tmp_path / "codebooks.npz", **{name: levels[name] for name in levels.files[:2]})
    imported = done(*command, "-o", tmp_path / "s.zarr", "--fail-under", 0)
    assert "2 items share a SID; codebook of rq-kmeans" in imported.out


def test_compare_measures_bundles_and_vectors(road: Road, index: Path, tmp_path: Path) -> None:
    imported = tmp_path / "m.zarr"
    done("import", index / "index.json", "-o", imported, "--levels", "4x4x8")
    vectors = ("--embeddings", road.vectors, "--items", road.items, "--field", "description")
    command = ("compare", road.bundle, imported, *vectors, "--interactions")
    comparison = done(*command, road.events, "--json").json
    assert comparison["items"] == N_ITEMS
    ours, theirs = comparison["bundles"]
    assert (ours["bundle"], theirs["bundle"]) == (str(road.bundle), str(imported))
    assert (ours["method"], theirs["method"]) == ("rq-kmeans", None)
    # the same training events: held-out ones of the file do not count
    assert done(*command, road.split, "--json").json == comparison
    table = done(*command, road.events).out
    for words in ("residual variance", "perplexity", "neighbors", "by chance", "collide before"):
        assert words in table
