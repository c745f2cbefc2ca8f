import itertools
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sidtool.base.errors import DataError, IntegrityError, RefusedError, UsageError
from sidtool.base.output import remove
from sidtool.base.storage.storage import Range, Storage
from sidtool.registry import pull, push, tag, transfer
from sidtool.registry.publish import Pushed, plan_push
from sidtool.registry.records import CARD, POINTER, VERSIONS, list_records, read_pointer
from sidtool.registry.references import find_version, locate, open_bundle, split_reference
from sidtool.registry.transfer import broken_parts
from sidtool.registry.version_log import log, published_names
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.zarr_group import ROOT
from sidtool.tokenizer.make.add import add_items
from tests.bundles import small_bundle
from tests.cli.road import done, tree
from tests.registry.conftest import in_every_store
from tests.tokenizer.bundle.test_values import draft, reverse_rows
from tests.waiting import Start, run_concurrently


@pytest.fixture
def first(tmp_path: Path) -> Path:
    small_bundle().save(tmp_path / "first.zarr")
    return tmp_path / "first.zarr"


def version(path: Path, number: str, seed: int = 1) -> Path:
    """A different bundle with this version."""
    bundle = small_bundle(seed=seed)
    Bundle(replace(bundle.manifest, version=number), bundle.arrays).save(path)
    return path


def everything(shop: str) -> dict[str, bytes]:
    registry = Storage(shop)
    names = [name for name in registry.listing() if not name.endswith(".lock")]
    return registry.read_many(names)


@in_every_store
def test_a_pulled_bundle_equals_the_pushed_one(shop: str, first: Path, tmp_path: Path) -> None:
    pushed = push(str(first), shop, tag="prod")
    assert (pushed.new, pushed.version, pushed.latest) == (True, "1.0", "1.0")
    assert pushed.sent == len(tree(first))
    for which in ("", "@1.0", "@prod", "@latest"):
        out = tmp_path / f"out{which}.zarr"
        assert pull(shop + which, out).digest == pushed.digest
        assert tree(out) == tree(first)
        assert open_bundle(shop + which).identity == Bundle.open(first).identity
    assert open_bundle(pushed.url).identity.digest == pushed.digest
    assert Bundle.broken(locate(f"{shop}@1.0")[0]) == []
    assert locate(f"{shop}@prod")[0] == pushed.url


def test_an_unsigned_pull_removes_nothing_beside_a_new_copy(
    shop: str, first: Path, tmp_path: Path
) -> None:
    push(str(first), shop)
    beside = tmp_path / "copy.zarr.sig"
    beside.write_text("of another copy")
    pull(shop, tmp_path / "copy.zarr")
    assert beside.read_text() == "of another copy"
    beside.unlink()
    beside.mkdir()
    pull(shop, tmp_path / "copy.zarr", force=True)
    assert beside.is_dir()


def test_zips_can_be_pushed_and_pulled(shop: str, first: Path, tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "first.zarr.zip")
    push(str(tmp_path / "first.zarr.zip"), shop)
    pull(shop, tmp_path / "out.zarr.zip")
    assert (tmp_path / "out.zarr.zip").read_bytes() == (tmp_path / "first.zarr.zip").read_bytes()
    assert not push(str(first), shop).new


def test_the_same_bundle_again_changes_nothing(shop: str, first: Path, tmp_path: Path) -> None:
    push(str(first), shop)
    before = everything(shop)
    again = push(str(first), shop)
    assert (again.new, again.sent) == (False, 0)
    rebuilt = small_bundle()
    other_day = replace(rebuilt.manifest, created="another day")
    Bundle(other_day, rebuilt.arrays).save(tmp_path / "rebuilt.zarr")
    assert not push(str(tmp_path / "rebuilt.zarr"), shop).new
    assert everything(shop) == before


def test_a_published_version_keeps_its_license(first: Path, tmp_path: Path) -> None:
    shop = str(tmp_path / "registry/shop")
    push(str(first), shop, license="MIT")
    with pytest.raises(RefusedError, match=r"1\.0 is published with license MIT, not with BSD"):
        push(str(first), shop, license="BSD")
    for license in (None, "MIT"):
        assert not push(str(first), shop, license=license).new


