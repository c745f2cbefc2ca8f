"""Evaluation of one task: the questions to a model, and how many of its answers are correct. Of
those that are SIDs, accuracy by prefix and retrieval of the item.

docs/metrics.md defines every number."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import argument_options, options_from
from sidtool.base.progress import Progress
from sidtool.base.records import JsonRecord
from sidtool.data import FieldTypes
from sidtool.data.split import Split
from sidtool.data.tables import json_lines, suffix
from sidtool.evaluation.bootstrap import RESAMPLES, intervals
from sidtool.evaluation.held_out import HeldOut
from sidtool.evaluation.metrics import (
    KS,
    LABEL_METRICS,
    TEXT_METRICS,
    AnswerMetrics,
    averages,
    find_targets,
    metric_names,
    metric_values,
)
from sidtool.evaluation.tasks.questions import (
    Question,
    TaskEvaluationOptions,
    make_questions,
    read_questions,
)
from sidtool.examples import named_task
from sidtool.model import LoadedModel, ModelOptions, loaded_model
from sidtool.model.prompt import Segment, prompt_encoder, sorted_labels
from sidtool.recommendation import Query, QuerySession
from sidtool.recommendation.search import BeamOptions, Normalize
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import Leaves, SidSpace

SidCodes = tuple[int, ...]
"""The codes of one SID, or of a prefix of it."""


@dataclass(frozen=True)
class TaskEvaluation(JsonRecord):
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


def evaluate_task(
    model: LoadedModel | str | Path,
    source: Split | str | Path | None,
    options: TaskEvaluationOptions | None = None,
    *,
    bundle: Bundle | str | Path | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> TaskEvaluation:
    """Evaluate a model on one task. The options may also be given as keywords; `bundle` is used in
    place of that of a model's folder.

    `source` is a file of training examples, or for a task about histories a split, a value or where
    it is (as `open_split`); a task about items or queries needs none. Users whose item the bundle
    lacks are left out, and a SidtoolWarning counts them. Raises UsageError if source and options do
    not fit the task, CompatibilityError if the training examples are of another bundle or the model
    may have learned from held-out events, RefusedError if too many users would be left out,
    DataError if there is no question, and as `evaluate_questions`.

    Examples:
        >>> sidtool.evaluate_task("tuned", "split", task="next-item", limit=4, num_beams=5).n
        4
    """
    loading = argument_options(ModelOptions, None, keywords)
    options = options_from(TaskEvaluationOptions, options, keywords, (ModelOptions,))
    # a memory has no part in an answer
    loaded = replace(loaded_model(model, bundle, options=loading), memory=None)
    task = options.task
    per_user = named_task(task).of_users
    if loaded.contract.user_tokens and per_user:
        raise UsageError(
            f"the model has user tokens, and questions of task {task} have none",
            hint="sidtool evaluate measures recommendations, with them",
        )
    has_examples = False
    if isinstance(source, str | Path):
        source = Path(source)
        if not source.is_dir() and suffix(source) in (".jsonl", ".ndjson"):
            # a split may be such a file, too, but its lines are events, which have no task
            has_examples = any("task" in line for _, line in islice(json_lines(source), 1))
    reads_split = source is not None and not has_examples and per_user
    if options.on != "test" and not reads_split:
        raise UsageError(f"--on {options.on} has no effect without a split")
    also_correct: Sequence[Question] = []
    if isinstance(source, Path) and has_examples:
        questions = read_questions(loaded, source, options)
    elif source is not None and per_user:
        if options.only_items is not None:
            raise UsageError(f"task {task} is about users", hint="leave out --only-items")
        held_out = HeldOut.open(loaded, source, options.on)
        fields = held_out.split.fields
        questions, also_correct = make_questions(loaded, held_out.part, options, fields)
    elif source is None and not per_user:
        questions, also_correct = make_questions(loaded, (), options, FieldTypes())
    else:
        needed = "needs a split" if per_user else "is about items or queries and takes no split"
        raise UsageError(f"task {task} {needed}", hint="or give a file of training examples")
    if options.limit is not None and options.limit < len(questions):
        # drawn at random, kept in their order; what is not drawn stays correct for its group
        rng = np.random.default_rng(options.seed)
        drawn = set(rng.choice(len(questions), options.limit, replace=False).tolist())
        not_drawn = [question for n, question in enumerate(questions) if n not in drawn]
        also_correct = [*also_correct, *not_drawn]
        questions = [questions[n] for n in sorted(drawn)]
    return evaluate_questions(
        loaded,
        task,
        questions,
        also_correct=also_correct,
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
    search: BeamOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TaskEvaluation:
    """Query a model with every question: by beam search for SIDs, greedily for texts.

    `also_correct` are further questions, not evaluated, whose answers are correct for the questions
    of their group too. Answers that are feedback are labels, whose probabilities are measured if
    there are few enough (`label_metrics`). Raises DataError without questions, or if some are
    answered by a SID and others by a text, UsageError for a `search.normalize` where no answer is a
    SID."""
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
    if ends_in_sid:
        settings["normalize"] = search.normalize or loaded.contract.normalize
        measured = sid_answer_metrics(
            loaded, questions, also_correct, search.num_beams, settings["normalize"], progress
        )
    else:
        from sidtool.evaluation.tasks.text_answers import label_metrics, text_answer_metrics

        are_labels = named_task(task).target == "feedback"
        if are_labels and sorted_labels(question.text for question in questions):
            measured = label_metrics(loaded, questions)
        else:
            measured = text_answer_metrics(loaded, questions, progress)
    names, values, overall, chance = measured
    # the bootstrap draws single questions
    units = [str(number) for number in range(len(questions))]
    return TaskEvaluation(
        task=task,
        n=len(questions),
        metrics={**averages(names, values), **overall},
        confidence_interval=intervals(names, values, units, seed=seed)["all"],
        chance=dict(chance),
        settings=settings,
    )


def sid_answer_metrics(
    loaded: LoadedModel,
    questions: Sequence[Question],
    also_correct: Sequence[Question],
    num_beams: int,
    normalize: Normalize,
    progress: Progress | None,
) -> AnswerMetrics:
    """Accuracy by prefix, and retrieval of the item; by chance, the accuracy of a SID drawn from
    the catalog at random. `also_correct`: as in `evaluate_questions`."""
    space = loaded.tokens.space
    trie = loaded.bundle.trie()
    ks = tuple(k for k in KS if k <= num_beams)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    split = [split_last_sid(space, question) for question in questions]
    answers = [codes for _, codes in split]
    ranked = (
        QuerySession.of(loaded, normalize)
        .rank(
            loaded.model,
            [Query(encoder.ids(prompt)) for prompt, _ in split],
            k=max(ks),
            num_beams=num_beams,
            total=len(questions),
            progress=progress,
        )
        .leaves
    )
    # of each question every prefix, the whole SID included, of a correct answer
    by_group: dict[tuple[Segment, ...], set[SidCodes]] = defaultdict(set)
    others = [split_last_sid(space, question)[1] for question in also_correct]
    for question, codes in zip([*questions, *also_correct], [*answers, *others], strict=True):
        if question.group is not None:
            by_group[question.group].update(prefixes(codes))
    correct = [
        set(prefixes(codes)) if question.group is None else by_group[question.group]
        for question, codes in zip(questions, answers, strict=True)
    ]
    first_answers = trie.leaf_codes(Leaves(ranked[:, 0])).tolist()
    # (n, levels): 1 where the prefix of the first answer is one of a correct answer
    accuracy = np.array(
        [
            [float(prefix in correct_prefixes) for prefix in prefixes(codes)]
            for codes, correct_prefixes in zip(first_answers, correct, strict=True)
        ]
    )
    accuracy[ranked[:, 0] < 0] = 0  # an empty prompt has no answer
    accuracy_names = _accuracy_names(space.levels)

    # retrieval ranks items: items that share a SID share its rank
    all_codes = trie.leaf_codes(Leaves(np.arange(trie.n_leaves))).tolist()
    leaves = {tuple(codes): leaf for leaf, codes in enumerate(all_codes)}
    targets = Leaves(np.array([leaves.get(codes, -1) for codes in answers], dtype=np.int64))
    sizes = trie.items_per_leaf(ranked)
    retrieval = metric_values(find_targets(ranked, targets, sizes), ks)
    names = (*accuracy_names, *metric_names(ks))
    values = np.concatenate([accuracy, retrieval], axis=1)
    return AnswerMetrics(names, values, chance=_chance(accuracy_names, correct, leaves))


def _accuracy_names(levels: int) -> tuple[str, ...]:
    return (*(f"prefix@{level}" for level in range(1, levels)), "exact")


def task_metric_names(task: str, levels: int, num_beams: int) -> tuple[str, ...]:
    """The metrics that answers of a task may have, SIDs of so many levels or texts."""
    target = named_task(task).target
    if target == "sid":
        return (*_accuracy_names(levels), *metric_names([k for k in KS if k <= num_beams]))
    of_labels = (*LABEL_METRICS, "auc") if target == "feedback" else ()
    return (*of_labels, *TEXT_METRICS, "perplexity")


def _chance(
    names: Sequence[str], correct: Sequence[Set[SidCodes]], leaves: Mapping[SidCodes, int]
) -> dict[str, float]:
    """The expected accuracy of an answer drawn uniformly from the catalog's SIDs."""
    sids_below = Counter(prefix for codes in leaves for prefix in prefixes(codes))
    sums = np.zeros(len(names))
    for correct_prefixes in correct:
        for prefix in correct_prefixes:
            sums[len(prefix) - 1] += sids_below[prefix]
    means = sums / (len(leaves) * len(correct))
    return dict(zip(names, means.tolist(), strict=True))


