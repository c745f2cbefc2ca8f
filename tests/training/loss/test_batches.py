import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.examples.example_file import TokenizedExample, TokenizedExamples, encode_example
from sidtool.model.prompt.segments import PromptEncoder
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.batches import (
    IGNORED,
    Targets,
    encoder_decoder_batch,
    packed_batch,
    padded_batch,
    parts_by_length,
)
from tests.cli.road import write_lines
from tests.model.prompt.cases import extended_tokenizer

SPACE = SidSpace((4, 3))
TOKENIZER, TOKENS = extended_tokenizer(SPACE)
ENCODER = PromptEncoder(TOKENIZER, TOKENS)


def targets(row: dict[str, object], *, codes_only: bool = False) -> list[str]:
    ids, marked, *_ = encode_example(row, ENCODER, codes_only=codes_only)
    return [str(TOKENIZER.convert_ids_to_tokens(int(i))) for i in ids[marked]]


SID = SPACE.spell((1, 2), begin_end_tokens=True)
CODES = ["<s_a_1>", "<s_b_2>"]


@pytest.mark.parametrize(
    ("row", "codes_only", "expected"),
    [
        ({"task": "sequence", "text": SID + SID}, False, CODES * 2),
        ({"task": "sequence", "prompt": SID, "completion": SID}, False, CODES),
        (
            {"prompt": "x" + SPACE.begin, "completion": SID[len(SPACE.begin) :] + "<eos>"},
            False,
            [*CODES, SPACE.end, "<eos>"],
        ),
        ({"prompt": SID, "completion": SID + "<eos>"}, True, CODES),
        # nothing comes before the first code
        ({"task": "sequence", "text": "<s_a_1><s_b_2>"}, False, ["<s_b_2>"]),
    ],
)
def test_targets_depend_on_the_task(
    row: dict[str, object], codes_only: bool, expected: list[str]
) -> None:
    assert targets({"task": "next-item", **row}, codes_only=codes_only) == expected


def test_a_title_that_spells_a_code_is_text() -> None:
    title = {"task": "sid-to-title", "prompt": SID, "completion": "<s_a_1><eos>"}
    marked = targets({**title, "catalog": {"completion": [[0, 7]]}})
    assert "<s_a_1>" not in marked
    assert marked[-1] == "<eos>"


def example_of(n: int) -> TokenizedExample:
    ids = np.arange(1, n + 1, dtype=np.int32) * 7 % 50 + 1
    return TokenizedExample(ids, np.arange(n) % 3 == 1, np.arange(n, dtype=np.float32) / n)


examples = st.lists(st.integers(2, 12).map(example_of), min_size=1, max_size=9)


@given(examples)
def test_both_layouts_contain_the_same_examples(batch: list[TokenizedExample]) -> None:
    padded, packed = padded_batch(batch, pad=0), packed_batch(batch, pad=0)
    for number, (ids, marked, weights, *_) in enumerate(batch):
        assert padded["input_ids"][number, : len(ids)].tolist() == ids.tolist()
        assert padded["attention_mask"][number].sum() == len(ids)
        shown = padded["labels"][number, : len(ids)]
        assert shown.tolist() == np.where(marked, ids, IGNORED).tolist()
        token_weights = np.where(marked, weights, 0).tolist()
        assert padded["weights"][number, : len(ids)].tolist() == token_weights
        assert not padded["weights"][number, len(ids) :].any()
    assert packed["input_ids"].shape[1] == max(len(example.ids) for example in batch)
    assert packed["input_ids"].shape[0] <= len(batch)
    result = []
    names = ("input_ids", "labels", "weights", "position_ids")
    for ids, labels, weights, positions in zip(*(packed[n].tolist() for n in names), strict=True):
        starts = [place for place, position in enumerate(positions) if position == 0]
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            assert positions[start:stop] == list(range(stop - start))
            if ids[start]:  # id 0 is padding here
                result.append((ids[start:stop], labels[start:stop], weights[start:stop]))
            else:
                assert set(labels[start:stop]) == {IGNORED}
                assert not any(weights[start:stop])
    expected = [
        (ids.tolist(), np.where(marked, ids, IGNORED).tolist(), (marked * weights).tolist())
        for ids, marked, weights, *_ in batch
    ]
    assert sorted(result) == sorted(expected)


def test_a_line_is_filled_to_its_end() -> None:
    packed = packed_batch([example_of(n) for n in (12, 10, 2)], pad=0)
    assert packed["input_ids"].shape == (2, 12)


@given(examples)
def test_targets_have_the_ids_weights_and_tokens_before_them(batch: list[TokenizedExample]) -> None:
    inputs = padded_batch(batch, pad=0)
    popped = Targets.pop(dict(inputs), SPACE.levels)
    shown = (popped.ids, popped.weights, popped.preceding[:, 0])
    expected = [
        (ids[place], weights[place], ids[place - 1])
        for ids, marked, weights, *_ in batch
        for place in np.flatnonzero(marked)
    ]
    assert list(zip(*(values.tolist() for values in shown), strict=True)) == expected
    before = inputs["input_ids"].flatten()[popped.positions]
    assert before.tolist() == popped.preceding[:, 0].tolist()


