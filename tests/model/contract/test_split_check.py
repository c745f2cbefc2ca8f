from dataclasses import replace
from pathlib import Path

import pytest

from sidtool.base.errors import CompatibilityError
from sidtool.data.split import SplitReference
from sidtool.model.contract import MemoryBinding, StageRecord, check_model_split, read_contract
from sidtool.tokenizer.bundle import Bundle
from tests.model.contract.cases import TRAINED


def test_the_split_of_every_stage_is_checked(trained: Path, bundle: Bundle) -> None:
    newer = SplitReference("leave-one-out", "34" * 32)
    contract = read_contract(trained)
    extended, _ = contract.stages
    last = StageRecord("full", replace(TRAINED, split=newer))
    check_model_split(replace(contract, stages=(extended, last)), bundle, "the split", newer)
    both = replace(contract, stages=(*contract.stages, last))
    with pytest.raises(CompatibilityError, match="model was made from split 1212"):
        check_model_split(both, bundle, "the split", newer)


def test_the_newest_split_says_whether_targets_repeat(trained: Path) -> None:
    contract = read_contract(trained)
    splits = [
        SplitReference("temporal", digest * 32, targets_repeat=repeats)
        for digest, repeats in (("12", True), ("34", False), ("56", None))
    ]
    stages = [StageRecord("full", replace(TRAINED, split=split)) for split in splits]
    assert replace(contract, stages=tuple(stages)).targets_repeat is False
    assert replace(contract, stages=tuple(stages[:1])).targets_repeat is True
    assert replace(contract, stages=tuple(stages[2:])).targets_repeat is None
    # a memory whose weight was chosen on the earlier split
    newer = StageRecord("full", replace(TRAINED, split=replace(splits[1], extends=("12" * 32,))))
    binding = MemoryBinding("ab" * 32, 0.5, 2.0, {}, split=splits[0])
    assert replace(contract, stages=(newer,), memory=binding).targets_repeat is False
