"""The commands add-items, diff, align, log and rebind."""

from pathlib import Path

import numpy as np
import pytest

from sidtool.tokenizer.bundle import Bundle, verify
from tests.cli.road import COLORS, N_ITEMS, Road, done, refused, run, write_lines


def newcomers(folder: Path, n: int = 6) -> tuple[Path, Path]:
    """New items, and their vectors in another order."""
    ids = [f"n{row}" for row in range(n)]
    items = write_lines(
        folder / "new.jsonl",
        ({"item_id": item, "title": f"{COLORS[0]} lamp {item}", "description": ""} for item in ids),
    )
    rows = np.random.default_rng(5).normal(size=(n, 8)).astype(np.float32)
    np.save(folder / "new.npy", rows[::-1])
    write_lines(folder / "new.ids.txt", ids[::-1])
    return items, folder / "new.npy"


@pytest.fixture
def child(road: Road, tmp_path: Path) -> Path:
    """The shop's bundle with six items added and two removed."""
    items, vectors = newcomers(tmp_path)
    gone = write_lines(tmp_path / "gone.txt", ["b001", "b002"])
    out = tmp_path / "child.zarr"
    done("add-items", road.bundle, items, "-o", out, "--embeddings", vectors, "--remove", gone)
    return out


def sids(path: Path) -> dict[str, str]:
    bundle = Bundle.open(path)
    return {
        item: bundle.space.spell(row)
        for item, row in zip(bundle.items.ids, bundle.items.codes, strict=True)
    }


# add-items


def test_add_items_changes_no_sid(road: Road, child: Path) -> None:
    assert verify(child) == []
    assert sids(child).items() >= sids(road.bundle).items()
    assert sids(child).keys() - sids(road.bundle).keys() == {f"n{row}" for row in range(6)}
    decoded = done("decode", child, sids(child)["b001"], sids(child)["n3"], "--json").lines
    assert [(piece["status"], piece["items"]) for piece in decoded] == [
        ("retired", ["b001"]),
        ("item", ["n3"]),
    ]
    assert Bundle.open(child).items.title(Bundle.open(child).items.row("n3")) == "red lamp n3"


def test_batches_and_containers_give_equal_bundles(road: Road, tmp_path: Path) -> None:
    items, vectors = newcomers(tmp_path)
    message = done(
        "add-items",
        road.bundle,
        items,
        "-o",
        tmp_path / "all.zarr.zip",
        "--embeddings",
        vectors,
        "--json",
    )
    at = road.bundle
    for step, line in enumerate(items.read_text().splitlines()):
        one = write_lines(tmp_path / "one.jsonl", [line])
        out = tmp_path / f"step{step}.zarr"
        done("add-items", at, one, "-o", out, "--embeddings", vectors)
        at = out
    assert (
        message.json["digest"]
        == Bundle.open(at).identity.digest
        == Bundle.open(tmp_path / "all.zarr.zip").identity.digest
    )
    assert (message.json["version"], message.json["added"]) == ("1.1", 6)
    assert Bundle.open(at).manifest.version == "1.6"


def test_adding_the_whole_catalog_adds_only_new_items(
    road: Road, encoder: Path, tmp_path: Path
) -> None:
    """Texts are made with the template and encoder of the bundle, for new items only."""
    first = tmp_path / "text.zarr"
    template = ("--text-template", "{title}. {description}")
    done(
        "build-codebook",
        road.items,
        "-o",
        first,
        "--levels",
        "4x4x8",
        "--encoder",
        encoder,
        *template,
    )
    lines = road.items.read_text().splitlines()
    catalog = write_lines(
        tmp_path / "items.jsonl", [*lines, '{"item_id": "n0", "title": "oar", "description": "d"}']
    )
    ran = done("add-items", first, catalog, "-o", tmp_path / "child.zarr", "--json")
    assert ran.json["added"] == 1
    assert (
        f"{N_ITEMS} of {N_ITEMS + 1} items are in the bundle already and keep their SID; 0 titles"
        in ran.err
    )
    assert sids(tmp_path / "child.zarr").items() >= sids(first).items()
    nearest = done("encode", first, "oar. d", "--json").json
    free = nearest["items"] == []
    assert (sids(tmp_path / "child.zarr")["n0"] == nearest["sid"]) == free
    same = done("add-items", first, road.items, "-o", tmp_path / "same.zarr").out
    assert "nothing changed" in same
    assert Bundle.open(tmp_path / "same.zarr").identity == Bundle.open(first).identity