def test_a_weight_is_that_of_an_example_or_of_each_sid() -> None:
    one, other = (SPACE.spell(code, begin_end_tokens=True) for code in ((1, 2), (3, 0)))
    sequence = {"task": "sequence", "prompt": "x" + one, "completion": other + one}

    def weights(weight: object) -> list[float]:
        row = {**sequence, "weight": weight}
        _, marked, result, *_ = encode_example(row, ENCODER, codes_only=True)
        return [float(number) for number in result[marked]]

    assert weights(2) == [2, 2, 2, 2]
    assert weights([0.5, 3, 0]) == [3, 3, 0, 0]
    with pytest.raises(DataError, match="an example has 2 weights and 3 SIDs"):
        weights([1, 2])
    row = {"task": "next-item", "prompt": "x", "completion": "y"}
    plain = encode_example(row, ENCODER, codes_only=False).weights
    assert set(plain.tolist()) == {1}


@pytest.mark.parametrize("weight", ["-1", "true", '"2"', "[1, -1]", "[[1]]", "[]", "null", "1e39"])
def test_a_malformed_weight_is_named(tmp_path: Path, weight: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"task": "mine", "prompt": "a", "completion": "b", "weight": {weight}}}')
    with pytest.raises(DataError, match=r"train.jsonl:1 has a weight that is neither"):
        TokenizedExamples.read(path, ENCODER, codes_only=False)


@pytest.mark.parametrize(("weight", "number"), [([1, 0], 0), ([0, 1], 1)])
def test_a_sequence_whose_first_item_alone_counts_has_no_prefix(
    tmp_path: Path, weight: list[int], number: int
) -> None:
    whole = {"task": "sequence", "text": SID * 2}
    path = write_lines(tmp_path / "train.jsonl", [whole, whole | {"weight": weight}])
    options = {"codes_only": True, "after_prompts": True}
    assert len(TokenizedExamples.read(path, ENCODER, **options)) == 1 + number


def test_examples_are_read_and_malformed_lines_are_named(tmp_path: Path) -> None:
    lines = [{"task": "sequence", "text": SID}, {"task": "mine", "prompt": "a", "completion": "b"}]
    path = write_lines(tmp_path / "train.jsonl", lines)
    tokenized = TokenizedExamples.read(path, ENCODER, codes_only=False)
    assert (len(tokenized), tokenized.lengths.tolist()) == (2, [4, 2])
    assert tokenized[1][1].tolist() == [False, True]
    for broken, said in (
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"task": "x"}', "not prompt and completion"),
        (json.dumps({**lines[0], "weight": [1, 2]}), r":2: an example has 2 weights and 1 S"),
    ):
        write_lines(path, [lines[0], broken])
        with pytest.raises(DataError, match=said):
            TokenizedExamples.read(path, ENCODER, codes_only=False)
    with pytest.raises(DataError, match="does not exist"):
        TokenizedExamples.read(tmp_path / "none", ENCODER, codes_only=False)
    write_lines(path, [{**lines[0], "weight": 0}])
    with pytest.raises(DataError, match=r"train\.jsonl has no training example with a target"):
        TokenizedExamples.read(path, ENCODER, codes_only=False)


PAD, START = 0, 9
prompted = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=9)


@given(prompted, st.integers(1, 4))
def test_an_encoder_decoder_reads_prompts_and_writes_answers(
    lengths: list[tuple[int, int]], n_lines: int
) -> None:
    """Every example, split before its first target, is in one line of one part."""
    examples = []
    for number, (n_prompt, n_answer) in enumerate(lengths):
        n = n_prompt + n_answer + 1  # a closing token that is no target
        ids = np.arange(n, dtype=np.int32) + 100 * number + 10
        targets = (np.arange(n) >= n_prompt) & (np.arange(n) < n - 1)
        weights = np.arange(n, dtype=np.float32) + number
        examples.append(TokenizedExample(ids, targets, weights))
    batch = encoder_decoder_batch(examples, pad=PAD, start=START)
    parts = parts_by_length(batch, n_lines)
    actual = []
    for part in parts:
        assert 1 <= len(part["input_ids"]) <= n_lines
        mask = part["attention_mask"].bool()
        # some prompt fills the part
        assert mask.all(1).any()
        for line in range(len(mask)):
            decoded = part["decoder_input_ids"][line]
            labels = part["labels"][line]
            is_target = labels != IGNORED
            assert decoded[0] == START
            assert labels[0] == IGNORED
            # what is predicted at a place is read at the next one
            assert decoded[1:][is_target[1:-1]].tolist() == labels[1:-1][is_target[1:-1]].tolist()
            prompt = part["input_ids"][line][mask[line]].tolist()
            answer = labels[is_target].tolist()
            actual.append((prompt, answer, part["weights"][line][is_target].tolist()))
    expected = []
    for ids, targets, weights, *_ in examples:
        prompt = ids[: int(targets.argmax())]
        expected.append((prompt.tolist(), ids[targets].tolist(), weights[targets].tolist()))
    assert sorted(actual) == sorted(expected)
