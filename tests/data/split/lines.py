"""Writes splits as versions before format 4 did, in JSON Lines."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidtool.base.digests import file_digest
from sidtool.base.documents import sealed_text
from sidtool.data.fields.fields import NO_FIELDS
from sidtool.data.split import Split, SplitManifest, UserSequence, read_split, write_examples
from sidtool.data.split.record import line_format


def of_lines(split: Split) -> Split:
    """A split as it is read from JSON Lines: its digests are those of older versions."""
    split_format = line_format(split.origin.fields, split.origin.sessions)
    return replace(split, origin=replace(split.origin, format=split_format))


def write_lines(split: Split, folder: Path) -> SplitManifest:
    """The folder of a split in format 1, 2 or 3, whether or not it could have been made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    write_events(folder / "train.jsonl", split.train)
    write_examples(folder / "valid.jsonl", split.valid)
    write_examples(folder / "test.jsonl", split.test)
    if split.windows is not None:
        write_examples(folder / "windows.jsonl", split.windows)
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    manifest = of_lines(split).manifest(files)
    (folder / "split.json").write_text(sealed_text(manifest.to_json()), encoding="utf-8")
    return manifest


def request_lines(folder: Path) -> list[str]:
    """The test examples of a split folder as JSON lines, which are requests."""
    path = folder.with_name(f"{folder.name}-requests.jsonl")
    write_examples(path, read_split(folder).test)
    return path.read_text(encoding="utf-8").splitlines()


def write_events(path: Path, sequences: Iterable[UserSequence]) -> None:
    """One line per user."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for sequence in sequences:
            value: dict[str, Any] = {"user": sequence.user, "items": sequence.items}
            value["positions"] = sequence.positions
            if sequence.sessions:
                value["sessions"] = sequence.sessions
            if sequence.fields != NO_FIELDS:
                value["fields"] = sequence.fields.to_json()
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")