def test_items_are_removed_without_an_encoder(road: Road, tmp_path: Path) -> None:
    gone = write_lines(tmp_path / "gone.txt", ["b001", "", "b002 "])
    command = ("add-items", road.bundle, "--remove", gone, "-o", tmp_path / "child.zarr")
    # a blank is part of an id
    assert "1 ids to remove are not in the bundle, the first is 'b002 '" in refused(1, *command)
    write_lines(gone, ["b001", "", "b002"])
    message = done(*command).out
    assert message == f"{tmp_path / 'child.zarr'}: shop 1.1, 2 retired\n"


def test_a_dry_run_refuses_what_the_command_refuses(road: Road, tmp_path: Path) -> None:
    items, vectors = newcomers(tmp_path)
    command = ("add-items", road.bundle, "-o", tmp_path / "child.zarr")
    nobody = write_lines(tmp_path / "nobody.txt", ["b001", "zz"])
    added = write_lines(tmp_path / "added.txt", ["n0"])
    with_vectors = (items, "--embeddings", vectors)
    for code, words, message in (
        (1, ("--remove", nobody), "1 ids to remove are not in the bundle, the first is 'zz'"),
        (2, (*with_vectors, "--remove", added), "'n0' is both added and removed"),
        (1, (items, "--embeddings", tmp_path / "no.npy"), "no.npy does not exist"),
        (1, (items, "--embeddings", road.vectors), "no vector for 6 of 6 items"),
        (2, (*with_vectors, "--embeddings", vectors), "8 and 8 dimensions"),
    ):
        for more in ((), ("--dry-run",)):
            assert message in refused(code, *command, *words, *more)
    # vectors are checked if no item is new, too
    known = ("add-items", road.bundle, road.items, "-o", tmp_path / "known.zarr", "--embeddings")
    for code, words, message in (
        (1, (tmp_path / "no.npy",), "no.npy does not exist"),
        (1, (vectors,), f"no vector for {N_ITEMS} of {N_ITEMS} items"),
        (2, (road.vectors, "--embeddings", road.vectors), "8 and 8 dimensions"),
    ):
        for more in ((), ("--dry-run",)):
            assert message in refused(code, *known, *words, *more)
    done(*known, road.vectors)
    gone = write_lines(tmp_path / "gone.txt", ["b001", "b001"])
    done(*command, "--remove", gone)
    again = write_lines(tmp_path / "again.txt", ["b001", "b002", "b002"])
    removal = ("--remove", again, "-o", tmp_path / "next.zarr")
    plan = done("add-items", tmp_path / "child.zarr", *removal, "--dry-run", "--json").json
    assert plan["retired"] == 1


def test_invalid_additions_are_one_line(road: Road, child: Path, tmp_path: Path) -> None:
    items, vectors = newcomers(tmp_path)
    nobody = write_lines(tmp_path / "nobody.txt", ["zz"])
    command, out = ("add-items", road.bundle), ("-o", tmp_path / "x.zarr")
    assert "hint: give --embeddings" in refused(3, *command, items, *out)
    assert "exists already" in refused(2, *command, items, "-o", child, "--embeddings", vectors)
    assert "'zz'" in refused(1, *command, *out, "--remove", nobody)
    assert "no vector" in refused(1, *command, items, *out, "--embeddings", road.vectors)
    assert not (tmp_path / "x.zarr").exists()


# diff and log


def test_diff_reports_changes_and_their_consequence(road: Road, child: Path) -> None:
    result = done("diff", road.bundle, child, "--json").json
    assert result["added"] == sorted(
        result["added"], key=sids(child).get
    )  # in the order of the SIDs
    assert set(result["added"]) == {f"n{row}" for row in range(6)}
    assert set(result["retired"]) == {"b001", "b002"}
    assert (result["moved"], result["gone"], result["kept"]) == ([], [], N_ITEMS)
    assert (result["drift"], result["verdict"]["kind"]) == ([0.0, 0.0, 0.0], "works")
    assert result["manifest"] == {"version": ["1.0", "1.1"]}
    table = done("diff", road.bundle, child).out
    assert "models of the old bundle: works (the catalog changed" in table
    assert "6" in table
    back = done("diff", child, road.bundle, "--json").json
    assert (set(back["restored"]), set(back["gone"])) == (
        {"b001", "b002"},
        {f"n{row}" for row in range(6)},
    )


