"""What settings and training examples a kind of model can be trained with."""

from collections.abc import Iterable
from typing import Literal

from sidtool.base.errors import UsageError
from sidtool.examples.lineage import Lineage
from sidtool.examples.tasks import find_task
from sidtool.model.contract.contract import ModelKind
from sidtool.training.settings import TrainOptions

SlidingWindows = Literal["none", "drawn", "all"]


def sliding_windows(options: TrainOptions, kind: ModelKind) -> SlidingWindows:
    """How item sequences become examples, with `auto` resolved."""
    if options.sliding_windows != "auto":
        return options.sliding_windows
    return "none" if kind == "causal" else "drawn"


def check_kind(
    kind: ModelKind, teachers: Iterable[ModelKind], options: TrainOptions, lineage: Lineage
) -> None:
    """Raise UsageError if the model or a teacher has an encoder, and the settings or the examples
    leave it no prompt to read, or if the tokens of prefixes would have to be known."""
    windows = sliding_windows(options, kind)
    has_sequences = "sequence" in lineage.tasks
    if options.token_budget is not None and has_sequences and windows != "none":
        raise UsageError(
            f"token_budget counts tokens of whole sequences, and sliding_windows={windows} trains "
            "on prefixes",
            hint="num_train_epochs",
        )
    if kind != "causal" and options.batching == "packed":
        raise UsageError(
            "examples cannot be packed for an encoder-decoder, which reads one prompt per line",
            hint="leave batching out",
        )
    if all(each == "causal" for each in (kind, *teachers)):
        return
    for name in lineage.tasks:
        task = find_task(name)
        if task is not None and task.is_running_text:
            raise UsageError(
                f"task {name} is running text, which has no prompt that an encoder could read",
                hint="make training examples without it",
            )
    if windows == "none" and has_sequences:
        raise UsageError(
            "with sliding_windows=none an item sequence is one example, which has no prompt that "
            "an encoder could read",
            hint="sliding_windows=drawn",
        )
