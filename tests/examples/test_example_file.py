from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.examples.example_file import problem_of, segments_to_text, text_to_segments
from sidtool.examples.parts import ExampleParts
from sidtool.model.prompt.segments import PromptEncoder, Segment, catalog, sids, template
from tests.model.prompt.cases import SPACE, catalog_texts, extended_tokenizer, histories

segment_lists = st.lists(
    st.one_of(
        st.text(max_size=6).filter(lambda text: "<" not in text).map(template),
        catalog_texts.map(catalog),
        histories.map(lambda codes: sids(SPACE, np.array(codes, dtype=np.uint16))),
    ),
    max_size=7,
)


@given(segment_lists)
def test_the_text_of_segments_has_the_same_token_ids(segments: list[Segment]) -> None:
    # Adjacent template segments are a single one in the text.
    merged: list[Segment] = []
    for segment in segments:
        if merged and segment.kind == merged[-1].kind == "template":
            merged[-1] = template(merged[-1].text + segment.text)
        elif segment.text or segment.sid_tokens:
            merged.append(segment)
    text, spans = segments_to_text(SPACE, merged)
    encoder = PromptEncoder(*extended_tokenizer(SPACE))
    assert encoder.ids(text_to_segments(SPACE, text, spans)) == encoder.ids(merged)
    spelled = [segment.text for segment in merged if segment.kind == "catalog"]
    assert [text[start:stop] for start, stop in spans] == spelled


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"user": "7", "weight": 0, "catalog": {"prompt": [[0, 1]]}}, None),
        ({"task": None}, "has no task"),
        ({"task": 3}, "has no task"),
        ({"user": 7}, "has user 7, not an id"),
        ({"completion": None}, "has the keys ['completion', 'prompt', 'task'], not prompt"),
        ({"weight": -1}, "has a weight that is neither"),
        ({"catalog": {"prompt": [[0, 2]]}}, "has catalog spans"),
    ],
)
def test_a_line_that_is_no_training_example_says_why(
    change: dict[str, Any], problem: str | None
) -> None:
    said = problem_of({"task": "next-item", "prompt": "a", "completion": "b"} | change)
    assert said == "" if problem is None else said.startswith(problem)


def test_a_text_like_a_token_is_a_text() -> None:
    assert text_to_segments(SPACE, "a <s_a_999> b") == [template("a <s_a_999> b")]


@pytest.mark.parametrize(
    ("line", "problem"), [(b"[]", "is no JSON object"), (b"{", "Expecting property name")]
)
def test_a_line_of_a_part_that_is_no_example_is_shown(line: bytes, problem: str) -> None:
    parts = ExampleParts(Path("folder"), lineage=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"an example of part 2 of folder {problem}.*: b'"):
        parts.example(2, line)
