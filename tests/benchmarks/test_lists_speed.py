"""The script that measures lists runs to its end on small sizes."""

import json
import sys

import pytest


def test_the_speed_of_lists_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lists_speed

    monkeypatch.setattr(sys, "argv", ["lists_speed.py", "--quick", "--json", "--threads", "1"])
    lists_speed.main()
    (ratios,) = json.loads(capsys.readouterr().out)["cases"]
    assert ratios["batch"] == ratios["width"] == 2
    for name in ("seconds", "over_floor", "searches_over_list", "wide_searches_over_list"):
        assert ratios[name] > 0
