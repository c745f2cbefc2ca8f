"""Evaluation of one task: the questions to a model, and how many of its answers are correct.

docs/metrics.md defines every number."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import options_from
from sidtool.base.progress import Progress
from sidtool.data import FieldTypes
from sidtool.data.split import open_split
from sidtool.data.tables import json_lines, suffix
from sidtool.evaluation.bootstrap import RESAMPLES, intervals
from sidtool.evaluation.metrics import averages
from sidtool.evaluation.options import TaskEvaluationOptions
from sidtool.evaluation.tasks.questions import Question, Questions, make_questions, read_questions
from sidtool.evaluation.tasks.sid_answers import sid_answer_metrics
from sidtool.examples import named_task
from sidtool.model import LoadedModel, load_model_folder
from sidtool.model.contract import check_model_split, event_columns
from sidtool.model.prompt import MOST_LABELS
from sidtool.recommendation.search import BeamOptions


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


def evaluate_task(
    model: LoadedModel | str | Path,
    source: str | Path | None,
    options: TaskEvaluationOptions | None = None,
    *,
    progress: Progress | None = None,
    **given: Any,
) -> TaskEvaluation:
    """Evaluate a model on one task. The options may also be given as keywords.

    `source` is a file of training examples, or for a task about histories a split (as
    `open_split`); a task about items or queries needs none. Users whose item the bundle lacks are
    left out, and a SidtoolWarning counts them. Raises UsageError if source and options do not fit
    the task, CompatibilityError if the training examples are of another bundle or the model may
    have learned from held-out events, DataError if there is no question, and as
    `evaluate_questions`.

    Examples:
        >>> sidtool.evaluate_task("tuned", "split", task="next-item", limit=4, num_beams=5).n
        4
    """
    options = options_from(TaskEvaluationOptions, options, given)
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    source = None if source is None else Path(source)
    task = options.task
    per_user = named_task(task).of_users
    if loaded.contract.user_tokens and per_user:
        raise UsageError(
            f"the model has user tokens, and questions of task {task} have none",
            hint="sidtool evaluate measures recommendations, with them",
        )
    has_examples = False
    if source is not None and not source.is_dir() and suffix(source) in (".jsonl", ".ndjson"):
        has_examples = any("task" in value for _, value in islice(json_lines(source), 1))
    if options.on != "test" and (has_examples or source is None or not per_user):
        raise UsageError(f"--on {options.on} has no effect without a split")
    if source is not None and has_examples:
        questions = Questions(read_questions(loaded, source, options), [])
    elif source is None and not per_user:
        questions = make_questions(loaded, (), options, FieldTypes())
    elif source is None or not per_user:
        needed = "needs a split" if per_user else "is about items or queries and takes no split"
        raise UsageError(f"task {task} {needed}", hint="or give a file of training examples")
    else:
        if options.only_items is not None:
            raise UsageError(f"task {task} is about users", hint="leave out --only-items")
        columns = event_columns(loaded.contract, loaded.bundle)
        split = open_split(source, recorded=columns)
        check_model_split(loaded.contract, loaded.bundle, str(source), split.reference)
        examples = split.test if options.on == "test" else split.valid
        questions = make_questions(loaded, examples, options, split.fields)
    sampled, others = questions
    if options.limit is not None and options.limit < len(sampled):
        # at random, in their order; the answers of the others stay correct for their groups
        rng = np.random.default_rng(options.seed)
        drawn = set(rng.choice(len(sampled), options.limit, replace=False).tolist())
        others = [*others, *(each for n, each in enumerate(sampled) if n not in drawn)]
        sampled = [sampled[n] for n in sorted(drawn)]
    return evaluate_questions(
        loaded,
        task,
        sampled,
        also_correct=others,
        are_labels=named_task(task).predicts_feedback,
        search=options,
        seed=options.seed,
        progress=progress,
    )


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
    of their group too. With `are_labels`, answers are labels, whose probabilities are measured if
    there are at most MOST_LABELS (`label_metrics`). Raises DataError without questions, or if some
    are answered by a SID and others by a text, UsageError for a `search.normalize` where no answer
    is a SID."""
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
    elif are_labels and len({question.text for question in questions}) <= MOST_LABELS:
        from sidtool.evaluation.tasks.label_answers import label_metrics

        names, values, of_all, chance = label_metrics(loaded, questions)
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
