"""Metrics of questions whose answer is a SID: accuracy by prefix, and retrieval of the item."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.progress import Progress
from sidtool.evaluation.metrics import KS, find_targets, metric_names, metric_values
from sidtool.evaluation.tasks.questions import GroupKey, Question
from sidtool.model import LoadedModel
from sidtool.model.prompt import Segment, prompt_encoder
from sidtool.recommendation import Query, QuerySession
from sidtool.recommendation.search import Normalize
from sidtool.tokenizer.sid import Leaves, SidSpace

SidCodes = tuple[int, ...]
"""The codes of one SID, or of a prefix of it."""


def sid_answer_metrics(
    loaded: LoadedModel,
    questions: Sequence[Question],
    also_correct: Sequence[Question],
    num_beams: int,
    normalize: Normalize,
    progress: Progress | None,
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, float]]:
    """Metric names, their (n, metrics) values, and the accuracy of a SID drawn from the catalog at
    random. `also_correct`: as in `evaluate_questions`."""
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
    by_group: dict[GroupKey, set[SidCodes]] = defaultdict(set)
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
            [float(prefix in of_question) for prefix in prefixes(codes)]
            for codes, of_question in zip(first_answers, correct, strict=True)
        ]
    )
    accuracy[ranked[:, 0] < 0] = 0  # an empty prompt has no answer
    accuracy_names = (*(f"prefix@{level}" for level in range(1, space.levels)), "exact")

    # retrieval ranks items: items that share a SID share its rank
    all_codes = trie.leaf_codes(Leaves(np.arange(trie.n_leaves))).tolist()
    leaf_of = {tuple(codes): leaf for leaf, codes in enumerate(all_codes)}
    targets = Leaves(np.array([leaf_of.get(codes, -1) for codes in answers], dtype=np.int64))
    sizes = trie.items_per_leaf(ranked)
    retrieval = metric_values(find_targets(ranked, targets, sizes), ks)
    names = (*accuracy_names, *metric_names(ks))
    values = np.concatenate([accuracy, retrieval], axis=1)
    return names, values, _chance(accuracy_names, correct, leaf_of)


def _chance(
    names: Sequence[str], correct: Sequence[Set[SidCodes]], leaf_of: Mapping[SidCodes, int]
) -> dict[str, float]:
    """The expected accuracy of an answer drawn uniformly from the catalog's SIDs."""
    sids_below = Counter(prefix for codes in leaf_of for prefix in prefixes(codes))
    sums = np.zeros(len(names))
    for correct_prefixes in correct:
        for prefix in correct_prefixes:
            sums[len(prefix) - 1] += sids_below[prefix]
    means = sums / (len(leaf_of) * len(correct))
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
