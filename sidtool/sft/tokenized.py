"""Training examples as token ids and targets."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import DataError
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.tokens import SidTokens
from sidtool.sft.example_file import prompt_and_completion, read_training_examples
from sidtool.sft.tasks import find_task

TokenizedExample = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids (n,) and whether each is a target (n,)."""


def answers_with_sid(task: str) -> bool:
    """Whether every answer of a task is a SID; False for an unknown task."""
    definition = find_task(task)
    return definition is not None and definition.target == "sid"


def encode_example(
    example: Mapping[str, Any], encoder: PromptEncoder, tokens: SidTokens, *, codes_only: bool
) -> TokenizedExample:
    """The token ids of a stored example and its targets: the completion, or its codes alone.

    Only codes are targets in item sequences and, with `codes_only`, in all examples. The first
    token is never a target, since nothing comes before it. Raises DataError if the example is
    malformed."""
    prompt, completion = prompt_and_completion(example, tokens.space)
    prompt_ids = encoder.ids(prompt)
    ids = np.array(prompt_ids + encoder.ids(completion), dtype=np.int32)
    targets = np.arange(len(ids)) >= max(1, len(prompt_ids))
    # begin and end tokens, which follow from the position, and closing text are no targets then
    if codes_only or example.get("task") == "sequence":
        targets &= (ids >= tokens.start) & (ids < tokens.start + tokens.space.n_codes)
    return ids, targets


@dataclass(frozen=True)
class TokenizedExamples:
    """n examples in flat arrays.

    A plain sequence, because a `datasets.Dataset` formats every example again in every epoch."""

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

        Raises DataError, with the line, for a malformed example, and if no example has a target."""
        ids = array("i")
        targets = bytearray()
        offsets = [0]
        for example in read_training_examples(path):
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
