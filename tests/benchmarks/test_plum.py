"""The benchmark of continued pre-training, on a tiny catalog and a tiny model."""

import json
from pathlib import Path

import pytest
import yaml

from tests.models import tiny_model, tiny_tokenizer

TASKS = {
    "cpt": {"task": {"history-text": 1, "item-text": 1}, "format": "plain"},
    "sft": {"task": {"sequence": 1}, "weight": "rating", "format": "plain"},
    "evaluate": {"num_beams": 5},
}


@pytest.mark.slow
def test_both_models_end_in_a_table(
    rated_data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from plum import main

    for name, config in TASKS.items():
        (recipe_folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (recipe_folder / "train.yaml").write_text("eval_users: 8\n")
    template = {"prompts": ["Of {user.age}:{history}"], "items": ["{sid} {event.rating}"]}
    (recipe_folder / "sequence.json").write_text(json.dumps(template))
    general = tmp_path / "general.txt"
    general.write_text("\n\n".join(f"General text {n}." for n in range(40)), encoding="utf-8")
    tokenizer = tiny_tokenizer()
    base = tmp_path / "tiny"
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    work = tmp_path / "work"
    shown = ("--template", recipe_folder / "sequence.json", "--column", "description")
    fields = (*shown, "--feedback", "rating", "--users", "users.csv", "--user-field", "age")
    options = ("--recipe", recipe_folder, "--encoder", tmp_path / "encoder", "--model", base)
    sizes = ("--tokens", 2000, "--limit", 6, "--general", general)
    arguments = [str(part) for part in (rated_data, "-o", work, *fields, *options, *sizes)]
    assert main(arguments) == 0
    assert commands.count("train") == 3
    (seed,) = json.loads((work / "result-test.json").read_text())["seeds"]
    assert set(seed["systems"]) == {
        "PLUM",
        "without continued pre-training",
        "popularity",
        "item-knn",
    }
    assert seed["n"] == 6
    assert seed["perplexity"][0] != seed["perplexity"][1]
    for name, gain in seed["gain"].items():
        plain = seed["systems"]["without continued pre-training"][name]
        assert gain["mean"] == pytest.approx(seed["systems"]["PLUM"][name] - plain)
    shown = capsys.readouterr().out
    assert "| PLUM |" in shown
    assert "continued pre-training gains R@10" in shown

    commands.clear()  # a second run does nothing
    assert main(arguments) == 0
    assert commands == []
