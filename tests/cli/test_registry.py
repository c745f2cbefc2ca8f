import shutil
from pathlib import Path

import numpy as np
import pytest

from sidtool.registry.references import open_bundle, open_parent
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_ITEMS, Road, done, refused, retire, run, tree, write_lines
from tests.s3 import BUCKET, Wire


@pytest.fixture
def shop(road: Road, tmp_path: Path) -> Path:
    """A registry with two versions: the shop's bundle, and a tagged one with one item removed."""
    shop = tmp_path / "published" / "shop"
    done("push", road.bundle, shop)
    second = retire(road.bundle, tmp_path / "second.zarr", "b001")
    done("push", second, shop, "--tag", "prod", "--license", "MIT")
    return shop


def test_push_reports_the_objects_sent(road: Road, tmp_path: Path) -> None:
    shop, digest = tmp_path / "shop", Bundle.open(road.bundle).identity.digest
    objects = len(tree(road.bundle))
    dry = done("push", road.bundle, shop, "--dry-run")
    assert (dry.out, dry.err) == ("", f"would push {objects} objects as version 1.0 of {shop}\n")
    assert not shop.exists()
    ran = done("push", road.bundle, shop)
    assert ran.out == f"{shop}@1.0: pushed {objects} objects, {digest}\n"
    assert ran.last == f"next: sidtool pull {shop}@1.0 -o DIR"
    again = f"{shop}@1.0: already published, nothing was sent, {digest}\n"
    assert done("push", road.bundle, shop).out == again
    assert done("push", road.bundle, shop, "--json").json["new"] is False
    next(shop.glob("versions/1.0-*/bundle.zarr/items/retired/c/0")).write_bytes(b"damaged")
    hint = "hint: push the same artifact again: only lost and damaged objects are sent"
    assert run("verify", shop).last == hint
    repaired = f"{shop}@1.0: already published, 1 missing or damaged objects were sent, {digest}\n"
    assert done("push", road.bundle, shop).out == repaired
    done("verify", shop)
    assert "hint: published versions never change" in refused(3, "push", road.other, shop)
    assert "names a version" in refused(2, "push", road.bundle, f"{shop}@1.0")


