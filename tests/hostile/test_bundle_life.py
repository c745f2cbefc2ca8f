"""The life of a bundle in random order: build, add, retire, restore, align, push, pull, tag, crash
and damage. After every step no published SID has moved or is used again, nothing is half visible,
the identity follows the values, the lineage is a chain, and latest is the highest version."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidtool.base.errors import DataError, IntegrityError, RefusedError
from sidtool.base.records import version_key
from sidtool.base.storage import Storage
from sidtool.data import Vectors
from sidtool.registry import open_bundle, pull, push, read_pointer, tag
from sidtool.registry.records import list_records
from sidtool.tokenizer import BuildOptions, add_items, align, build_codebook
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.make.add import unknown
from tests.hostile.crash import dies_at
from tests.hostile.harness import cases, count
from tests.test_format import identity_of, read_bundle
from tests.tokenizer.make.test_add import listed

IDS = [f"item{n}" for n in range(14)]
SIZES = (3, 3, 3)
TAGS = ("prod", "blue")

some_ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True)
moments = st.integers(1, 100)
"""Events of the file system until a crash."""


def vectors_of(ids: Sequence[str], seed: int = 0) -> Vectors:
    """(n, 4) float32; items with even numbers are similar, so that their SIDs collide."""
    rows = []
    for item in ids:
        number = int(item.removeprefix("item"))
        rng = np.random.default_rng((seed, number))
        rows.append(rng.normal(size=4) * (0.01 if number % 2 == 0 else 1.0))
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def sids_of(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    """The codes of each item, retired ones included."""
    items = bundle.items
    return dict(zip(items.ids, map(tuple, items.codes.tolist()), strict=True))


class BundleLife(RuleBasedStateMachine):
    """What must hold is remembered here, by dictionaries, and compared with what is stored."""

    @initialize(ids=st.lists(st.sampled_from(IDS), min_size=3, max_size=8, unique=True))
    def build(self, ids: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.shop = self.folder / "shop"
        self.n_files = 0
        self.published: dict[str, str] = {}
        """version -> digest"""
        self.published_chains: dict[str, list[str]] = {}
        """version -> digests of its lineage, itself included"""
        self.tags: dict[str, str] = {}
        self.path = self.new_path()
        self.bundle = self.built(ids, self.path, seed=0)
        self.chain = [self.bundle.identity.digest]

    def built(self, ids: list[str], path: Path, seed: int) -> Bundle:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = BuildOptions(sizes=SIZES, seed=seed)
            return build_codebook(listed(ids), path, options, embeddings=[vectors_of(ids, seed)])

    def new_path(self) -> Path:
        self.n_files += 1
        return self.folder / f"{self.n_files}.zarr"

    # Changes

    @rule(ids=some_ids)
    def add(self, ids: list[str]) -> None:
        new = [ids[position] for position in unknown(self.bundle, ids)]
        self.change(lambda: add_items(self.bundle, listed(ids), vectors_of(new)))

    @rule(ids=some_ids)
    def retire(self, ids: list[str]) -> None:
        present = [item for item in ids if item in self.bundle.items.ids]
        self.change(lambda: add_items(self.bundle, remove=present))

    @rule(seed=st.integers(1, 3))
    def realign(self, seed: int) -> None:
        ids = list(self.bundle.items.ids)
        rebuilt = self.built(ids, self.new_path(), seed)
        old = self.bundle
        self.save(align(rebuilt, old))
        assert old.identity.codebook in self.bundle.manifest.compatible_with

    def change(self, work: Callable[[], Bundle]) -> None:
        """Save what a function makes of the bundle: no SID moves, and none is used again."""
        before = sids_of(self.bundle)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                changed = work()
            except (RefusedError, DataError):
                count(refused=True)
                return
        if changed is self.bundle:
            return
        self.save(changed)
        after = sids_of(self.bundle)
        assert {item: after[item] for item in before} == before, "a published SID moved"
        assert len(set(after.values())) == len(after), "a SID is used twice"

    def save(self, changed: Bundle) -> None:
        path = self.new_path()
        changed.save(path)
        self.path, self.bundle = path, Bundle.open(path)
        self.chain = [*self.chain, self.bundle.identity.digest]
        count(refused=False)

    # The registry

    @rule(name=st.sampled_from((None, *TAGS)))
    def push(self, name: str | None) -> None:
        self.publish(name)

    def publish(self, name: str | None = None, *, after_crash: bool = False) -> None:
        version, digest = self.bundle.manifest.version, self.bundle.identity.digest
        other = self.published.get(version, digest) != digest
        try:
            pushed = push(str(self.path), str(self.shop), tag=name)
        except RefusedError:
            assert other, "the version is free"
            count(refused=True)
            return
        assert not other, "a published version was replaced"
        assert pushed.new == (version not in self.published) or after_crash
        if version not in self.published:
            self.published[version] = digest
            self.published_chains[version] = self.chain
        if name is not None:
            self.tags[name] = version
        count(refused=False)

    @rule(data=st.data())
    def pull(self, data: st.DataObject) -> None:
        """Go on from any published version, which may be an old one."""
        if not self.published:
            return
        version = data.draw(st.sampled_from(sorted(self.published)))
        path = self.new_path()
        pull(f"{self.shop}@{version}", path)
        self.path, self.bundle = path, Bundle.open(path)
        self.chain = self.published_chains[version]
        assert self.bundle.identity.digest == self.published[version]
        assert Bundle.broken(path) == []
        count(refused=False)

    @rule(data=st.data(), name=st.sampled_from(TAGS))
    def tag(self, data: st.DataObject, name: str) -> None:
        if self.published:
            version = data.draw(st.sampled_from(sorted(self.published)))
            tag(f"{self.shop}@{version}", name)
            self.tags[name] = version
            count(refused=False)

    # Crashes and damage

    @rule(moment=moments)
    def crash_of_a_push(self, moment: int) -> None:
        died = dies_at(moment, self.folder, lambda: push(str(self.path), str(self.shop)))
        for record in list_records(Storage(self.shop)) if self.shop.exists() else []:
            assert Bundle.broken(self.shop / record.group) == [], "half a version is visible"
        self.publish(after_crash=True)  # the same push goes on, whether or not it died
        count(refused=died)

    @rule(moment=moments)
    def crash_of_a_save(self, moment: int) -> None:
        path = self.new_path()
        died = dies_at(moment, self.folder, lambda: self.bundle.save(path))
        if path.exists():
            assert Bundle.broken(path) == [], "half a bundle is visible"
        self.bundle.save(path, force=True)
        assert Bundle.open(path).identity == self.bundle.identity
        count(refused=died)

    @rule(moment=moments)
    def crash_of_a_pull(self, moment: int) -> None:
        if not self.published:
            return
        path = self.new_path()
        died = dies_at(moment, self.folder, lambda: pull(str(self.shop), path))
        if path.exists():
            assert Bundle.broken(path) == [], "half a bundle is visible"
        pull(str(self.shop), path, force=True)
        latest = max(self.published, key=version_key)
        assert Bundle.open(path).identity.digest == self.published[latest]
        count(refused=died)

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """One flipped bit in any file is found."""
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from([file for file in files if file.stat().st_size]))
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert Bundle.broken(self.path) != []
        with pytest.raises(IntegrityError):
            push(str(self.path), str(self.folder / "other"))
        path.write_bytes(whole)
        assert Bundle.broken(self.path) == []
        count(refused=True)

    # What always holds

    @invariant()
    def the_identity_follows_the_values(self) -> None:
        manifest, arrays = read_bundle(self.path)
        assert identity_of(manifest, arrays) == manifest["identity"]
        assert manifest["identity"]["digest"] == self.bundle.identity.digest

    @invariant()
    def the_lineage_is_a_chain(self) -> None:
        manifest = self.bundle.manifest
        digests = [version.digest for version in manifest.history]
        assert digests == self.chain
        assert manifest.parent == (digests[-2] if len(digests) > 1 else None)
        numbers = [version_key(version.version) for version in manifest.history]
        assert numbers == sorted(set(numbers))

    @invariant()
    def the_registry_has_what_was_published(self) -> None:
        if not self.published:
            return
        registry = Storage(self.shop)
        records = {record.version: record.digest for record in list_records(registry)}
        assert records == self.published
        pointer = read_pointer(registry)
        assert (pointer.latest, pointer.tags) == (max(self.published, key=version_key), self.tags)
        assert open_bundle(str(self.shop)).manifest.version == pointer.latest

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


TestBundleLife = BundleLife.TestCase
TestBundleLife.settings = settings(cases(6, most=4000), stateful_step_count=20)