@pytest.mark.parametrize("before", [None, "shop/events"])
def test_a_published_version_keeps_its_data_set(
    first: Path, tmp_path: Path, before: str | None
) -> None:
    shop = str(tmp_path / "registry/shop")
    push(str(first), shop, dataset=before)
    for function in (push, plan_push):
        with pytest.raises(RefusedError, match=r"1\.0 .* does not name the data set shop/other"):
            function(str(first), shop, dataset="shop/other")
    for dataset in (None, before):
        assert not push(str(first), shop, dataset=dataset).new


@in_every_store
def test_the_same_bundle_again_repairs_what_the_store_damaged(shop: str, first: Path) -> None:
    stored = Storage(push(str(first), shop).url)
    before = everything(shop)
    stored.put({ROOT: b"{}", next(name for name in stored.names() if name != ROOT): b"damaged"})
    repaired = push(str(first), shop)
    assert (repaired.new, repaired.sent) == (False, 2)
    assert everything(shop) == before


def test_a_version_is_never_replaced_by_another_bundle(
    shop: str, first: Path, tmp_path: Path
) -> None:
    push(str(first), shop)
    before = everything(shop)
    with pytest.raises(RefusedError, match=r"already has version 1\.0 with digest") as error:
        push(str(version(tmp_path / "other.zarr", "1.0")), shop)
    assert "@VERSION), which gives it a free number" in str(error.value.hint)
    assert everything(shop) == before


def test_the_latest_version_is_the_highest(shop: str, tmp_path: Path) -> None:
    for at, number in enumerate(("1.10", "1.9", "0.3")):
        path = version(tmp_path / f"{number}.zarr", number, seed=at)
        assert push(str(path), shop, tag=f"t{at}").latest == "1.10"
    names = [("1.10", "latest", "t0"), ("1.9", "t1"), ("0.3", "t2")]
    assert list(published_names(shop).values()) == names
    assert tag(f"{shop}@t2", "t0").version == "0.3"
    assert open_bundle(f"{shop}@t0").manifest.version == "0.3"
    assert open_bundle(shop).manifest.version == "1.10"


def test_a_reverted_change_is_a_version(shop: str, tmp_path: Path) -> None:
    for number in ("1.0", "1.1"):
        push(str(version(tmp_path / f"{number}.zarr", number)), shop)
    assert list(published_names(shop).values()) == [("1.1", "latest"), ("1.0",)]


# Interruptions


def stop_writing(patch: pytest.MonkeyPatch, after: int) -> None:
    """Let the next writes to any store succeed, and raise at the one after them."""
    left = iter(range(after))

    def killing(method: Callable[..., object]) -> Callable[..., object]:
        def write(self: Storage, *arguments: object) -> object:
            if arguments[0] and next(left, None) is None:
                raise KeyboardInterrupt
            return method(self, *arguments)

        return write

    patch.setattr(Storage, "put", killing(Storage.put))
    patch.setattr(Storage, "put_pieces", killing(Storage.put_pieces))
    patch.setattr(Storage, "put_if_unchanged", killing(Storage.put_if_unchanged))


def killed_pushes(
    source: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, int]]:
    """Kill a push at each of its writes, and repeat it -> the number of versions that are visible
    in between, and of the objects that the second push sends."""
    for after in itertools.count():
        shop = f"{place}-{after}"
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            stop_writing(patch, after)
            push(str(source), shop)
            return
        visible = list_records(Storage(shop))
        if visible:
            assert broken_parts(locate(f"{shop}@1.0")[0]) == []
        else:
            with pytest.raises(DataError, match="nothing was pushed"):
                find_version(f"{shop}@1.0")
        again = push(str(source), shop)
        assert (again.latest, broken_parts(locate(shop)[0])) == ("1.0", [])
        yield len(visible), again.sent