def split_last_sid(space: SidSpace, question: Question) -> tuple[list[Segment], SidCodes]:
    """The segments before the codes of the last SID, and these codes. Of a whole history that is
    its last item.

    Raises DataError if there is no complete SID of the space."""
    segments = [*question.prompt, *question.answer]
    with_codes = [
        index
        for index, segment in enumerate(segments)
        if any(token < space.n_codes for token in segment.sid_tokens)
    ]
    if not with_codes:
        raise DataError(
            "a question has no SID of the model's bundle",
            hint="make the training examples with this bundle",
        )
    last = with_codes[-1]
    tokens = segments[last].sid_tokens
    # begin and end tokens have indexes from n_codes on: the SID stops behind the last code
    stop = max(count for count, token in enumerate(tokens, 1) if token < space.n_codes)
    start = max(0, stop - space.levels)
    code_tokens = np.array(tokens[start:stop], dtype=np.int64)
    codes = code_tokens - space.offsets[: len(code_tokens)]
    complete = len(codes) == space.levels
    if not complete or (codes < 0).any() or (codes >= space.sizes).any():
        raise DataError(
            "a question ends in an incomplete SID, or one that the model's bundle cannot have",
            hint="make the training examples with this bundle",
        )
    before = segments[:last]
    if start > 0:
        before.append(Segment("sid", sid_tokens=tokens[:start]))
    return before, tuple(codes.tolist())


def prefixes(codes: Sequence[int]) -> list[SidCodes]:
    """Every prefix of a SID, from one code to the whole."""
    return [tuple(codes[:level]) for level in range(1, len(codes) + 1)]
