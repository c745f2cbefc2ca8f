"""Training examples as tensors: which tokens are targets, and the two layouts of a batch."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.errors import DataError
from sidtool.objective.batches import IGNORED, PackedCollator, PaddedCollator
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.tokens import SidTokens
from sidtool.sft.tokenized import TokenizedExample, TokenizedExamples, encode_example
from sidtool.sid import SidSpace
from tests.models import tiny_tokenizer

SPACE = SidSpace((4, 3))


TOKENIZER = tiny_tokenizer()
ENCODER = PromptEncoder(TOKENIZER, SidTokens(SPACE, len(TOKENIZER)))
TOKENIZER.add_tokens(list(SPACE.tokens))


def targets(row: dict[str, object], *, codes_only: bool = False) -> list[str]:
    ids, marked = encode_example(row, ENCODER, ENCODER.tokens, codes_only=codes_only)
    return [str(TOKENIZER.convert_ids_to_tokens(int(i))) for i in ids[marked]]


def test_targets_depend_on_the_task() -> None:
    sid = SPACE.spell((1, 2), begin_end_tokens=True)
    codes = ["<s_a_1>", "<s_b_2>"]
    assert targets({"task": "sequence", "text": sid + sid}) == codes * 2
    assert targets({"task": "sequence", "prompt": sid, "completion": sid}) == codes
    assert targets(
        {
            "task": "next-item",
            "prompt": "x" + SPACE.begin,
            "completion": sid[len(SPACE.begin) :] + "<eos>",
        }
    ) == [
        *codes,
        SPACE.end,
        "<eos>",
    ]
    assert (
        targets({"task": "next-item", "prompt": sid, "completion": sid + "<eos>"}, codes_only=True)
        == codes
    )
    title = {
        "task": "sid-to-title",
        "prompt": sid,
        "completion": "<s_a_1><eos>",
        "catalog": {"completion": [[0, 7]]},
    }
    assert "<s_a_1>" not in targets(title)
    assert targets(title)[-1] == "<eos>"
    bare = {"task": "sequence", "text": "<s_a_1><s_b_2>"}  # nothing comes before the first code
    assert targets(bare) == ["<s_b_2>"]


examples = st.lists(
    st.integers(2, 12).map(
        lambda n: (np.arange(1, n + 1, dtype=np.int32) * 7 % 50 + 1, np.arange(n) % 3 == 1)
    ),
    min_size=1,
    max_size=9,
)


@given(examples)
def test_both_layouts_contain_the_same_examples(batch: list[TokenizedExample]) -> None:
    padded, packed = PaddedCollator(0)(batch), PackedCollator(0)(batch)
    for number, (ids, marked) in enumerate(batch):
        assert padded["input_ids"][number, : len(ids)].tolist() == ids.tolist()
        assert padded["attention_mask"][number].sum() == len(ids)
        assert (
            padded["labels"][number, : len(ids)].tolist() == np.where(marked, ids, IGNORED).tolist()
        )
    assert packed["input_ids"].shape[1] == max(len(ids) for ids, _ in batch)
    assert packed["input_ids"].shape[0] <= len(batch)
    result = []
    for ids, labels, positions in zip(
        *(packed[name].tolist() for name in ("input_ids", "labels", "position_ids")), strict=True
    ):
        starts = [place for place, position in enumerate(positions) if position == 0]
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            assert positions[start:stop] == list(range(stop - start))
            if ids[start]:  # id 0 is padding here
                result.append((ids[start:stop], labels[start:stop]))
            else:
                assert set(labels[start:stop]) == {IGNORED}
    wanted = [(ids.tolist(), np.where(marked, ids, IGNORED).tolist()) for ids, marked in batch]
    assert sorted(result) == sorted(wanted)


def test_examples_are_read_and_malformed_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    sid = SPACE.spell((1, 2), begin_end_tokens=True)
    lines = [{"task": "sequence", "text": sid}, {"task": "mine", "prompt": "a", "completion": "b"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenized = TokenizedExamples.read(path, ENCODER, ENCODER.tokens, codes_only=False)
    assert len(tokenized) == 2
    assert tokenized.lengths.tolist() == [4, 2]
    assert tokenized[1][1].tolist() == [False, True]
    for broken, said in (
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"task": "x"}', "not prompt and completion"),
    ):
        path.write_text(json.dumps(lines[0]) + "\n" + broken + "\n")
        with pytest.raises(DataError, match=said):
            TokenizedExamples.read(path, ENCODER, ENCODER.tokens, codes_only=False)
    with pytest.raises(DataError, match="cannot read"):
        TokenizedExamples.read(tmp_path / "none", ENCODER, ENCODER.tokens, codes_only=False)