def test_pull_restores_the_bundle(road: Road, shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    pulled = done("pull", f"{shop}@1.0", "-o", out, "--json").json
    assert tree(out) == tree(road.bundle)
    assert (pulled["bundle"], pulled["version"], pulled["license"]) == (str(out), "1.0", "unknown")
    assert "license MIT" in done("pull", shop, "-o", out, "--force").out
    assert tree(out) == tree(tmp_path / "second.zarr")
    missing = refused(1, "pull", f"{shop}@9.9", "-o", tmp_path / "x.zarr")
    assert "has no '9.9': it has 1.1, 1.0, prod" in missing
    assert "hint: sidtool push" in refused(1, "pull", tmp_path / "none", "-o", tmp_path / "x.zarr")


def test_log_and_tag(shop: Path) -> None:
    versions = done("log", shop, "--json").lines
    published = [(version["version"], version["published"]) for version in versions]
    assert published == [("1.1", ["1.1", "latest", "prod"]), ("1.0", ["1.0"])]
    assert done("tag", f"{shop}@1.0", "old").out == f"{shop}@old is now version 1.0\n"
    assert done("tag", f"{shop}@old", "prod", "--json").json["version"] == "1.0"
    table = done("log", shop).out.splitlines()
    assert table[1].split()[-2:] == ["1.1,", "latest"]
    assert table[2].split()[-3:] == ["1.0,", "old,", "prod"]
    ran = done("log", f"{shop}@old")
    assert len(ran.out.splitlines()) == 2
    assert "not in this lineage: 1.1" in ran.err
    assert "is not a valid tag" in refused(2, "tag", f"{shop}@1.0", "1.1")
    (shop / "versions/1.0.json").unlink()
    assert "has no version 1.0 for 'old': it has 1.1, old" in refused(1, "inspect", f"{shop}@old")


def test_a_bad_version_is_left_behind(road: Road, tmp_path: Path) -> None:
    shop, made = tmp_path / "shop", tmp_path / "made.zarr"
    rows = ({"item_id": item, "title": "new lamp"} for item in ("b060", "b061"))
    new = write_lines(tmp_path / "new.jsonl", rows)
    vectors = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    for name, values in zip(("bad", "good", "better"), vectors, strict=True):
        np.save(tmp_path / f"{name}.npy", values)

    def add_items(bundle: object, name: str) -> str:
        by_row = ("--embeddings", tmp_path / f"{name}.npy", "--by-row", "--force")
        made_now = done("add-items", bundle, new, "-o", made, *by_row, "--json").json
        return str(made_now["version"])

    done("push", road.bundle, shop, "--tag", "prod")
    assert add_items(road.bundle, "bad") == "1.1"
    done("push", made, shop, "--tag", "prod")
    bad = open_bundle(shop)
    done("tag", f"{shop}@1.0", "prod")
    assert add_items(road.bundle, "good") == "1.1"  # what is published cannot be known
    assert f"align on {shop}@VERSION" in refused(3, "push", made, shop)
    assert add_items(f"{shop}@prod", "good") == "1.2"
    done("push", made, shop, "--tag", "prod")
    good, first = open_bundle(f"{shop}@prod"), Bundle.open(road.bundle)
    assert good.digest == open_bundle(shop).digest != bad.digest
    assert [version.version for version in good.manifest.history] == ["1.0", "1.2"]
    parent = open_parent(f"{shop}@1.2", good)
    assert parent is not None
    assert parent.digest == good.manifest.parent == first.digest
    logged = done("log", f"{shop}@prod", "--json")
    names = [(version["version"], version["published"]) for version in logged.lines]
    assert names == [("1.2", ["1.2", "latest", "prod"]), ("1.0", ["1.0"])]
    assert "not in this lineage: 1.1" in done("log", shop).err
    assert "models of the old bundle: works" in done("diff", f"{shop}@1.0", shop).out
    done("recommend", road.tuned, "--bundle", f"{shop}@prod", "--history", "b061")
    assert add_items(shop, "better") == "1.2"  # all items are there: nothing changed


def test_verify_finds_another_bundle_in_place_of_the_published_one(road: Road, shop: Path) -> None:
    (stored,) = shop.glob("versions/1.1-*/bundle.zarr")
    shutil.rmtree(stored)
    shutil.copytree(road.other, stored)
    done("verify", stored)  # intact, but not what was published
    ran = run("verify", shop, "--json")
    assert ran.code == 3
    ((name, reason),) = [(problem["object"], problem["reason"]) for problem in ran.json["broken"]]
    assert name == "zarr.json"
    assert "differs from the published one" in reason


def test_every_command_takes_a_reference(road: Road, shop: Path, tmp_path: Path) -> None:
    old, new = f"{shop}@1.0", f"{shop}@prod"
    assert done("inspect", old, "--json").json == done("inspect", road.bundle, "--json").json
    assert f"{N_ITEMS} items" in done("verify", new).out
    assert "b003" in done("decode", new, Bundle.open(road.bundle).sid("b003")).out
    assert done("encode", old, "--embeddings", road.vectors).out.count("\n") == N_ITEMS
    assert done("diff", old, new, "--json").json["retired"] == ["b001"]
    assert done("compare", old, road.other, "--json").out
    retire(new, tmp_path / "third.zarr", "b002")
    done("export", new, "-o", tmp_path / "maps", "--to", "minionerec")
    done("align", road.other, "--to", old, "-o", tmp_path / "aligned.zarr")
    done("extend-model", road.base, new, "-o", tmp_path / "model")
    assert Bundle.open(tmp_path / "model" / "sid.zarr").identity == open_bundle(new).identity
    examples = ("-o", tmp_path / "rows.jsonl", "--model", tmp_path / "model")
    done("make-sft", new, road.items, road.events, *examples)
    ask = ("recommend", road.tuned, "--bundle", new, "--history", "b003", "-k", 3, "--json")
    assert len(done(*ask).json["items"]) == 3
    done("rebind", road.tuned, new, "-o", tmp_path / "bound")


def test_a_bundle_is_pushed_to_s3_and_pulled(s3: Wire, road: Road, tmp_path: Path) -> None:
    shop = f"s3://{BUCKET}/cli/shop"
    done("push", road.bundle, shop, "--tag", "prod")
    done("tag", f"{shop}@1.0", "blue")
    assert done("log", shop, "--json").lines[0]["published"] == ["1.0", "latest", "blue", "prod"]
    done("pull", f"{shop}@blue", "-o", tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == tree(road.bundle)
    local = done("inspect", road.bundle, "--json").json
    assert done("inspect", f"{shop}@prod", "--json").json == local
    missing = refused(1, "push", road.bundle, "s3://no-such-bucket/shop")
    assert "error: s3://no-such-bucket" in missing
