"""Training examples in parts: a folder, at a path or URL, with a lineage that lists the files of
each part. `make-sft` writes it of a split in parts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, raised_as
from sidtool.base.storage import Storage
from sidtool.data.tables import as_url
from sidtool.examples.example_file import problem_of
from sidtool.examples.lineage import (
    AGAIN,
    Lineage,
    checked_side_file,
    in_parts,
    parsed_lineage,
    read_lineage,
)
from sidtool.tokenizer.bundle import check_names

PARTS_LINEAGE = "_lineage.json"
"""The lineage of examples in parts, in their folder."""
VALID = "valid.jsonl"
"""The validation users of a part of the split, in its folder."""
EMPTY = hashlib.sha256(b"").hexdigest()
"""The digest of a file of no validation users."""


def read_any_lineage(examples: Path) -> Lineage:
    """The lineage of a file of training examples, or of a folder of parts, which are checked when
    they are read. Raises as `read_lineage`."""
    if not in_parts(examples):
        return read_lineage(examples)
    path = examples / PARTS_LINEAGE
    lineage = parsed_lineage(Storage(as_url(examples)).read(PARTS_LINEAGE), path, examples)
    with raised_as(DataError, f"{as_url(path)} is malformed", AGAIN, errors=(ValueError,)):
        check_names(lineage.files)
    if not sum(ExampleParts(examples, lineage).sizes):
        raise DataError(f"{as_url(path)} lists no examples in parts", hint=AGAIN)
    return lineage


def validation_users(examples: Path, lineage: Lineage) -> Path:
    """The file of validation users beside training examples; of parts that of the first part with
    some, a sample by the hash of their ids, at a URL a copy of it. Raises DataError if it is
    missing or was changed."""
    if not lineage.parts:
        return checked_side_file(examples, lineage, "valid", "the validation users")
    files = {name: of for name, of in lineage.files.items() if name.endswith(f"/{VALID}")}
    name = next((name for name, of in files.items() if of != EMPTY), next(iter(files), VALID))
    location, digest = as_url(examples), files.get(name)
    if examples.is_dir():
        _checked(location, name, digest)
        return examples / name
    return Path(_copied(location, name, digest).name) / VALID


@cache
def _copied(location: str, name: str, digest: str | None) -> "TemporaryDirectory[str]":
    """A temporary folder with a copy of validation users, which lasts as long as the process."""
    folder = TemporaryDirectory(prefix="sidtool-")
    (Path(folder.name) / VALID).write_bytes(_checked(location, name, digest))
    return folder


def _checked(location: str, name: str, digest: str | None) -> bytes:
    """The bytes of a file of a folder. Raises DataError if it is missing or has another SHA-256."""
    data = Storage(location).read(name)
    if data is None or hashlib.sha256(data).hexdigest() != digest:
        problem = "is missing" if data is None else "was changed"
        raise DataError(f"{location}/{name} {problem}", hint=AGAIN)
    return data


@dataclass(frozen=True)
class ExampleParts:
    """The parts of a folder of training examples."""

    folder: Path
    lineage: Lineage

    def __str__(self) -> str:
        return as_url(self.folder)

    @property
    def sizes(self) -> Sequence[int]:
        """The number of examples of each part."""
        return [sum(part.values()) for part in self.lineage.parts]

    def lines(self, part: int) -> list[bytes]:
        """The examples of a part, not parsed yet. Every byte of the part is read and checked, and
        no other part.

        Raises DataError if a file is missing, was changed or has other lines than recorded."""
        lines: list[bytes] = []
        for name, n_lines in self.lineage.parts[part].items():
            file_lines = _checked(str(self), name, self.lineage.files.get(name)).split(b"\n")
            if file_lines.pop() or len(file_lines) != n_lines:
                raise DataError(f"{self}/{name} has not {n_lines} lines", hint=AGAIN)
            lines += file_lines
        return lines

    def example(self, part: int, line: bytes) -> dict[str, Any]:
        """The example of a line of a part. Raises DataError if it is none."""
        try:
            example = parse_json(line)
            problem = problem_of(example)
        except ValueError as error:
            problem = str(error)
        if problem:
            raise DataError(f"an example of part {part} of {self} {problem}: {line[:80]!r}")
        return dict(example)
