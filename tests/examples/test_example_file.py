import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidtool.examples.example_file import segments_to_text, text_to_segments
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
