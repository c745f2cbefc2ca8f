import re
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.output import locked
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import COLORS, N_ITEMS, Road, done, refused, retire, run, write_lines


@pytest.fixture
def child(road: Road, tmp_path: Path) -> Path:
    """The shop's bundle with six items added, by vectors in another order, and two removed."""
    ids = [f"n{row}" for row in range(6)]
    rows = ({"item_id": item, "title": f"{COLORS[0]} lamp {item}"} for item in ids)
    items = write_lines(tmp_path / "new.jsonl", rows)
    np.save(tmp_path / "new.npy", np.random.default_rng(5).normal(size=(6, 8)).astype(np.float32))
    write_lines(tmp_path / "new.ids.txt", ids[::-1])
    gone = write_lines(tmp_path / "gone.txt", ["b001", "b002"])
    add = ("add-items", road.bundle, items, "--embeddings", tmp_path / "new.npy", "--remove", gone)
    done(*add, "-o", tmp_path / "child.zarr")
    return tmp_path / "child.zarr"


def sids(path: Path) -> dict[str, str]:
    bundle = Bundle.open(path)
    return dict(zip(bundle.items.ids, map(bundle.space.spell, bundle.items.codes), strict=True))


def test_add_items_changes_no_sid(road: Road, child: Path) -> None:
    assert Bundle.broken(child) == []
    assert sids(child).items() >= sids(road.bundle).items()
    assert sids(child).keys() - sids(road.bundle).keys() == {f"n{row}" for row in range(6)}
    decoded = done("decode", child, sids(child)["b001"], sids(child)["n3"], "--json").lines
    statuses = [(piece["status"], piece["items"]) for piece in decoded]
    assert statuses == [("retired", ["b001"]), ("item", ["n3"])]
    assert Bundle.open(child).items.title(Bundle.open(child).items.row("n3")) == "red lamp n3"


def test_a_bundle_that_is_being_replaced_is_not_read_for_its_next_version(child: Path) -> None:
    # the second version would lack what the first one adds
    remove = write_lines(child.with_name("again.txt"), ["b003"])
    with locked(child):
        again = refused(2, "add-items", child, "--remove", remove, "-o", child, "--force")
    assert f"{child} is being written by process" in again
    done("add-items", child, "--remove", remove, "-o", child, "--force")


def test_adding_a_catalog_adds_only_new_items(road: Road, encoder: Path, tmp_path: Path) -> None:
    """Texts are made with the template and encoder of the bundle, for new items only."""
    first = tmp_path / "text.zarr"
    template = ("--text-template", "{title}. {description}")
    build = ("build-codebook", road.items, "--levels", "4x4x8", "--encoder", encoder)
    done(*build, "-o", first, *template)
    rug = '{"item_id": "n0", "title": "a rug", "description": "d"}'
    catalog = write_lines(tmp_path / "items.jsonl", [*road.items.read_text().splitlines(), rug])
    ran = done("add-items", first, catalog, "-o", tmp_path / "child.zarr", "--json")
    assert ran.json["added"] == 1
    message = f"{N_ITEMS} of {N_ITEMS + 1} items are in the bundle already and keep their SID"
    assert f"{message}; 0 titles" in ran.err
    assert sids(tmp_path / "child.zarr").items() >= sids(first).items()
    nearest = done("encode", first, "a rug. d", "--json").json
    assert nearest["items"] == []  # it is free, so the new item gets it
    assert sids(tmp_path / "child.zarr")["n0"] == nearest["sid"]
    same = done("add-items", first, road.items, "-o", tmp_path / "same.zarr").out
    assert "nothing changed" in same
    assert Bundle.open(tmp_path / "same.zarr").identity == Bundle.open(first).identity


def test_items_are_removed_without_an_encoder(road: Road, tmp_path: Path) -> None:
    gone = write_lines(tmp_path / "gone.txt", ["b001", "", "b002 "])
    command = ("add-items", road.bundle, "--remove", gone, "-o", tmp_path / "child.zarr")
    # a blank is part of an id
    assert "1 ids to remove are not in the bundle, the first is 'b002 '" in refused(1, *command)
    write_lines(gone, ["b001", "", "b002"])
    assert done(*command).out == f"{tmp_path / 'child.zarr'}: shop 1.1, 2 retired\n"


