"""The memory in the loss of a training run, checked against the training examples."""

from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.data.split.files import open_split
from sidtool.data.split.split import Split
from sidtool.examples.lineage import Lineage, check_same_split
from sidtool.memory.leave_out import check_origin
from sidtool.memory.memory import Memory
from sidtool.registry.references import open_memory
from sidtool.tokenizer.bundle.bundle import Bundle


@dataclass(frozen=True, eq=False)
class TrainingMemory:
    """A memory, and the split that it was built from."""

    memory: Memory
    split: Split


def open_training_memory(
    memory: Memory | str | Path | None,
    split: Split | str | Path | None,
    lineage: Lineage,
    bundle: Bundle,
    softmax_over: str,
) -> TrainingMemory | None:
    """The memory and the split of a run; None without both.

    Raises UsageError for one without the other or another softmax, CompatibilityError unless the
    split is that of the training examples and the memory was built from it, for their bundle;
    IntegrityError if one of them is damaged."""
    if memory is None and split is None:
        return None
    if memory is None or split is None:
        raise UsageError(
            "--memory and --split require each other: the loss leaves out the events of each "
            "example's user, which the split has",
            hint="--memory MEMORY --split SPLIT",
        )
    if softmax_over != "trie":
        raise UsageError(
            f"--memory requires softmax_over=trie, not {softmax_over}: the probabilities of all "
            "items must sum to one"
        )
    if not isinstance(split, Split):
        split = open_split(split)
    check_same_split(lineage, split)
    if not isinstance(memory, Memory):
        memory = open_memory(memory)
    check_origin(memory, bundle, split)
    return TrainingMemory(memory, split)
