"""The commands import, export and compare, and the options of a quantizer."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sidtool.data.vector_files import read_vectors
from sidtool.model.contract.folder import read_contract
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, Road, build_command, done, refused, tree, write_lines
from tests.hostile.writing_commands import own_codebook


@pytest.fixture
def index(road: Road, tmp_path: Path) -> Path:
    done("export", road.bundle, "--to", "minionerec", "-o", tmp_path / "mini")
    return tmp_path / "mini"


def test_export_and_import_are_inverse(road: Road, index: Path, tmp_path: Path) -> None:
    ran = done(
        "import",
        index / "index.json",
        "--info",
        index / "info.txt",
        "--levels",
        "4x4x8",
        "-o",
        tmp_path / "m.zarr",
    )
    assert f"{N_ITEMS} items, 4x4x8, spelled <s_{{level}}_{{code}}>" in ran.out
    assert (
        ran.last
        == f"next: sidtool extend-model MODEL {tmp_path / 'm.zarr'} -o MODEL+sid --init mean"
    )
    original, imported = Bundle.open(road.bundle), Bundle.open(tmp_path / "m.zarr")
    assert list(imported.items.ids) == list(original.items.ids)
    assert (imported.items.codes == original.items.codes).all()
    assert imported.items.titles is not None
    assert original.items.titles is not None
    assert list(imported.items.titles) == list(original.items.titles)
    done("export", tmp_path / "m.zarr", "--to", "minionerec", "-o", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(index)


def test_an_imported_map_supports_every_command_except_encode(
    road: Road, index: Path, tmp_path: Path
) -> None:
    done("import", index / "index.json", "-o", tmp_path / "m.zarr")
    done("verify", tmp_path / "m.zarr")
    assert "a map without a codebook" in done("inspect", tmp_path / "m.zarr").out
    sid = done("decode", tmp_path / "m.zarr", Bundle.open(road.bundle).sid("b007"), "--json").json
    assert sid["items"] == ["b007"]
    assert "without a codebook" in refused(
        3, "encode", tmp_path / "m.zarr", "--embeddings", road.vectors
    )
    done("extend-model", road.base, tmp_path / "m.zarr", "-o", tmp_path / "m+sid", "--init", "mean")


def test_a_bundle_of_retired_items_is_not_exported(road: Road, tmp_path: Path) -> None:
    ids = write_lines(tmp_path / "ids.txt", Bundle.open(road.bundle).items.ids)
    done("add-items", road.bundle, "--remove", ids, "-o", tmp_path / "none.zarr")
    command = ("export", tmp_path / "none.zarr", "--to", "openonerec", "-o", tmp_path / "m.parquet")
    for more in ((), ("--dry-run",)):
        assert f"all {N_ITEMS} are retired" in refused(2, *command, *more)
    assert not (tmp_path / "m.parquet").exists()


def test_lines_of_a_catalog_as_keys(road: Road, tmp_path: Path) -> None:
    lines = ("--items", road.items, "--keys", "line")
    done("export", road.bundle, "--to", "minionerec", "-o", tmp_path / "mini", *lines)
    assert list(json.loads((tmp_path / "mini" / "index.json").read_text())) == [
        str(n) for n in range(N_ITEMS)
    ]
    ran = done(
        "import", tmp_path / "mini" / "index.json", "-o", tmp_path / "m.zarr", *lines, "--json"
    )
    assert (ran.json["items"], ran.json["policy"]) == (N_ITEMS, "reassign")
    assert ran.json["digest"] == Bundle.open(tmp_path / "m.zarr").identity.digest
    assert "keys are line numbers" in refused(
        2, "import", tmp_path / "mini" / "index.json", "-o", tmp_path / "n.zarr", "--keys", "line"
    )


def test_openonerec_there_and_back(road: Road, tmp_path: Path) -> None:
    done("export", road.bundle, "--to", "openonerec", "-o", tmp_path / "map.parquet")
    assert pq.read_table(tmp_path / "map.parquet").column_names == ["pid", "sid"]
    done(
        "import",
        tmp_path / "map.parquet",
        "-o",
        tmp_path / "m.zarr",
        "--items",
        road.items,
        "--levels",
        "4x4x8",
    )
    original, imported = Bundle.open(road.bundle), Bundle.open(tmp_path / "m.zarr")
    assert (imported.identity.space, imported.identity.items) == (
        original.identity.space,
        original.identity.items,
    )


def test_flashrec_gets_the_option_that_it_cannot_infer(road: Road, tmp_path: Path) -> None:
    ran = done("export", road.bundle, "--to", "flashrec", "-o", tmp_path / "sids.json")
    assert ran.out == f"--sid-vocab-file {tmp_path / 'sids.json'}\n"
    done(
        "build-codebook",
        road.items,
        "-o",
        tmp_path / "four.zarr",
        "--embeddings",
        road.vectors,
        "--levels",
        "4x4x4x4",
    )
    done("extend-model", road.base, tmp_path / "four.zarr", "-o", tmp_path / "four")
    command = (
        "export",
        tmp_path / "four.zarr",
        "--to",
        "flashrec",
        "--force",
        "-o",
        tmp_path / "four.json",
    )
    assert "--model MODEL gives its --sid" in done(*command).err
    start = read_contract(tmp_path / "four").token_start
    ran = done(*command, "--model", tmp_path / "four")
    assert (
        ran.out
        == f"--sid-vocab-file {tmp_path / 'four.json'} --sid {start}:{start + 17}/4,4,4,4,2\n"
    )
    before = tree(tmp_path)
    assert "tokens differ" in refused(3, *command, "--model", road.model)
    assert tree(tmp_path) == before


def test_engines_get_the_token_ids_of_a_model(road: Road, tmp_path: Path) -> None:
    engine = ("export", road.bundle, "--model", road.model, "--to")
    named = refused(1, *engine, "xllm", "-o", tmp_path / "vocab.bin")
    assert "ids that are numbers, not 'b0" in named
    assert "ends with .npz" in refused(2, *engine, "xllm", "-o", tmp_path / "vocab.npz")
    assert not (tmp_path / "vocab.bin").exists()


def test_a_codebook_is_imported_with_its_map(road: Road, tmp_path: Path) -> None:
    done(*build_command(road, tmp_path / "plain.zarr", "--no-balanced"))
    original = Bundle.open(tmp_path / "plain.zarr")
    own_codebook(tmp_path / "plain.zarr", tmp_path / "codebooks.npz")
    done("export", tmp_path / "plain.zarr", "--to", "minionerec", "-o", tmp_path / "mini")
    command = ("import", tmp_path / "mini" / "index.json", "--codebook", tmp_path / "codebooks.npz")
    asked = refused(2, *command, "-o", tmp_path / "m.zarr")
    assert "the encoder of" in asked
    assert "is not known" in asked
    command = (*command, "--embeddings", road.vectors)
    planned = done(*command, "-o", tmp_path / "m.zarr", "--dry-run")
    assert "4x4x8" in planned.err
    assert not (tmp_path / "m.zarr").exists()
    ran = done(*command, "-o", tmp_path / "m.zarr")
    assert "codebook of rq-kmeans for vectors of" in ran.out
    assert f"of {N_ITEMS} items (" in ran.out
    assert "is not recorded" in ran.err
    assert ran.last.endswith("--init codebook")
    figures = done(*command, "-o", tmp_path / "n.zarr", "--json").json
    imported = Bundle.open(tmp_path / "n.zarr")
    ids = [f"b{number:03}" for number in range(N_ITEMS)]
    vectors = read_vectors(road.vectors, ids)
    assert (imported.encode(vectors) == original.encode(vectors)).all()
    codes = imported.items.codes[imported.items.rows(ids)]
    equal = (original.encode(vectors) == codes).all(axis=1).sum()
    assert (figures["codebook"], figures["encoded"]["items"]) == ("rq-kmeans", N_ITEMS)
    assert figures["encoded"]["share"] == equal / N_ITEMS
    assert figures["encoded"]["equal"][-1] == equal
    other = np.load(road.vectors)[::-1]
    np.save(tmp_path / "other.npy", other)
    wrong = (*command[:-1], tmp_path / "other.npy", "--by-row", "-o", tmp_path / "x.zarr")
    assert "gives back the SIDs of" in refused(3, *wrong)
    done(*wrong, "--fail-under", 0)
    retired = write_lines(tmp_path / "retired.txt", ["b001"])
    added = ("--remove", retired, "-o", tmp_path / "fewer.zarr")
    done("add-items", tmp_path / "n.zarr", *added)
    assert Bundle.open(tmp_path / "fewer.zarr").codebook is not None


LEVEL_FIGURES = (
    "utilization",
    "entropy",
    "gini",
    "purity",
    "mutual_information",
    "mutual_information_by_chance",
)


def test_compare_measures_bundles_and_vectors(road: Road, index: Path, tmp_path: Path) -> None:
    done("import", index / "index.json", "-o", tmp_path / "m.zarr", "--levels", "4x4x8")
    command = (
        "compare",
        road.bundle,
        tmp_path / "m.zarr",
        "--embeddings",
        road.vectors,
        "--interactions",
        road.events,
    )
    labelled = (*command, "--items", road.items, "--field", "description")
    comparison = done(*labelled, "--json").json
    assert comparison["items"] == N_ITEMS
    ours, theirs = comparison["bundles"]
    assert (ours["bundle"], theirs["bundle"]) == (str(road.bundle), str(tmp_path / "m.zarr"))
    assert (ours["method"], theirs["method"]) == ("rq-kmeans", None)
    report = Bundle.open(road.bundle).manifest.report
    assert ours["residual_variance"] == pytest.approx(
        report["residual_variance_assigned"], rel=1e-5
    )
    for one, other in zip(ours["levels"], theirs["levels"], strict=True):  # the same SIDs
        assert all(one[name] == other[name] for name in LEVEL_FIGURES)
    assert (
        ours["levels"][0]["mutual_information"] > ours["levels"][0]["mutual_information_by_chance"]
    )  # users go from kind to kind
    by_split = [road.split if word == road.events else word for word in labelled]
    # the same training events: held-out ones of the file do not count
    assert done(*by_split, "--json").json == comparison
    table = done(*labelled).out
    for word in (
        "residual variance",
        "perplexity",
        "neighbors",
        "purity",
        "by chance",
        "collide before",
    ):
        assert word in table


def test_compare_needs_item_ids_of_vectors(road: Road, tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.zeros((N_ITEMS, 8), dtype=np.float32))
    command = ("compare", road.bundle, "--embeddings", tmp_path / "bare.npy")
    assert "has no item ids" in refused(1, *command)
    assert "--by-row" in refused(1, *command, "--items", road.items)
    assert "needs the catalog" in refused(2, *command, "--by-row")
    done(*command, "--items", road.items, "--by-row")


def test_options_of_a_method_are_validated_and_recorded(road: Road, tmp_path: Path) -> None:
    def built(name: str, *more: object) -> tuple[object, ...]:
        return build_command(road, tmp_path / name, *more)

    done(*built("a.zarr", "--balanced", "--normalize"))
    bundle = Bundle.open(tmp_path / "a.zarr")
    assert bundle.codebook is not None
    assert bundle.codebook.params.normalize is True
    assert bundle.identity.codebook != Bundle.open(road.bundle).identity.codebook
    counts = np.bincount(bundle.items.codes[:, 0], minlength=4)
    assert counts.max() - counts.min() <= 2
    done(*built("b.zarr", "--set", "balanced=true", "--set", "normalize=true"))
    assert Bundle.open(tmp_path / "b.zarr").identity == bundle.identity
    done(
        *built("c.zarr", "--method", "rq-vae", "--set", "epochs=1", "--set", "width=4", "--dry-run")
    )
