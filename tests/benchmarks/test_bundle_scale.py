"""The benchmark of large bundles runs to its end."""

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_both_ways_to_read_a_bundle_and_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bundle_scale

    out = tmp_path / "result.json"
    options = ["9000", "--in-parts", "9000", "--build", "3000", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", ["bundle_scale.py", *options, "--work", str(tmp_path)])
    bundle_scale.main()
    report = json.loads(out.read_text())
    assert [result["in_parts"] for result in report["results"]] == [False, True]
    assert all(result["peak"] > 0 for result in report["results"] + report["built"])
    assert capsys.readouterr().out.count("| 9,000 |") == 2
