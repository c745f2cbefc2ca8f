from hypothesis import given
from hypothesis import strategies as st

from sidtool.model.prompt.item_text import MAX_TEXT_CHARACTERS, item_text


@given(st.text(alphabet="ab \n<>", max_size=900))
def test_a_long_text_is_cut_between_words(text: str) -> None:
    short = item_text(text)
    words = text.split()
    assert len(short) <= MAX_TEXT_CHARACTERS
    assert item_text(short) == short
    if len(" ".join(words)) <= MAX_TEXT_CHARACTERS:
        assert short.split() == words
    elif " " in short:
        assert short.split() == words[: len(short.split())]
