"""Options of functions as keywords."""

import pytest

from sidtool.base.errors import UsageError
from sidtool.base.options import options_from
from sidtool.data.split.files import SplitOptions
from sidtool.examples.sft_options import SftOptions
from sidtool.tokenizer import BuildOptions


def test_keywords_are_named_as_fields_or_as_flags() -> None:
    assert options_from(SftOptions, None, {"tasks": {"next-item": 2.0}}).tasks == {"next-item": 2.0}
    assert options_from(SftOptions, None, {"task": {"next-item": 2.0}}).tasks == {"next-item": 2.0}
    assert options_from(BuildOptions, None, {"levels": (8, 4)}).sizes == (8, 4)
    assert options_from(BuildOptions, None, {"levels": "8x4"}).sizes == (8, 4)
    assert options_from(SplitOptions, None, {}) == SplitOptions()
    given = SplitOptions()
    assert options_from(SplitOptions, given, {}) is given


def test_an_unknown_keyword_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"there is no option protocl, known are .*protocol"):
        options_from(SplitOptions, None, {"protocl": "temporal"})
    with pytest.raises(UsageError, match="options and the keyword seed are both given"):
        options_from(SftOptions, SftOptions(), {"seed": 1})
