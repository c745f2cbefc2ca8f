"""A model's answers to the questions of one task, and how right they are: SIDs, texts, or running
text.

Knows questions and answers as segments; knows nothing of what a task is called for or where its
questions come from. docs/metrics.md defines every number."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.trie import Trie
from sidtool.errors import DataError, UsageError
from sidtool.evaluate.bootstrap import RESAMPLES, intervals
from sidtool.evaluate.metrics import KS, averages, find_targets, metric_names, metric_values
from sidtool.model.load import LoadedModel
from sidtool.prompt.encoder import prompt_encoder
from sidtool.prompt.segments import Segment
from sidtool.sid import Codes, SidSpace

Progress = Callable[[int, int], None]
Key = tuple[object, ...]


@dataclass(frozen=True)
class Question:
    """What is asked and what is right; a question without a prompt is a text of which all is to be
    foretold.

    `group`: questions of one group ask the same, so what is right for one is right for all (items
    may share a title)."""

    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]
    group: Key | None = None

    @property
    def ends_in_sid(self) -> bool:
        """Whether the answer is a SID, and no text."""
        return all(piece.kind != "catalog" for piece in self.answer)


@dataclass(frozen=True)
class TaskEvaluation:
    """What was found: means by name, their 95% intervals, and what a guess would have reached (SID
    accuracy only)."""

    task: str
    n: int
    metrics: dict[str, float]
    ci: dict[str, tuple[float, float]]
    chance: dict[str, float]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the fields."""
        return asdict(self)


def evaluate_task(
    served: LoadedModel,
    task: str,
    questions: Sequence[Question],
    *,
    alike: Sequence[Question] = (),
    width: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
) -> TaskEvaluation:
    """Ask a model every question and measure its answers: by the beam for SIDs, greedily for texts.

    `alike` are further questions that are not asked, but whose answers are right for a question of
    their group. Raises DataError without questions, or if some end in a SID and others do not."""
    if not questions:
        raise DataError(f"there are no questions of task {task}")
    if len({question.ends_in_sid or ("text", bool(question.prompt)) for question in questions}) > 1:
        raise DataError(
            f"the questions of task {task} are of several kinds: no measure fits all of them"
        )
    chance: dict[str, float] = {}
    if questions[0].ends_in_sid:
        names, values, chance = _sid_values(served, questions, alike, width, progress)
        extra: dict[str, float] = {}
    else:
        from sidtool.evaluate.texts import text_values

        names, values, extra = text_values(served, questions, progress)
    ends = (
        intervals(values, [str(number) for number in range(len(values))], seed=seed).tolist()
        if names
        else []
    )
    return TaskEvaluation(
        task=task,
        n=len(questions),
        metrics=averages(names, values) | extra,
        ci={name: (low, high) for name, (low, high) in zip(names, ends, strict=True)},
        chance=chance,
        settings={"width": width, "seed": seed, "resamples": RESAMPLES},
    )


def _sid_values(
    served: LoadedModel,
    questions: Sequence[Question],
    alike: Sequence[Question],
    width: int,
    progress: Progress | None,
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, float]]:
    """Names, (n, metrics) values, and what a SID drawn from the catalog at random would reach."""
    if width < 1:
        raise UsageError(f"the width is at least 1, not {width}")
    space, trie = served.tokens.space, served.bundle.trie()
    ks = tuple(k for k in KS if k <= width)
    encoder = prompt_encoder(served.tokenizer, served.tokens)
    asked = [_before_last_sid(space, question) for question in questions]
    leaves = _ranked(
        served, [encoder.ids(prompt) for prompt, _ in asked], trie, max(ks), width, progress
    )
    own = np.array([code for _, code in asked], dtype=np.uint16)  # (n, levels)
    right = _right(space, questions, own, alike)
    found = map(_prefixes, trie.leaf_codes(leaves[:, 0]).tolist())
    hits = np.array(
        [[float(prefix in good) for prefix in one] for one, good in zip(found, right, strict=True)]
    )
    hits[leaves[:, 0] < 0] = 0  # a prompt without a token has no answer
    levels = (*(f"prefix@{level}" for level in range(1, space.levels)), "exact")
    leaf_of = {
        tuple(row): leaf
        for leaf, row in enumerate(trie.leaf_codes(np.arange(trie.n_leaves)).tolist())
    }
    targets = np.array([leaf_of.get(tuple(row), -1) for row in own.tolist()], dtype=np.int64)
    sizes = (
        None
        if trie.leaf_start is None
        else np.where(leaves >= 0, np.diff(trie.leaf_start)[leaves], 0)
    )
    ranks = metric_values(find_targets(leaves, targets, sizes), ks)
    return (
        (*levels, *metric_names(ks)),
        np.concatenate([hits, ranks], axis=1),
        _chance(levels, right, leaf_of),
    )