def test_diff_of_two_builds_suggests_align(road: Road) -> None:
    result = done("diff", road.bundle, road.other, "--json").json
    assert result["verdict"]["kind"] == "works after align"
    before, after = sids(road.bundle), sids(road.other)
    assert {move["item"] for move in result["moved"]} == {
        item for item in before if before[item] != after[item]
    }
    for move in result["moved"]:
        assert (move["old"], move["new"]) == (before[move["item"]], after[move["item"]])
        assert [
            a != b for a, b in zip(move["old"].split(">"), move["new"].split(">"), strict=True)
        ].index(True) == (move["depth"] - 1)
    assert all(drift > 0 for drift in result["drift"])
    table = done("diff", road.bundle, road.other).out
    assert "moved at level 1" in table
    assert "works after align" in table


def test_the_exit_code_of_diff_depends_on_the_differences(road: Road, child: Path) -> None:
    assert run("diff", road.bundle, child, "--exit-code").code == 3
    assert run("diff", road.bundle, road.zipped, "--exit-code").code == 0
    assert run("diff", road.bundle, child).code == 0


def test_log_is_newest_first(road: Road, child: Path, tmp_path: Path) -> None:
    gone = write_lines(tmp_path / "more.txt", ["b003"])
    done("add-items", child, "--remove", gone, "-o", tmp_path / "third.zarr")
    versions = done("log", tmp_path / "third.zarr", "--json").lines
    digests = [
        Bundle.open(path).identity.digest for path in (tmp_path / "third.zarr", child, road.bundle)
    ]
    assert [version["digest"] for version in versions] == digests
    assert [version["version"] for version in versions] == ["1.2", "1.1", "1.0"]
    table = done("log", tmp_path / "third.zarr").out.splitlines()
    assert [line.rstrip().rpartition("  ")[2] for line in table[1:]] == [
        "1 retired",
        "6 added, 2 retired",
        f"built with {N_ITEMS} items",
    ]
    assert "hint: a bundle is" in refused(1, "log", tmp_path / "none.zarr")


# align and rebind


def test_align_and_rebind(road: Road, tmp_path: Path) -> None:
    aligned = tmp_path / "aligned.zarr"
    assert "the model was made for codebook" in refused(
        3, "rebind", road.tuned, road.other, "-o", tmp_path / "m2"
    )
    message = done("align", road.other, "--to", road.bundle, "-o", aligned, "--json").json
    assert verify(aligned) == []
    kept = sum(sid == sids(road.bundle)[item] for item, sid in sids(aligned).items())
    assert (message["common"], message["after"][-1]) == (N_ITEMS, kept)
    assert message["after"][0] >= message["before"][0]
    table = done("align", road.other, "--to", road.bundle, "-o", aligned, "--force").out
    assert (
        f"SIDs preserved: {message['before'][-1]} of {N_ITEMS} common items before, {kept} after"
        in table
    )
    assert "aligned" in done("log", aligned).out
    assert done("diff", road.bundle, aligned, "--json").json["verdict"]["kind"] == "works"
    ran = done("rebind", road.tuned, aligned, "-o", tmp_path / "m2", "--json")
    assert "warning: bundle" in ran.err
    assert ran.json["kind"] == "aligned"
    asked = done("recommend", tmp_path / "m2", "--history", "b003,b004", "-k", 3, "--json").json
    assert len(asked["items"]) == 3


def test_a_tuned_model_is_bound_to_the_child(road: Road, child: Path, tmp_path: Path) -> None:
    ran = done("rebind", road.tuned, child, "-o", tmp_path / "m2")
    assert f"{N_ITEMS} items kept their SID, 6 were added, 2 removed" in ran.out
    query = ("--history", "b003,b004", "-k", N_ITEMS + 6, "--num-beams", 200, "--json")
    query = (*query, "--no-exclude-seen")
    swapped = done("recommend", road.tuned, "--bundle", child, *query).json
    bound = done("recommend", tmp_path / "m2", *query).json
    assert bound == swapped
    assert set(bound["items"]) == sids(child).keys() - {"b001", "b002"}
    before = done("recommend", road.tuned, *query).json
    scores = dict(zip(before["items"], before["scores"], strict=True))
    for item, score in zip(bound["items"], bound["scores"], strict=True):
        assert item not in scores or score == pytest.approx(scores[item], abs=1e-4)


def test_bundles_that_cannot_be_aligned_are_one_line(
    road: Road, child: Path, tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "x.zarr")
    assert "nothing to align" in refused(3, "align", child, "--to", road.bundle, *out)
    assert "exists already" in refused(2, "align", road.other, "--to", road.bundle, "-o", child)
    assert not (tmp_path / "x.zarr").exists()
