"""The benchmark of first embedding rows, on a tiny catalog and a tiny model."""

import json
from pathlib import Path

import pytest

from tests.models import tiny_model, tiny_tokenizer


@pytest.mark.slow
def test_losses_before_and_after_training_end_in_tables(
    data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from init_scale import main

    tokenizer = tiny_tokenizer()
    base = tmp_path / "tiny"
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    work = tmp_path / "work"
    inputs = ("--items", data / "items.jsonl", "--interactions", data / "interactions.csv")
    sizes = ("--models", base, "--batch-size", 4, "--users", 3, "--eval-users", 4)
    options = ("--encoder", tmp_path / "encoder", "--title-column", "title", "--steps", 2)
    rows = ("--inits", "codebook:1,random:0.1", "--stages", "embeddings,lora")
    codebook = ("--codebook", recipe_folder / "codebook.yaml")
    arguments = [str(part) for part in ("-o", work, *inputs, *sizes, *options, *rows, *codebook)]
    assert main(arguments) == 0
    result = json.loads((work / "result.json").read_text())
    (first,) = result["first"].values()
    assert list(first) == ["codebook:1", "random:0.1"]
    for losses in first.values():
        assert losses["vocabulary"] > losses["level"] > 0
    # rows near the mean row give nearly equal logits
    near = abs(first["random:0.1"]["level"] - result["uniform_level_loss"])
    assert near < abs(first["codebook:1"]["level"] - result["uniform_level_loss"])
    (trained,) = result["trained"].values()
    assert set(trained["random:0.1"]) == {"embeddings", "lora"}
    assert 0 <= trained["random:0.1"]["lora"]["ndcg@10"] <= 1
    assert "| random:0.1 | lora |" in capsys.readouterr().out
    assert commands.count("train") == 4

    commands.clear()  # a second run does nothing
    assert main(arguments) == 0
    assert commands == []
    assert main([*arguments, "--inits", "codebok:1"]) == 1
    assert "'codebok:1' is not INIT:SCALE" in capsys.readouterr().err
