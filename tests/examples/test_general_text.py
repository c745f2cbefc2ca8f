import gzip
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Items
from sidtool.data.split import Split
from sidtool.examples import make_sft
from sidtool.examples.general_text import GeneralOptions, GeneralText, pieces
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import write_lines
from tests.models import tiny_tokenizer


def test_documents_are_divided_by_their_content_alone(tmp_path: Path) -> None:
    texts = [f"text {number}\nof two lines" for number in range(100)]
    lines = write_lines(tmp_path / "a.jsonl", ({"text": text} for text in [*texts, texts[0]]))
    (tmp_path / "b.txt").write_text("\n\n \n".join(reversed(texts)) + "\n")
    general = GeneralText.read(lines)
    marked = b"\xef\xbb\xbf" + (tmp_path / "b.txt").read_bytes()  # as Windows writes it
    (tmp_path / "c.txt").write_bytes(marked)
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(marked))
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    for name in ("b.txt", "c.txt", "d.txt.gz", "e.jsonl.gz"):
        assert general == GeneralText.read(tmp_path / name)
    assert (len(general.train), len(general.held_out)) == (95, 5)
    assert set(general.train) | set(general.held_out) == set(texts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"words": "b"}\n', "line 2: general text has the key text"),
        ('{"text": "a"}\n{"text": "a"}\n', "1 distinct documents"),
        ("", "0 distinct documents"),
    ],
)
def test_malformed_corpora_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        GeneralText.read(path)
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"cannot read general text .*b\.txt as UTF-8"):
        GeneralText.read(tmp_path / "b.txt")


@given(st.text(min_size=1), st.integers(1, 9))
def test_pieces_fit_and_lose_only_spaces(text: str, size: int) -> None:
    parts = list(pieces(text, lambda part: len(part) <= size))
    assert all(len(part) <= size for part in parts)
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


def test_a_share_lies_between_0_and_1() -> None:
    for share in (0, 1, float("nan")):
        with pytest.raises(UsageError, match=r"share must be (more than 0|less than 1)"):
            GeneralOptions(Path("a"), share)


def test_inputs_of_make_sft_are_named_as_their_flags_name_them(
    bundle: Bundle, catalog: Items, split: Split, tmp_path: Path
) -> None:
    make = partial(make_sft, bundle, catalog, split, tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="none does not exist"):
        make(general=str(tmp_path / "none"), tokenizer=tiny_tokenizer())
    with pytest.raises(UsageError, match="the split has no feedback 'rating'"):
        make(weights="exp(rating/1)")
    template_file = tmp_path / "own.json"
    template_file.write_text('{"prompts": ["After {history}:"]}')
    make(tasks={"next-item": 1}, templates={"next-item": template_file})
    assert '"prompt": "After ' in (tmp_path / "train.jsonl").read_text()
