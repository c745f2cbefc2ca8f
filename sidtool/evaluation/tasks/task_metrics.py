"""The metrics of one task: questions to a model, and how many of its answers are correct.

docs/metrics.md defines every number."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sidtool.base.errors import DataError, UsageError
from sidtool.base.progress import Progress
from sidtool.evaluation.bootstrap import RESAMPLES, intervals
from sidtool.evaluation.metrics import averages
from sidtool.evaluation.tasks.questions import Question
from sidtool.evaluation.tasks.sid_answers import sid_answer_metrics
from sidtool.model.load import LoadedModel
from sidtool.recommendation.search.search_options import BeamOptions


@dataclass(frozen=True)
class TaskEvaluation:
    """The metrics of one task over n questions."""

    task: str
    n: int
    metrics: dict[str, float]
    """Means over the questions, by name."""
    confidence_interval: dict[str, tuple[float, float]]
    """95% intervals of the means; perplexity and AUC have none."""
    chance: dict[str, float]
    """Accuracy of a SID drawn from the catalog at random, or what the shares of labels reach; empty
    where the answer is a text."""
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the fields."""
        return asdict(self)


def evaluate_questions(
    loaded: LoadedModel,
    task: str,
    questions: Sequence[Question],
    *,
    also_correct: Sequence[Question] = (),
    are_labels: bool = False,
    search: BeamOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TaskEvaluation:
    """Query a model with every question: by beam search for SIDs, greedily for texts.

    `also_correct` are further questions, not evaluated, whose answers are correct for the questions
    of their group too. With `are_labels`, answers are labels, whose probabilities are measured
    if they are few (`label_metrics`). Raises DataError without questions, or if some are answered
    by a SID and others by a text, UsageError for a `search.normalize` where no answer is a SID."""
    if not questions:
        raise DataError(f"there are no questions of task {task}")
    kinds = {question.ends_in_sid or ("text", bool(question.prompt)) for question in questions}
    if len(kinds) > 1:
        raise DataError(
            f"the questions of task {task} are of several kinds, which no metric covers together"
        )
    ends_in_sid = questions[0].ends_in_sid
    search = search or BeamOptions()
    if search.normalize is not None and not ends_in_sid:
        raise UsageError(
            f"no answer of task {task} is a SID, so normalizing over the {search.normalize} has no "
            "effect",
            hint="leave out --normalize",
        )
    settings: dict[str, Any] = {"num_beams": search.num_beams, "seed": seed, "resamples": RESAMPLES}
    chance: dict[str, float] = {}
    of_all: dict[str, float] = {}
    if ends_in_sid:
        settings["normalize"] = search.normalize or loaded.contract.normalize
        names, values, chance = sid_answer_metrics(
            loaded, questions, also_correct, search.num_beams, settings["normalize"], progress
        )
    elif are_labels:
        from sidtool.evaluation.tasks.label_answers import label_metrics

        names, values, of_all, chance = label_metrics(loaded, questions, progress)
    else:
        from sidtool.evaluation.tasks.text_answers import text_answer_metrics

        names, values, of_all = text_answer_metrics(loaded, questions, progress)
    # the bootstrap draws single questions
    units = [str(number) for number in range(len(values))]
    return TaskEvaluation(
        task=task,
        n=len(questions),
        metrics=averages(names, values) | of_all,
        confidence_interval=intervals(names, values, units, seed=seed)["all"],
        chance=chance,
        settings=settings,
    )
