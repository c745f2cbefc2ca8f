"""The benchmark of engines, without an engine; `tests/integrations/vllm` runs it with one."""

import json
from pathlib import Path

import pytest


def test_the_sides_agree_and_end_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engines import main

    sides = ("--sides", "level,vocabulary,generate")
    sizes = ("--quick", "--dtypes", "float32", "--widths", "4", "--batches", "1,2")
    arguments = ["-o", str(tmp_path), *sides, *sizes, "--repeats", "1"]
    assert main(arguments) == 0
    assert "| float32 2x4 |" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    for measured in result["settings"].values():
        assert list(measured) == ["level", "vocabulary", "generate"]
        for figures in measured.values():
            assert figures["seconds"] > 0
            assert figures["illegal_share"] == 0
        assert measured["generate"]["agreement"] == 1
    before = (tmp_path / "result.json").read_bytes()
    assert main(arguments) == 0  # nothing is measured again
    assert (tmp_path / "result.json").read_bytes() == before
    assert main([*arguments, "--sides", "sglang"]) == 1
    assert "no side 'sglang'" in capsys.readouterr().err