def test_a_push_can_be_killed_between_any_two_writes(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH", 8)
    first = tmp_path / "first.zarr"
    small_bundle(codebook=False).save(first)  # fewer objects
    objects = len(tree(first))
    visible, sent = zip(*killed_pushes(first, shop, monkeypatch), strict=True)
    batches = -(-(objects - 1) // 8)
    # no write, each batch, zarr.json and the card: nothing is visible. After the record the version
    # is, whole.
    assert visible == (*[0] * (batches + 3), 1)
    left = [objects - min(8 * done, objects - 1) for done in range(batches + 1)]
    assert sent == (*left, 0, 0, 0)


def test_a_push_killed_within_a_write_leaves_no_partial_object(first: Path, tmp_path: Path) -> None:
    shop, mirror = str(tmp_path / "shop"), str(tmp_path / "mirror")
    program = (
        "import itertools, os, signal\nfrom pathlib import Path\nfrom sidtool import push\n"
        "left, replace = itertools.count(), Path.replace\n"
        "def die(path, target):\n    if next(left) == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return replace(path, target)\n"
        f"Path.replace = die\npush({str(first)!r}, {shop!r})"
    )
    assert subprocess.call([sys.executable, "-c", program]) == -signal.SIGKILL
    assert list(Path(shop).rglob("*.partial")) != []
    push(str(first), shop)
    assert Bundle.broken(locate(shop)[0]) == []
    assert push(shop, mirror).new


def test_an_interrupted_pull_continues(
    shop: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH", 4)
    push(str(first), shop)
    out, fetched = tmp_path / "out.zarr", list[str]()

    def die(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(shop, out, progress=die)
    assert not out.exists()
    left = sorted(tree(tmp_path / "out.zarr.partial"))
    (tmp_path / "out.zarr.partial" / left[0]).write_bytes(b"cut off")
    (tmp_path / "out.zarr.partial" / "stranger").write_bytes(b"of another version")
    (tmp_path / "out.zarr.partial" / "checkpoint-1" / "empty").mkdir(parents=True)
    (tmp_path / "out.zarr.partial" / "checkpoint-1" / "state").write_bytes(b"of another command")
    read_ranges = Storage.read_ranges

    def recorded(self: Storage, ranges: list[Range]) -> list[bytes]:
        if self.location.startswith(shop):
            fetched.extend(name for name, _, _ in ranges)
        return read_ranges(self, ranges)

    monkeypatch.setattr(Storage, "read_ranges", recorded)
    pull(shop, out)
    assert tree(out) == tree(first)
    folders = {path.relative_to(out) for path in out.rglob("*") if path.is_dir()}
    assert folders == {path.relative_to(first) for path in first.rglob("*") if path.is_dir()}
    assert set(fetched) == tree(first).keys() - {ROOT} - set(left[1:])


def test_glob_characters_in_a_path_are_literal(first: Path, tmp_path: Path) -> None:
    shop = str(tmp_path / "reg[1]" / "shop?")
    push(str(first), shop)
    pull(shop, tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == tree(first)


# Races


@in_every_store
def test_of_two_pushes_of_one_version_one_wins(
    shop: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = version(tmp_path / "second.zarr", "1.0")
    start, put_if_unchanged = Start(2), Storage.put_if_unchanged

    def at_once(self: Storage, name: str, *arguments: object) -> bool:
        if name.startswith(VERSIONS):
            start.wait()
        return put_if_unchanged(self, name, *arguments)

    monkeypatch.setattr(Storage, "put_if_unchanged", at_once)
    works = (lambda: push(str(first), shop), lambda: push(str(second), shop))
    results = run_concurrently(*works, start=start)
    (winner,) = [result for result in results if isinstance(result, Pushed)]
    (loser,) = [result for result in results if isinstance(result, RefusedError)]
    assert winner.new
    assert "already has version 1.0" in str(loser)
    assert Bundle.broken(locate(shop)[0]) == []
    assert open_bundle(f"{shop}@1.0").identity.digest == winner.digest


def test_an_object_stays_complete_while_it_is_replaced(tmp_path: Path) -> None:
    place, data = Storage(str(tmp_path / "shop")), bytes(3_000_000)
    place.put({"object": data})
    writer = threading.Thread(target=lambda: [place.put({"object": data}) for _ in range(60)])
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add((tmp_path / "shop/object").stat().st_size)
    writer.join()
    assert seen == {len(data)}
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["object"]


@in_every_store
def test_versions_without_a_pointer_are_named(shop: str, first: Path) -> None:
    push(str(first), shop)
    registry = Storage(shop)
    registry._filesystem.rm(registry._path(POINTER))
    with pytest.raises(DataError, match=r"has no 'latest': it has 1\.0"):
        locate(shop)


@in_every_store
def test_no_tag_is_lost_in_a_race(shop: str, first: Path) -> None:
    push(str(first), shop)
    names = [f"t{at}" for at in range(6)]
    start = Start(len(names))
    works = (lambda name=name: start.wait() or tag(f"{shop}@1.0", name) for name in names)
    run_concurrently(*works, start=start)
    assert read_pointer(Storage(shop)).tags == dict.fromkeys(names, "1.0")


# Damage


def test_an_object_stored_incompletely_stops_the_push(
    shop: str, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Storage.put

    def damage(self: Storage, objects: dict[str, bytes]) -> None:
        damaged = {name: objects[name][:-1] + b"?" for name in objects if name.endswith("c/0")}
        put(self, objects | damaged)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", damage)
        with pytest.raises(IntegrityError, match="did not arrive as it was sent"):
            push(str(first), shop)
    assert list_records(Storage(shop)) == []
    push(str(first), shop)
    assert Bundle.broken(locate(shop)[0]) == []


@pytest.mark.parametrize("large", [transfer.BATCH_BYTES, 1])
@pytest.mark.parametrize(
    ("name", "data"), [("items/sid/c/0/0", None), ("items/sid/c/0/0", b"other"), (ROOT, b"other")]
)
def test_a_source_that_changes_during_a_push_stops_it(
    first: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    data: bytes | None,
    large: int,
) -> None:
    monkeypatch.setattr(transfer, "BATCH_BYTES", large)
    plan = plan_push(str(first), str(tmp_path / "shop"))
    (first / name).unlink()
    if data is not None:
        (first / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="changed during the push"):
        transfer.upload(plan.source, Storage(tmp_path / "shop"), plan.record, None)


def test_what_cannot_be_copied_is_named(first: Path, tmp_path: Path) -> None:
    plan = plan_push(str(first), str(tmp_path / "shop"))
    copy = (plan.source.storage, first / ROOT, {ROOT: 1}, plan.source.manifest)
    with pytest.raises(DataError, match=r"zarr\.json/zarr\.json cannot be written: File exists"):
        transfer._copy(*copy)
    with pytest.raises(IntegrityError, match="lacks the object"):
        transfer._copy(Storage(tmp_path), *copy[1:])
    pushed = push(str(first), str(tmp_path / "shop"))
    Path(pushed.url, "items/sid/c/0/0").unlink()
    with pytest.raises(IntegrityError, match="lacks the object items/sid/c/0/0"):
        pull(str(tmp_path / "shop"), tmp_path / "out.zarr")


def test_an_object_changed_in_a_store_is_not_pulled(shop: str, first: Path, tmp_path: Path) -> None:
    pushed = push(str(first), shop)
    place, whole = Storage(pushed.url), dict(tree(first))
    for name in (ROOT, "items/sid/c/0/0", "codebook/zarr.json"):
        place.put({name: whole[name][:-2] + b"?" + whole[name][-1:]})
        for out in (tmp_path / "out.zarr", tmp_path / "out.zarr.zip"):
            with pytest.raises(IntegrityError, match=f"{name} differs from the published one"):
                pull(shop, out)
            assert not out.exists()
            assert not list(tmp_path.glob(f"out.zarr*/{name}"))
        place.put({name: whole[name]})
        remove(tmp_path / "out.zarr.partial")  # complete objects are not fetched again
    pull(shop, tmp_path / "out.zarr")
    assert tree(tmp_path / "out.zarr") == whole


def test_what_its_publisher_did_not_check_is_not_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = draft()
    reverse_rows(made)
    made.reindex()
    made.identify()
    path = made.write(tmp_path / "first.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "broken_parts", lambda _: [])
        push(str(path), str(tmp_path / "shop"))
    with pytest.raises(IntegrityError, match="items/sid: rows are not in lexicographic SID order"):
        pull(str(tmp_path / "shop"), tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_damaged_bundle_is_not_pushed(shop: str, first: Path) -> None:
    (first / "items/sid/c/0/0").write_bytes(b"")
    with pytest.raises(IntegrityError, match="items/sid"):
        push(str(first), shop)
    assert everything(shop) == {}


# References


def test_a_missing_version_is_reported(shop: str, first: Path, tmp_path: Path) -> None:
    for which in ("", "@1.0", "@prod"):
        with pytest.raises(DataError, match="nothing was pushed to"):
            pull(shop + which, tmp_path / "out.zarr")
    with pytest.raises(DataError, match="no bundle at"):
        open_bundle(shop)
    push(str(first), shop, tag="prod")
    for which in ("1.1", "dev", "1.0-", "../1.0"):
        with pytest.raises(DataError, match=r"has no .*: it has 1\.0, prod"):
            open_bundle(f"{shop}@{which.replace('/', '')}")


def test_invalid_targets_and_tags_are_refused(shop: str, first: Path) -> None:
    for suffix, why in (("@1.0", "names a version"), (".zarr", "has the name of a bundle")):
        with pytest.raises(UsageError, match=why):
            push(str(first), shop + suffix)
    for name in ("latest", "1.0", "", "a/b", "-x"):
        with pytest.raises(UsageError, match="is not a valid tag"):
            push(str(first), shop, tag=name)
    with pytest.raises(UsageError, match="names no version"):
        tag(shop, "prod")
    for reference in (f"{shop}@", "@1.0"):
        with pytest.raises(UsageError, match="names no published version"):
            split_reference(reference)
    assert everything(shop) == {}


def test_references_are_paths_too(first: Path, tmp_path: Path) -> None:
    push(first, tmp_path / "shop")
    assert tag(tmp_path / "shop@1.0", "prod").version == "1.0"
    assert log(tmp_path / "shop@prod").versions[0].published == ("1.0", "latest", "prod")


def test_a_bundle_is_not_a_registry(first: Path) -> None:
    bare = first.rename(first.with_name("first"))
    with pytest.raises(UsageError, match="is a Zarr group"):
        push(str(bare), str(bare))


def test_a_folder_of_registries_is_not_a_registry(shop: str, first: Path) -> None:
    push(str(first), shop)
    parent = shop.rpartition("/")[0]
    before = everything(parent)
    with pytest.raises(UsageError, match="contains the registry shop"):
        push(str(first), parent)
    assert everything(parent) == before
    assert push(str(first), f"{parent}/other").new
    assert not push(str(first), shop).new


def test_a_folder_of_other_things_becomes_a_registry(shop: str, first: Path) -> None:
    Storage(shop).put({"notes/refs.txt": b"of somebody", "notes.txt": b"of somebody"})
    assert push(str(first), shop).new
    Storage(f"{shop}/notes").put({POINTER: b"{}"})  # what is a registry already stays one
    assert not push(str(first), shop).new


@pytest.mark.parametrize("spelling", ["{}", "file://{}", "local://{}"])
def test_a_push_into_a_bundle_or_a_registry_is_refused(
    first: Path, tmp_path: Path, spelling: str
) -> None:
    push(str(first), spelling.format(tmp_path / "shop"))
    before = tree(tmp_path)
    for folder in (first, tmp_path / "shop"):
        with pytest.raises(UsageError, match="is inside of the"):
            push(str(first), spelling.format(folder / "x"))
    assert tree(tmp_path) == before


def test_a_name_with_an_at_sign_is_a_path_first(first: Path, tmp_path: Path) -> None:
    path = first.rename(tmp_path / "shop@home.zarr")
    assert open_bundle(path).identity == small_bundle().identity


def card(shop: str) -> str:
    _, record = find_version(shop)
    return (Storage(shop).folder(record.folder).read(CARD) or b"").decode()


def test_the_code_on_the_card_loads_the_bundle(
    shop: str, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push(str(first), shop)
    text = card(shop)
    assert "license: unknown" in text
    assert pushed.digest in text
    assert "| quantizer.method | rq-kmeans |" in text
    assert "built with 40 items" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    variables: dict[str, object] = {}
    if "://" not in shop:  # a registry on this machine is named without its path
        monkeypatch.chdir(Path(shop).parent)
    exec(code, variables)
    assert variables["bundle"].identity.digest == pushed.digest
    assert not any("README" in name for name in Storage(pushed.url).listing())
    # one whose first item is retired, too
    bundle = Bundle.open(first)
    add_items(bundle, remove=[bundle.items.ids[0]]).save(tmp_path / "fewer.zarr")
    push(str(tmp_path / "fewer.zarr"), shop)
    (code,) = re.findall(r"```python\n(.*?)```", card(shop), flags=re.DOTALL)
    exec(code, variables)
    assert variables["bundle"].manifest.version == "1.1"


def test_the_card_contains_license_and_parents(shop: str, tmp_path: Path) -> None:
    grown = add_items(small_bundle(name="a | b\nc"), remove=["i3"])
    grown.save(tmp_path / "grown.zarr")
    push(str(tmp_path / "grown.zarr"), shop, license="CC-BY-4.0")
    text = card(shop)
    assert "license: CC-BY-4.0" in text
    assert text.partition("---\n\n")[2].splitlines()[0] == "# a \\| b c 1.1"
    assert text.index("| 1.1 |") < text.index("| 1.0 |")
    assert "1 retired" in text


def test_the_card_of_a_version_names_its_data_set(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    done("push", tmp_path / "shop.zarr", tmp_path / "shop", "--dataset", "org/sales")
    (card,) = (tmp_path / "shop").glob("versions/*/README.md")
    text = card.read_text()
    front, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["datasets"] == ["org/sales"]
    assert body.strip()
