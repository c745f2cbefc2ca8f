"""The benchmark of fields from data files to its table, on a tiny catalog."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_all_variants_end_with_a_table(
    rated_data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from feedback import VARIANTS, main

    work = tmp_path / "work"
    fields = ("--feedback", "rating", "--users", "users.csv", "--user-field", "age")
    options = ("--recipe", recipe_folder, "--encoder", tmp_path / "encoder", *fields)
    positive = ("--positive", "rating>=4")
    given = (rated_data, "-o", work, *options, "--seeds", "0", *positive)
    arguments = list(map(str, given))
    assert main(arguments) == 0
    result = json.loads((work / "result-test.json").read_text())
    assert list(result["variants"]) == list(VARIANTS)
    assert 0 < result["n"]["rating>=4"] < result["n"]["all"]
    for group in ("all", "rating>=4"):
        assert set(result["baselines"][group]) == {"popularity", "item-knn"}
        for variant, by_group in result["variants"].items():
            measured = by_group[group]
            assert 0 <= measured["seeds"][0]["ndcg@10"] <= 1
            assert set(measured["gain"]) == (set() if variant == "plain" else {"hr@10", "ndcg@10"})
    assert result["templates"]["together"] == {
        "prompts": ["{user.age:token}{history}"],
        "items": ["{gap:token}{sid}{event.rating:token}"],
    }
    assert "| feedback in history |" in capsys.readouterr().out
    assert commands.count("train") == len(VARIANTS)

    commands.clear()  # a second run does nothing
    assert main(arguments) == 0
    assert commands == []
    assert main([*arguments, "--only", "magic"]) == 1
    assert "no variant 'magic'" in capsys.readouterr().err
