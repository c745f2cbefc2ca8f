"""Options of a build, and the warning about collapsed levels."""

import warnings

import numpy as np
import pytest

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.data.items import make_items
from sidtool.tokenizer.make.build import BuildOptions, build


def bundle_of(alike: int, others: int):
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.zeros((alike, 8)), 5 * rng.standard_normal((others, 8))]).astype(
        np.float32
    )
    ids = tuple(f"i{row:03}" for row in range(len(vectors)))
    items = make_items(ids, ids, ids, fields={}, template="{title}")
    return build(
        items,
        [vectors],
        BuildOptions((16,), collisions="allow"),
        name="b",
        encoder={"vectors": "given"},
    )


def test_a_level_with_nearly_all_items_in_one_code_is_a_warning():
    with pytest.warns(
        SidtoolWarning, match="level a is collapsed: its 16 codes have a perplexity of 2;"
    ):
        bundle_of(190, 15)


def test_a_level_that_spreads_the_items_is_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SidtoolWarning)
        bundle_of(1, 199)
    assert [str(each.message) for each in caught if issubclass(each.category, SidtoolWarning)] == []


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"collisions": "drop"}, "collisions must be one of reassign, append, allow, not 'drop'"),
        ({"spelling": "x"}, "spelling must be one of openonerec, minionerec, not 'x'"),
        ({"method": "x"}, "method must be one of rq-kmeans, "),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(choice, message):
    with pytest.raises(UsageError, match=message):
        BuildOptions(**choice)
