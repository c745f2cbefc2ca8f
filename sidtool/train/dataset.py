"""Training examples as a trainer takes them: token ids, targets and batches."""

from array import array
from collections.abc import Mapping, Sequence
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
"""The label of a token that is not a target."""

TokenizedExample = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids (n,) and whether each is a target (n,)."""


def answers_with_sid(task: str) -> bool:
    """Whether every answer of a task is a SID; False for an unknown task."""
    named = find_task(task)
    return named is not None and named.target == "sid"


def encode_example(
    example: Mapping[str, Any], encoder: PromptEncoder, tokens: SidTokens, *, codes_only: bool
) -> TokenizedExample:
    """The token ids of a stored example and its targets: the completion, or its codes alone.

    Only codes are targets in item sequences and, with `codes_only`, in all examples. The first
    token is never a target, since nothing comes before it. Raises DataError if the example is
    malformed.
    """
    prompt, completion = prompt_and_completion(example, tokens.space)
    prompt_ids = encoder.ids(prompt)
    ids = np.array(prompt_ids + encoder.ids(completion), dtype=np.int32)
    targets = np.arange(len(ids)) >= max(1, len(prompt_ids))
    if codes_only or example.get("task") == "sequence":
        targets &= (ids >= tokens.start) & (ids < tokens.start + tokens.space.n_codes)
    return ids, targets


@dataclass(frozen=True)
class TokenizedExamples:
    """n examples in flat arrays.

    A plain sequence, because a `datasets.Dataset` formats every example again in every epoch.
    """

    ids: NDArray[np.int32]
    """(tokens,)"""
    targets: NDArray[np.bool_]
    """(tokens,)"""
    offsets: NDArray[np.int64]
    """(n + 1,): example i is at offsets[i]:offsets[i + 1]"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> TokenizedExample:
        span = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[span], self.targets[span]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) int64: tokens of each example."""
        return np.diff(self.offsets)

    @classmethod
    def read(
        cls, path: Path, encoder: PromptEncoder, tokens: SidTokens, *, codes_only: bool
    ) -> "TokenizedExamples":
        """Tokenize a file of training examples; examples without a target are left out.

        Raises DataError, with the line, for a malformed example, and if no example has a target.
        """
        ids = array("i")
        targets = bytearray()
        offsets = [0]
        for number, line in enumerate(example_lines(path), start=1):
            example = parse_example(path, number, line)
            example_ids, example_targets = encode_example(
                example, encoder, tokens, codes_only=codes_only
            )
            # the codes of a history of one item may have nothing before them
            if not example_targets.any():
                continue
            ids.frombytes(example_ids.tobytes())
            targets += example_targets.tobytes()
            offsets.append(len(ids))
        if len(offsets) == 1:
            raise DataError(f"{path} has no training example with a target")
        return cls(
            np.frombuffer(ids, dtype=np.int32),
            np.frombuffer(targets, dtype=np.bool_),
            np.array(offsets, dtype=np.int64),
        )


@dataclass(frozen=True)
class PaddedCollator:
    """Makes batches with one example per line, padded to the longest."""

    pad: int
    """token id of the padding, which nothing attends to"""

    def __call__(self, batch: Sequence[TokenizedExample]) -> dict[str, torch.Tensor]:
        """Examples -> input_ids, labels and attention_mask, (examples, longest) int64 each."""
        tensors, _ = _lay_out([[example] for example in batch], self.pad)
        lengths = torch.tensor([len(ids) for ids, _ in batch])
        mask = torch.arange(tensors["input_ids"].shape[1])[None] < lengths[:, None]
        return tensors | {"attention_mask": mask.long()}


@dataclass(frozen=True)
class PackedCollator:
    """Makes batches with several examples per line, each with positions from 0.

    Loss and gradient are those of `PaddedCollator`, without the padding. transformers derives the
    attention mask that separates examples from the positions, under sdpa attention and without a
    cache only.
    """

    pad: int
    """token id of the padding"""

    def __call__(self, batch: Sequence[TokenizedExample]) -> dict[str, torch.Tensor]:
        """Examples -> input_ids, labels and position_ids, (lines, longest) int64 each."""
        tensors, positions = _lay_out(_first_fit(batch), self.pad)
        return tensors | {"position_ids": positions}


def _first_fit(batch: Sequence[TokenizedExample]) -> list[list[TokenizedExample]]:
    """Put examples into lines no longer than the longest example, by first fit decreasing."""
    ordered = sorted(batch, key=lambda example: -len(example[0]))
    width = len(ordered[0][0])
    lines: list[list[TokenizedExample]] = []
    room: list[int] = []
    for example in ordered:
        length = len(example[0])
        fitting = (number for number, free in enumerate(room) if free >= length)
        line = next(fitting, len(lines))
        if line == len(lines):
            lines.append([])
            room.append(width)
        lines[line].append(example)
        room[line] -= length
    return lines


def _lay_out(
    lines: Sequence[Sequence[TokenizedExample]], pad: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Input ids and labels, and positions, (lines, longest line) int64 each."""
    width = max(sum(len(ids) for ids, _ in line) for line in lines)
    input_ids = np.full((len(lines), width), pad, dtype=np.int64)
    labels = np.full((len(lines), width), IGNORED, dtype=np.int64)
    positions = np.zeros((len(lines), width), dtype=np.int64)
    for number, line in enumerate(lines):
        start = 0
        for ids, targets in line:
            span = slice(start, start + len(ids))
            input_ids[number, span] = ids
            labels[number, span] = np.where(targets, ids, IGNORED)
            positions[number, span] = np.arange(len(ids))
            start += len(ids)
        # padding has positions from 0, like an example of its own
        positions[number, start:] = np.arange(width - start)
    tensors = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
    return tensors, torch.from_numpy(positions)
