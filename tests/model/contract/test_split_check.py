from dataclasses import replace
from pathlib import Path

import pytest

from sidtool.base.errors import CompatibilityError
from sidtool.data.columns import EventColumns
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
    source = {"split": SplitReference("temporal", "12" * 32).to_json()}
    built = Bundle(replace(bundle.manifest, source=source), bundle.arrays)
    with pytest.raises(CompatibilityError, match="the codebook of bundle"):
        check_model_split(replace(contract, stages=(extended, last)), built, "the split", newer)


def test_the_newest_split_says_whether_targets_repeat(trained: Path, bundle: Bundle) -> None:
    contract = read_contract(trained)
    splits = [
        SplitReference("temporal", digest * 32, targets_repeat=repeats, columns=columns)
        for digest, repeats, columns in (
            ("12", True, EventColumns("user", "item", None)),
            ("34", False, EventColumns("user", "item", "time")),
            ("56", None, None),
        )
    ]
    stages = [StageRecord("full", replace(TRAINED, split=split)) for split in splits]
    assert replace(contract, stages=tuple(stages)).targets_repeat is False
    assert replace(contract, stages=tuple(stages)).event_columns(bundle) == splits[1].columns
    assert replace(contract, stages=tuple(stages[:1])).targets_repeat is True
    assert replace(contract, stages=tuple(stages[2:])).targets_repeat is None
    # a memory whose weight was chosen on the earlier split
    newer = StageRecord("full", replace(TRAINED, split=replace(splits[1], extends=("12" * 32,))))
    binding = MemoryBinding("ab" * 32, 0.5, 2.0, {}, split=splits[0])
    refreshed = replace(contract, stages=(newer,), memory=binding)
    assert refreshed.targets_repeat is False
    assert refreshed.splits == [splits[0], newer.params.split]
    assert replace(contract, stages=(stages[2],), memory=binding).splits == [splits[2], splits[0]]
    untuned = replace(binding, split=None)
    assert replace(contract, stages=(stages[2],), memory=untuned).splits == [splits[2]]
