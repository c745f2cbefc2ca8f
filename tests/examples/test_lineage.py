"""The files beside training examples, and what is combined with them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from sidtool.base.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.data.split.files import write_split
from sidtool.data.split.split import Split, SplitOrigin
from sidtool.examples.lineage import check_same_split, read_lineage, validation_users
from tests.data.split.lines import of_lines, write_lines
from tests.sealed import reseal
from tests.training_fixtures import bundle, catalog, examples, make_split, split

__all__ = ["bundle", "catalog", "examples", "split"]


@pytest.fixture
def made(tmp_path: Path, examples: Callable[..., Path]) -> Path:
    """A copy of training examples with what is beside them."""
    copytree(examples(sequence=1.0).parent, tmp_path / "sft")
    return tmp_path / "sft" / "train.jsonl"


def test_validation_users_are_those_beside_the_examples_or_the_given_ones(
    tmp_path: Path, made: Path, split: Split
) -> None:
    lineage = read_lineage(made)
    assert validation_users(None, made, lineage) == made.with_name("valid.jsonl")
    write_lines(split, tmp_path / "split")
    lineage = replace(lineage, split=of_lines(split).reference)
    valid = tmp_path / "split" / "valid.jsonl"
    assert validation_users(valid, made, lineage) == valid


def test_validation_users_of_a_later_split_are_refused(
    tmp_path: Path, made: Path, split: Split
) -> None:
    """Their events may be the test events of the examples' split."""
    moved = replace(split, valid=split.test, test=split.valid)
    valid = tmp_path / "split" / "valid.jsonl"
    for later in (moved, replace(moved, origin=SplitOrigin(extends=(split.reference.digest,)))):
        write_lines(later, tmp_path / "split")
        with pytest.raises(CompatibilityError, match="may have learned from held-out events"):
            validation_users(valid, made, read_lineage(made))
    lineage = read_lineage(made)
    extending = replace(lineage.split, extends=(of_lines(moved).reference.digest,))
    assert validation_users(valid, made, replace(lineage, split=extending)) == valid


def test_validation_users_that_were_changed_are_refused(made: Path, split: Split) -> None:
    lineage = read_lineage(made)
    valid = made.with_name("valid.jsonl")
    valid.write_text(valid.read_text().replace("u1", "u2", 1))
    with pytest.raises(DataError, match=r"the validation users of train\.jsonl, was changed"):
        validation_users(None, made, lineage)
    valid.unlink()
    with pytest.raises(DataError, match="is missing"):
        validation_users(None, made, lineage)
    with pytest.raises(DataError, match="is missing"):
        validation_users(valid, made, lineage)


@pytest.mark.parametrize("leaked", [5, -1])
def test_examples_that_record_a_leak_are_refused(made: Path, leaked: int) -> None:
    path = made.with_name("train.jsonl.meta.json")
    reseal(path, {"leaked_events": leaked})
    with pytest.raises(RefusedError, match=f"{leaked} held-out events are in train.jsonl, not 0"):
        read_lineage(made)


def test_test_users_select_no_checkpoint(tmp_path: Path, made: Path, split: Split) -> None:
    write_lines(split, tmp_path / "lines")
    write_split(split, tmp_path / "split")
    for test in (tmp_path / "lines" / "test.jsonl", tmp_path / "split" / "test.parquet"):
        with pytest.raises(UsageError, match="must not select a checkpoint"):
            validation_users(test, made, read_lineage(made))
    with pytest.raises(UsageError, match="is a part of a split, not a file of users"):
        validation_users(tmp_path / "split" / "valid.parquet", made, read_lineage(made))


def test_examples_of_another_split_are_refused(made: Path, split: Split) -> None:
    lineage = read_lineage(made)
    check_same_split(lineage, split)
    with pytest.raises(CompatibilityError, match="the training examples were made from"):
        check_same_split(lineage, make_split(seed=1))
