"""The comparison of two checkouts runs to its end."""

from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_checkout_is_about_as_fast_as_itself() -> None:
    import speed_since

    root = Path(__file__).parents[2]
    result = speed_since.compare(root, root, rounds=1, steps=8)
    assert result.keys() == {"rendering", "training"}
    for part in result.values():
        assert 0.2 < part["ratio"] < 5
        assert part["before"] > 0
        assert part["now"] > 0