def _ranked(
    served: LoadedModel,
    prompts: list[list[int]],
    trie: Trie,
    k: int,
    width: int,
    progress: Progress | None,
) -> NDArray[np.int64]:
    """(n, k) int64: the best SIDs of each prompt as leaves, -1 where there are no more."""
    from sidtool.evaluate.ranking import CHUNK
    from sidtool.recommend.beam import beam_search

    ranked = np.full((len(prompts), k), -1, dtype=np.int64)
    for start in range(0, len(prompts), CHUNK):
        part = prompts[start : start + CHUNK]
        for row, (leaves, _) in enumerate(
            beam_search(
                served.model,
                part,
                trie,
                served.tokens,
                width=width,
                k=k,
                normalize=served.contract.normalize,
            ),
            start,
        ):
            ranked[row, : len(leaves)] = leaves
        if progress is not None:
            progress(start + len(part), len(prompts))
    return ranked


def _before_last_sid(space: SidSpace, question: Question) -> tuple[list[Segment], tuple[int, ...]]:
    """What comes before the codes of the last SID, and these codes: a whole history asks for its
    last item.

    Raises DataError if there is no whole SID of the space.
    """
    pieces = [*question.prompt, *question.answer]
    spoken = [
        place
        for place, piece in enumerate(pieces)
        if any(code < space.n_codes for code in piece.sid_tokens)
    ]
    if not spoken:
        raise DataError(
            "a question holds no SID of the model's bundle", hint="make the rows with this bundle"
        )
    last = spoken[-1]
    places = pieces[last].sid_tokens
    stop = max(at for at, code in enumerate(places, 1) if code < space.n_codes)
    asked = places[max(0, stop - space.levels) : stop]
    codes = np.array(asked, dtype=np.int64) - space.offsets[: len(asked)]
    if len(codes) < space.levels or (codes < 0).any() or (codes >= space.sizes).any():
        raise DataError(
            "a question ends in what is no SID of the model's bundle",
            hint="make the rows with this bundle",
        )
    rest = places[: stop - space.levels]
    return [*pieces[:last], *([Segment("sid", sid_tokens=rest)] if rest else [])], tuple(
        codes.tolist()
    )


def _right(
    space: SidSpace, questions: Sequence[Question], own: Codes, alike: Sequence[Question]
) -> list[frozenset[tuple[int, ...]]]:
    """For each question every prefix, the whole SID among them, of an answer that is right."""
    groups: dict[Key, set[tuple[int, ...]]] = defaultdict(set)
    further = ((question, _before_last_sid(space, question)[1]) for question in alike)
    for question, codes in (*zip(questions, map(tuple, own.tolist()), strict=True), *further):
        if question.group is not None:
            groups[question.group].update(_prefixes(codes))
    return [
        frozenset(_prefixes(codes) if question.group is None else groups[question.group])
        for question, codes in zip(questions, own.tolist(), strict=True)
    ]


def _prefixes(codes: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(codes[:level]) for level in range(1, len(codes) + 1)]


def _chance(
    levels: Sequence[str],
    right: Sequence[frozenset[tuple[int, ...]]],
    leaves: Mapping[tuple[int, ...], int],
) -> dict[str, float]:
    """The share of right answers if the answer were any SID of the catalog, each as likely as
    another."""
    under = Counter(prefix for codes in leaves for prefix in _prefixes(codes))
    sums = np.zeros(len(levels))
    for good in right:
        for prefix in good:
            sums[len(prefix) - 1] += under[prefix]
    return dict(zip(levels, (sums / (len(leaves) * len(right))).tolist(), strict=True))
