"""Columns of strings: the hash of a string does not depend on its neighbors."""

from hypothesis import given
from hypothesis import strategies as st

from sidtool.tokenizer.bundle import item_map as module
from sidtool.tokenizer.bundle.item_map import StringArray


@given(st.lists(st.text(min_size=1, max_size=9), max_size=30), st.integers(1, 7))
def test_hashes_do_not_depend_on_neighbors(texts: list[str], chunk: int) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    before, module.CHUNK = module.CHUNK, chunk
    try:
        together = StringArray.of(texts).hashes()
    finally:
        module.CHUNK = before
    assert together.tolist() == [int(StringArray.of([text]).hashes()[0]) for text in texts]
