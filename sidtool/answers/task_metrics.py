"""The metrics of one task: questions to a model, and how many of its answers are correct.

docs/metrics.md defines every number."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sidtool.answers.questions import Question
from sidtool.answers.sid_answers import sid_answer_metrics
from sidtool.errors import DataError
from sidtool.evaluation.bootstrap import RESAMPLES, intervals
from sidtool.evaluation.metrics import averages
from sidtool.model.load import LoadedModel
from sidtool.recommendation.query import Progress


@dataclass(frozen=True)
class TaskEvaluation:
    """The metrics of one task over n questions."""

    task: str
    n: int
    metrics: dict[str, float]
    """Means over the questions, by name."""
    confidence_interval: dict[str, tuple[float, float]]
    """95% intervals of the means; the perplexity has none."""
    chance: dict[str, float]
    """Accuracy of a SID drawn from the catalog at random; empty where the answer is a text."""
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
    num_beams: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
) -> TaskEvaluation:
    """Query a model with every question: by beam search for SIDs, greedily for texts.

    `also_correct` are further questions, not evaluated, whose answers are correct for the questions
    of their group too. Raises DataError without questions, or if some are answered by a SID and
    others by a text."""
    if not questions:
        raise DataError(f"there are no questions of task {task}")
    kinds = {question.ends_in_sid or ("text", bool(question.prompt)) for question in questions}
    if len(kinds) > 1:
        raise DataError(
            f"the questions of task {task} are of several kinds, which no metric covers together"
        )
    chance: dict[str, float] = {}
    perplexity: dict[str, float] = {}
    if questions[0].ends_in_sid:
        names, values, chance = sid_answer_metrics(
            loaded, questions, also_correct, num_beams, progress
        )
    else:
        from sidtool.answers.text_answers import text_answer_metrics

        names, values, perplexity = text_answer_metrics(loaded, questions, progress)
    # the bootstrap draws single questions
    units = [str(number) for number in range(len(values))]
    return TaskEvaluation(
        task=task,
        n=len(questions),
        metrics=averages(names, values) | perplexity,
        confidence_interval=intervals(names, values, units, seed=seed)["all"],
        chance=chance,
        settings={"num_beams": num_beams, "seed": seed, "resamples": RESAMPLES},
    )
