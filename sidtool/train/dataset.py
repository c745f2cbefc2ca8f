"""Rows as a trainer takes them: token ids, which of them are targets, and batches without wasted
padding.

Knows the JSON form of a row, what its targets are, and two ways to lay rows out in a batch; knows
nothing of the model that reads them or of how rows come about."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.errors import DataError
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.tokens import SidTokens
from sidtool.sft.example_file import example_lines, parse_example, prompt_and_completion
from sidtool.sft.tasks import find_task

IGNORED = -100
"""The label of a token that is no target."""

TokenizedExample = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids (n,) and whether each is a target (n,)."""


def answers_with_sid(task: str) -> bool:
    """Whether every answer of a task is a SID (rows of unknown tasks answer with text)."""
    found = find_task(task)
    return found is not None and found.target == "sid"


def encode_example(
    row: Mapping[str, Any], encoder: PromptEncoder, tokens: SidTokens, *, codes_only: bool
) -> TokenizedExample:
    """A row's token ids and targets: the completion, or the code tokens alone.

    Only codes are targets in whole-history rows and, with `codes_only`, in all. A row's first token
    is never one: nothing comes before it. Raises DataError if the row is neither of the two forms.
    """
    prompt, answer = prompt_and_completion(row, tokens.space)
    start = encoder.ids(prompt)
    ids = np.array(start + encoder.ids(answer), dtype=np.int32)
    targets = np.arange(len(ids)) >= max(1, len(start))
    if codes_only or row.get("task") == "sequence":
        targets &= (ids >= tokens.start) & (ids < tokens.start + tokens.space.n_codes)
    return ids, targets


@dataclass(frozen=True)
class TokenizedExamples:
    """n rows in flat arrays: `ids` int32 and `targets` bool (tokens,), row i at
    `offsets[i]:offsets[i + 1]` (n + 1,).

    A plain sequence of rows, because a `datasets.Dataset` formats every row anew in every epoch.
    `tasks` counts the rows of each task."""

    ids: NDArray[np.int32]
    targets: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    tasks: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> TokenizedExample:
        span = slice(self.offsets[row], self.offsets[row + 1])
        return self.ids[span], self.targets[span]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) int64: tokens of each row."""
        return np.diff(self.offsets)

    @classmethod
    def read(
        cls,
        path: Path,
        encoder: PromptEncoder,
        tokens: SidTokens,
        *,
        codes_only: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> "TokenizedExamples":
        """Tokenize a rows file. Raises DataError, with the line, if a row is malformed or has no
        target."""
        ids, targets, offsets, tasks = array("i"), bytearray(), [0], dict[str, int]()
        done, total = 0, path.stat().st_size if path.exists() else 0
        for number, line in enumerate(example_lines(path), start=1):
            row = parse_example(path, number, line)
            row_ids, row_targets = encode_example(row, encoder, tokens, codes_only=codes_only)
            if not row_targets.any():
                continue  # a history of one item, where nothing comes before its codes
            ids.frombytes(row_ids.tobytes())
            targets += row_targets.tobytes()
            offsets.append(len(ids))
            tasks[row.get("task", "")] = tasks.get(row.get("task", ""), 0) + 1
            done += len(line)
            if progress and number % 1000 == 0:
                progress(done, total)
        if len(offsets) == 1:
            raise DataError(f"{path} holds no row with a target")
        arrays = np.frombuffer(ids, dtype=np.int32), np.frombuffer(targets, dtype=np.bool_)
        return cls(*arrays, np.array(offsets, dtype=np.int64), tasks)


@dataclass(frozen=True)
class PaddedCollator:
    """Lays out a batch one row a line, padded to the longest (with `pad`, which nothing attends
    to)."""

    pad: int

    def __call__(self, batch: Sequence[TokenizedExample]) -> dict[str, torch.Tensor]:
        """Rows -> input_ids, labels and attention_mask, (rows, longest) int64 each."""
        lines, _ = _laid_out([[row] for row in batch], self.pad)
        lengths = torch.tensor([len(ids) for ids, _ in batch])
        mask = torch.arange(lines["input_ids"].shape[1])[None] < lengths[:, None]
        return lines | {"attention_mask": mask.long()}


@dataclass(frozen=True)
class PackedCollator:
    """Lays out a batch with several rows a line, told apart by positions that start again at 0.

    The batch and its gradient are those of `PaddedCollator`; only the padding is gone. Rows are kept apart
    by the attention mask that transformers derives from the positions, under sdpa attention without
    a cache alone."""

    pad: int

    def __call__(self, batch: Sequence[TokenizedExample]) -> dict[str, torch.Tensor]:
        """Rows -> input_ids, labels and position_ids, (lines, longest row) int64 each."""
        lines, positions = _laid_out(_first_fit(batch), self.pad)
        return lines | {"position_ids": positions}


def _first_fit(batch: Sequence[TokenizedExample]) -> list[list[TokenizedExample]]:
    """Rows in lines no longer than the longest row, by first fit decreasing."""
    ordered = sorted(batch, key=lambda row: -len(row[0]))
    width, lines, room = len(ordered[0][0]), list[list[TokenizedExample]](), list[int]()
    for row in ordered:
        line = next((line for line, free in enumerate(room) if free >= len(row[0])), len(lines))
        if line == len(lines):
            lines.append([])
            room.append(width)
        lines[line].append(row)
        room[line] -= len(row[0])
    return lines


def _laid_out(
    lines: Sequence[Sequence[TokenizedExample]], pad: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    width = max(sum(len(ids) for ids, _ in line) for line in lines)
    ids = np.full((len(lines), width), pad, dtype=np.int64)
    labels = np.full((len(lines), width), IGNORED, dtype=np.int64)
    positions = np.zeros((len(lines), width), dtype=np.int64)
    for number, line in enumerate(lines):
        at = 0
        for row, targets in line:
            span = slice(at, at + len(row))
            ids[number, span] = row
            labels[number, span] = np.where(targets, row, IGNORED)
            positions[number, span] = np.arange(len(row))
            at += len(row)
        positions[number, at:] = np.arange(width - at)  # padding is a row of its own
    tensors = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
    return tensors, torch.from_numpy(positions)
