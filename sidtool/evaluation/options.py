"""The options of evaluations, shared by the library and the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, group, option, read_ids
from sidtool.data import UnknownOptions
from sidtool.data.split import MAX_LENGTH
from sidtool.evaluation.metrics import COVERED, KS, metric_names
from sidtool.examples import TaskCatalogOptions, named_task
from sidtool.recommendation.search import BeamOptions, SearchOptions, SeenOptions


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """Which held-out examples a model is evaluated on."""

    on: Literal["test", "valid"] = option("test")
    """Part of the split to evaluate on."""
    limit: int | None = option(None, minimum=1)
    """Number of examples: users evenly spread over the split, or random questions of a task."""
    seed: int = option(0, minimum=0)
    """Seed of the bootstrap, and of random questions."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(UnknownOptions, HeldOutOptions, SearchOptions):
    """How recommendations are evaluated: at least the largest cut-off is the beam width, and no
    system, baselines included, recommends a seen item with `exclude_seen`. A model that the model
    is compared with is decoded as it was trained.

    Raises UsageError for a number out of range or unordered cut-offs."""

    ks: tuple[int, ...] = KS
    """Cut-offs of the metrics."""
    baselines: bool = True
    by: tuple[str, ...] = option((), metavar="FIELD")
    """Print the metrics also by the values of a field of the split: user.FIELD, context.FIELD or
    feedback.FIELD; repeatable."""
    weight: str | None = option(None, metavar="FIELD")
    """Print also the mean weighted by this feedback of the target."""
    target: tuple[str, ...] = option((), metavar="CONDITION")
    """Evaluate only examples whose target fulfills this, like 'rating>=4'; repeatable."""
    samples: int = option(20, minimum=0)
    """Number of users in --json with their history and recommendations, which `sidtool report`
    shows; 0 for none."""
    threads: int | None = option(None, minimum=1)
    """Threads of the baselines; default: one per core. The result is the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        metric_names(self.ks)

    @property
    def depth(self) -> int:
        """Number of SIDs that are ranked for each example."""
        return max(*self.ks, COVERED)


@dataclass(frozen=True, kw_only=True)
class ListEvaluationOptions(UnknownOptions, HeldOutOptions, SearchOptions):
    """How lists are evaluated. Raises UsageError for a number out of range."""

    length: int = option(10, minimum=1, maximum=MAX_LENGTH, metavar="M")
    """The largest number of items in a list."""
    order: str | None = option(None, metavar="FIELD")
    """Feedback by which the items of a session are ordered, the largest first. Default: as the
    lists of the training were."""
    baselines: bool = True


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(UnknownOptions, HeldOutOptions, BeamOptions):
    """Which questions of a task are evaluated. Raises UsageError for a number out of range."""

    items: Path | None = option(None)
    """Catalog that the task's questions are made of; default: the bundle's titles."""
    only_items: frozenset[str] | None = option(None, reads=read_ids)
    """File of item ids, one per line: questions about these items only."""


@dataclass(frozen=True, kw_only=True)
class TaskEvaluationOptions(QuestionOptions):
    """Which questions of which task are evaluated. Raises UsageError for an unknown task."""

    task: str
    catalog: TaskCatalogOptions = group(TaskCatalogOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if named_task(self.task).writes_list:
            raise UsageError(
                "lists are no questions with one answer", hint="sidtool evaluate-lists MODEL SPLIT"
            )


@dataclass(frozen=True, kw_only=True)
class TuneMemoryOptions(SeenOptions):
    """How weight and power are chosen. Raises UsageError for a number out of range."""

    users: int | None = option(None, minimum=1)
    """Validation examples, evenly spread; default: all."""
    num_beams: int = option(100, minimum=1)
    """Beam width, and the number of items that are ranked again."""
    rerank: bool = option(True)
    """Fit a re-ranker too, and use it if it is better on users that it was not fitted to."""

    def __post_init__(self) -> None:
        check_options(self)
