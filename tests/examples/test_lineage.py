import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import fsspec
import pytest

from sidtool.base.digests import file_digest
from sidtool.base.errors import CompatibilityError, DataError, RefusedError
from sidtool.data.split.split import Split
from sidtool.examples.lineage import read_lineage
from sidtool.examples.parts import EMPTY, VALID, validation_users
from tests.sealed import reseal
from tests.training_fixtures import make_split


@pytest.fixture
def made(tmp_path: Path, examples: Callable[..., Path]) -> Path:
    """A copy of training examples with what is beside them."""
    copytree(examples(sequence=1.0).parent, tmp_path / "sft")
    return tmp_path / "sft" / "train.jsonl"


def test_validation_users_that_were_changed_are_refused(made: Path) -> None:
    lineage = read_lineage(made)
    valid = made.with_name("valid.jsonl")
    valid.write_text(valid.read_text().replace("u1", "u2", 1))
    with pytest.raises(DataError, match=r"the validation users of train\.jsonl, was changed"):
        validation_users(made, lineage)
    valid.unlink()
    with pytest.raises(DataError, match="is missing"):
        validation_users(made, lineage)


def test_copies_of_validation_users_last_beside_those_of_other_examples(made: Path) -> None:
    """The stages of a training are planned before the first one begins."""
    copies = []
    for name in ("first", "second"):
        data = f"{name}\n".encode()
        fsspec.filesystem("memory").pipe_file(f"/{name}/part-0001/{VALID}", data)
        digest = hashlib.sha256(data).hexdigest()
        files = {f"part-0000/{VALID}": EMPTY, f"part-0001/{VALID}": digest}
        lineage = replace(read_lineage(made), parts=({"part-0000/a": 1},), files=files)
        copies.append(validation_users(Path(f"memory://{name}"), lineage))
    assert [copy.read_text() for copy in copies] == ["first\n", "second\n"]
    fsspec.filesystem("memory").pipe_file(f"/third/part-0001/{VALID}", b"first\n")
    for name, problem in (("third", "was changed"), ("fourth", "is missing")):
        with pytest.raises(DataError, match=problem):
            validation_users(Path(f"memory://{name}"), lineage)


@pytest.mark.parametrize("leaked", [5, -1])
def test_examples_that_record_a_leak_are_refused(made: Path, leaked: int) -> None:
    path = made.with_name("train.jsonl.meta.json")
    reseal(path, {"leaked_events": leaked})
    with pytest.raises(RefusedError, match=f"{leaked} held-out events are in train.jsonl, not 0"):
        read_lineage(made)


@pytest.mark.parametrize("other", [0, 2, "1", None])
def test_a_lineage_of_another_format_is_refused(made: Path, other: object) -> None:
    reseal(made.with_name("train.jsonl.meta.json"), {"format": other})
    with pytest.raises(DataError, match="is no lineage of format 1"):
        read_lineage(made)


def test_examples_of_another_split_are_refused(made: Path, split: Split) -> None:
    lineage = read_lineage(made)
    assert lineage.digest_of(made) == file_digest(made)
    lineage.check_split(split)
    with pytest.raises(CompatibilityError, match="the training examples were made from"):
        lineage.check_split(make_split(seed=1))