def test_diff_reports_changes_and_their_consequence(road: Road, child: Path) -> None:
    result = done("diff", road.bundle, child, "--json").json
    assert set(result["added"]) == {f"n{row}" for row in range(6)}
    assert set(result["retired"]) == {"b001", "b002"}
    assert (result["drift"], result["verdict"]["kind"]) == ([0.0, 0.0, 0.0], "works")
    table = done("diff", road.bundle, child).out
    assert "models of the old bundle: works (the catalog changed" in table
    assert re.search(r"^added +6 ", table, re.MULTILINE)
    back = done("diff", child, road.bundle, "--json").json
    assert set(back["restored"]) == {"b001", "b002"}
    assert set(back["gone"]) == {f"n{row}" for row in range(6)}


def test_diff_of_two_builds_suggests_align(road: Road) -> None:
    table = done("diff", road.bundle, road.other).out
    assert "moved at level 1" in table
    assert "codebook drift" in table
    assert "works after align" in table


def test_the_exit_code_of_diff_depends_on_the_differences(road: Road, child: Path) -> None:
    assert run("diff", road.bundle, child, "--exit-code").code == 3
    assert run("diff", road.bundle, road.zipped, "--exit-code").code == 0
    assert run("diff", road.bundle, child).code == 0


def test_log_is_newest_first(road: Road, child: Path, tmp_path: Path) -> None:
    retire(child, tmp_path / "third.zarr", "b003")
    versions = done("log", tmp_path / "third.zarr", "--json").lines
    bundles = (tmp_path / "third.zarr", child, road.bundle)
    digests = [Bundle.open(path).identity.digest for path in bundles]
    assert [version["digest"] for version in versions] == digests
    assert [version["version"] for version in versions] == ["1.2", "1.1", "1.0"]
    table = done("log", tmp_path / "third.zarr").out.splitlines()
    changes = ["1 retired", "6 added, 2 retired", f"built with {N_ITEMS} items"]
    assert [line.rstrip().rpartition("  ")[2] for line in table[1:]] == changes
    assert "hint: a bundle is" in refused(1, "log", tmp_path / "none.zarr")


def test_align_and_rebind(road: Road, tmp_path: Path) -> None:
    aligned = tmp_path / "aligned.zarr"
    rebind = ("rebind", road.tuned, road.other, "-o", tmp_path / "m2")
    assert "the model was made for codebook" in refused(3, *rebind)
    message = done("align", road.other, "--to", road.bundle, "-o", aligned, "--json").json
    assert Bundle.broken(aligned) == []
    n_preserved = sum(sid == sids(road.bundle)[item] for item, sid in sids(aligned).items())
    assert (message["common"], message["after"][-1]) == (N_ITEMS, n_preserved)
    assert message["after"][0] >= message["before"][0]
    table = done("align", road.other, "--to", road.bundle, "-o", aligned, "--force").out
    counts = f"{message['before'][-1]} of {N_ITEMS} common items before, {n_preserved} after"
    assert f"SIDs preserved: {counts}" in table
    assert "aligned" in done("log", aligned).out
    assert done("diff", road.bundle, aligned, "--json").json["verdict"]["kind"] == "works"
    ran = done("rebind", road.tuned, aligned, "-o", tmp_path / "m2", "--json")
    assert "warning: bundle" in ran.err
    assert ran.json["kind"] == "aligned"
    answer = done("recommend", tmp_path / "m2", "--history", "b003,b004", "-k", 3, "--json").json
    assert len(answer["items"]) == 3


def test_a_tuned_model_is_bound_to_the_child(road: Road, child: Path, tmp_path: Path) -> None:
    ran = done("rebind", road.tuned, child, "-o", tmp_path / "m2")
    assert f"{N_ITEMS} items kept their SID, 6 were added, 2 removed" in ran.out
    query = ("--history", "b003,b004", "-k", N_ITEMS + 6, "--num-beams", 200, "--json")
    query = (*query, "--no-exclude-seen", "--normalize", "level")  # as if no item were added
    unbound = done("recommend", road.tuned, "--bundle", child, *query)
    assert "6 were added" in unbound.err
    bound = done("recommend", tmp_path / "m2", *query).json
    assert (bound, set(bound["items"])) == (unbound.json, sids(child).keys() - {"b001", "b002"})
    listed = write_lines(tmp_path / "listed.txt", ["n0", "n4", "b005"])
    exact = done("recommend", tmp_path / "m2", *query, "--candidates", listed).json
    assert exact["items"] == [item for item in bound["items"] if item in ("n0", "n4", "b005")]
    before = done("recommend", road.tuned, *query).json
    scores = dict(zip(before["items"], before["scores"], strict=True))
    for item, score in zip(bound["items"], bound["scores"], strict=True):
        assert item not in scores or score == pytest.approx(scores[item], abs=1e-4)
