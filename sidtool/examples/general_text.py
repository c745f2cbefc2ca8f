"""General text, mixed into training on behavior and metadata so that a language model forgets less
of what it was pretrained on, with a held-out part that measures how much it forgets."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord
from sidtool.data.tables import json_lines, open_file, require_regular

HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 200
"""Held-out documents at most: they are read by a model before and after training."""


@dataclass(frozen=True)
class GeneralOptions:
    """A file of general text, and the share of its tokens in the training examples. Raises
    UsageError unless the share is between 0 and 1."""

    path: Path = option(flag="--general")
    """General text to mix in, against forgetting: JSON Lines with `text`, or a text file with blank
    lines between documents. 1 in 20 documents is held out, at most 200."""
    share: float = option(0.2, above=0, below=1, flag="--general-share")
    """Share of general text in all tokens."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class GeneralRecord(JsonRecord):
    """The general text of training examples: its share, and the counts of its documents."""

    share: float
    digest: str
    """SHA-256 (hex) of the distinct documents, in order of their SHA-256"""
    documents: int
    """distinct documents, those held out included"""
    held_out: int


@dataclass(frozen=True)
class GeneralText:
    """The documents of a file, each once, divided into those of training and those held out."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "GeneralText":
        """Read JSON Lines with a `text`, or the paragraphs of a text file, between blank lines.

        The documents with the smallest SHA-256 are held out: 1 in 20, at least 1 and at most
        MOST_HELD_OUT. Raises DataError for a malformed file, and with fewer than 2 documents."""
        documents = sorted(set(_documents(path)), key=_digest)
        if len(documents) < 2:
            raise DataError(
                f"{path} has {len(documents)} distinct documents; general text needs 2, one of "
                "them held out"
            )
        n_held_out = min(max(1, round(HELD_OUT_SHARE * len(documents))), MOST_HELD_OUT)
        return cls(tuple(documents[n_held_out:]), tuple(documents[:n_held_out]))

    def record(self, share: float) -> GeneralRecord:
        """What the lineage keeps."""
        documents = self.held_out + self.train
        digests = "".join(map(_digest, documents))
        return GeneralRecord(share, _digest(digests), len(documents), len(self.held_out))


def pieces(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """A text in pieces that fit, halved between words as often as needed. A single character is
    never divided."""
    if len(text) < 2 or fits(text):
        yield text
        return
    middle = len(text) // 2
    space = text.rfind(" ", 1, middle)
    cut = middle if space < 0 else space
    yield from pieces(text[:cut], fits)
    yield from pieces(text[cut:].lstrip(" ") or text[cut:], fits)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _documents(path: Path) -> Iterator[str]:
    """The texts that are not blank, without the white space around them."""
    require_regular(path)
    if not path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json")):
        try:
            with open_file(path) as stream:
                lines = stream.read().decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read general text {path} as UTF-8: {error}") from error
        for is_blank, paragraph in groupby(lines, lambda line: not line.strip()):
            if not is_blank:
                yield "\n".join(paragraph).strip()
        return
    for number, row in json_lines(path):
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError(
                f"{path}, line {number}: general text has the key text, not {sorted(row)}"
            )
        if text.strip():
            yield text.strip()
