from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, SidtoolError, SidtoolWarning, UsageError
from sidtool.data import make_items
from sidtool.memory import build_memory, verify_memory
from sidtool.model import bind_memory, check_model_folder, load_model_folder, outlook, rebind
from sidtool.model.contract import MEMORY_COPY, MemoryBinding
from sidtool.tokenizer import add_items
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.make.align import align
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import renamed
from tests.cli.road import tree
from tests.memory.cases import split_of
from tests.model.cases import DIM, distinct_codes, make_bundle, make_codebook

IDS = [f"item{n}" for n in range(20)]
OTHER_CODES = distinct_codes(20, seed=1)


def grown(bundle: Bundle, ids: Sequence[str] = ("new0", "new1")) -> Bundle:
    items = make_items(tuple(ids), tuple(ids), tuple(ids), fields={}, template="{title}")
    vectors = np.random.default_rng(2).normal(size=(len(ids), DIM)).astype(np.float32)
    return add_items(bundle, items, vectors)


def retrained(seed: int = 5) -> Bundle:
    return make_bundle(IDS, OTHER_CODES, codebook=make_codebook(seed), name="retrained")


def test_a_model_is_bound_to_a_child_bundle(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    child = add_items(grown(grown(bundle), ["new2"]), remove=["item3", "new0"])
    child.save(tmp_path / "child.zarr")
    stored = Bundle.open(tmp_path / "child.zarr")
    served = load_model_folder(made, bundle=stored)
    assert served.bundle is stored
    assert served.verdict.kind == "refreshed"
    assert "20 items kept their SID, 2 were added, 1 removed" in served.verdict.message
    assert outlook(bundle, stored).kind == "works"
    verdict = rebind(made, stored, tmp_path / "bound")
    assert verdict == served.verdict
    bound = load_model_folder(tmp_path / "bound")
    assert (bound.verdict.kind, bound.bundle.identity) == ("same", child.identity)
    assert bound.contract.params.previous_bundle == bundle.identity.digest
    assert [record.stage for record in bound.contract.stages] == ["extend", "rebind"]
    before, after = tree(made), tree(tmp_path / "bound")
    assert before.keys() == after.keys()
    written = {"README.md", "config.json", "sid.json"}
    copied_files = {name for name in before if not name.startswith("sid.zarr/")} - written
    assert all(before[name] == after[name] for name in copied_files)


@pytest.mark.parametrize(
    ("linked", "problem"),
    [
        ("..", "more/x is a link to a folder"),
        ("/dev/zero", "more/x is not a regular file"),
        ("../../mine.txt", "more/x is a link to .*mine.txt, outside of the model's folder"),
    ],
)
def test_nothing_outside_of_the_folder_is_copied(
    made: Path, bundle: Bundle, tmp_path: Path, linked: str, problem: str
) -> None:
    (made.parent / "mine.txt").write_text("mine")
    (made / "more").mkdir()
    (made / "more/x").symlink_to(linked)
    with pytest.raises(SidtoolError, match=problem):
        rebind(made, grown(bundle), tmp_path / "bound")
    assert not (tmp_path / "bound").exists()


def test_a_retrained_bundle_works_after_align(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    new = retrained()
    assert outlook(bundle, new).kind == "works after align"
    with pytest.raises(CompatibilityError, match="the model was made for codebook"):
        rebind(made, new, tmp_path / "bound")
    aligned = align(new, bundle)
    change = aligned.manifest.change
    assert outlook(bundle, aligned).kind == "works"
    with pytest.warns(SidtoolWarning, match="is aligned with the model's"):
        verdict = rebind(made, aligned, tmp_path / "bound")
    share = 1 - change.after[-1] / change.common
    assert (verdict.kind, verdict.reassigned_share) == ("aligned", share)
    assert check_model_folder(tmp_path / "bound", grown(aligned))[2].kind == "refreshed"
    with pytest.warns(SidtoolWarning, match="is aligned"):  # what grew from it is aligned, too
        assert check_model_folder(made, grown(aligned))[2].kind == "aligned"


def test_align_gives_a_bundle_the_token_spelling_of_the_model(bundle: Bundle) -> None:
    space = SidSpace(bundle.space.sizes, begin=None, end=None)
    bare = make_bundle(IDS, OTHER_CODES, codebook=make_codebook(5), space=space)
    assert outlook(bundle, bare).kind == "works after align"
    assert outlook(bundle, align(bare, bundle)).kind == "works"


def test_a_bundle_that_cannot_be_aligned_requires_training(bundle: Bundle) -> None:
    space = SidSpace((8, 4, 7))
    codebook = make_codebook(sizes=space.sizes)
    wider = make_bundle(IDS, distinct_codes(20, sizes=space.sizes), codebook=codebook, space=space)
    bare = make_bundle(IDS, OTHER_CODES, codebook=None)
    strangers = make_bundle([f"x{n}" for n in range(20)], OTHER_CODES, codebook=make_codebook(5))
    moved = ItemMap.of(bundle.space, IDS, OTHER_CODES)
    shuffled = Bundle.of(moved, bundle.codebook, "reassign", name="moved", recipe=None)
    for new in (wider, bare, strangers, shuffled):
        result = outlook(bundle, new)
        assert (result.kind, bool(result.message)) == ("retrain", True)
    assert outlook(bundle, renamed(bundle, "other")).kind == "works"


def test_a_refused_rebind_writes_nothing(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    there = tree(tmp_path)
    with pytest.raises(CompatibilityError):
        rebind(made, retrained(), tmp_path / "bound")
    with pytest.raises(UsageError, match="exists already"):
        rebind(made, grown(bundle), made)
    assert tree(tmp_path) == there
    rebind(made, grown(bundle), made, force=True)  # a model may be rebound in its own place
    assert check_model_folder(made)[1].identity == grown(bundle).identity


def test_a_memory_must_fit_the_bundle(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    child = grown(bundle)
    rebind(made, child, tmp_path / "child")
    memory = build_memory(split_of([IDS[start : start + 5] for start in range(10)]), child)
    binding = MemoryBinding(memory.digest, 0.4, 3.0, {})
    bind_memory(tmp_path / "child", memory, binding, tmp_path / "mixed")
    rebind(tmp_path / "mixed", grown(child, ["new2"]), tmp_path / "newer")
    assert verify_memory(tmp_path / "newer" / MEMORY_COPY) == []
    for dry_run in (True, False):
        with pytest.raises(CompatibilityError, match="memory") as caught:
            rebind(tmp_path / "mixed", bundle, tmp_path / "older", dry_run=dry_run)
        assert "sidtool refresh leaves the memory out" in str(caught.value.shell_hint)
    assert not (tmp_path / "older").exists()


def test_checkpoints_are_not_copied(made: Path, bundle: Bundle, tmp_path: Path) -> None:
    (made / "checkpoint-3").mkdir()
    (made / "checkpoint-3" / "sid.json").write_text("{}")
    rebind(made, grown(bundle), tmp_path / "bound")
    assert not (tmp_path / "bound" / "checkpoint-3").exists()
