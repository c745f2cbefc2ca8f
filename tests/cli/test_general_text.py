import json
import re
from pathlib import Path

import pytest

from sidtool.examples import read_lineage, read_training_examples
from tests.cli.road import Road, done, refused, write_lines


def corpus(path: Path, n: int) -> Path:
    return write_lines(path, ({"text": f"Document {number} speaks. " * 30} for number in range(n)))


def document_numbers(path: Path) -> set[str]:
    """The numbers of the documents that the examples of general text show."""
    examples = read_training_examples(path)
    texts = [example["text"] for example in examples if example["task"] == "general-text"]
    return set(re.findall(r"Document (\d+)", " ".join(texts)))


def test_general_text_has_its_share_and_its_held_out_part_is_evaluated(
    road: Road, tmp_path: Path
) -> None:
    general = corpus(tmp_path / "corpus.jsonl", 40)
    out = tmp_path / "train.jsonl"
    sft = ("make-sft", road.bundle, road.items, road.split, "-o", out, "--max-length", 128)
    mix = ("--task", "item-text=1", "--task", "history-text=1", "--history-length", 3)
    model = ("--model", road.model)
    assert "needs a tokenizer" in refused(2, *sft, *mix, "--general", general)
    assert "requires --general" in refused(2, *sft, *mix, *model, "--general-share", 0.5)
    assert "no part of a mix" in refused(2, *sft, "--task", "general-text=1")
    said = done(*sft, *mix, *model, "--general", general, "--general-share", 0.5)
    assert "40 documents, 2 of them held out" in said.out
    lineage = read_lineage(out)
    counts = lineage.tasks["general-text"]
    assert counts.share == pytest.approx(0.5, abs=0.02)
    assert counts.longest <= 128
    assert lineage.general is not None
    assert lineage.general.held_out == 2

    held_out = tmp_path / "general.jsonl"
    assert held_out.name in lineage.files
    numbers = {path: document_numbers(path) for path in (held_out, out)}
    assert len(numbers[held_out]) == 2
    assert not numbers[held_out] & numbers[out]
    said = done("evaluate-task", road.model, "general-text", held_out, "--json")
    assert "perplexity" in said.out

    done(*sft, *mix, *model, "--force")
    assert not held_out.exists()
    assert "general-text" not in json.dumps(read_lineage(out).to_json())
