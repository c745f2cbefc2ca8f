"""The verdict of an evaluation in words: how far a model is ahead of item-kNN, and how sure it is.

A share is the mean difference over the mean of the system that the model is compared with; the ends
of its interval are those of the paired difference over the same mean."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sidtool.base.records import JsonRecord
from sidtool.evaluation.bootstrap import Difference
from sidtool.evaluation.held_out import OTHER_MODEL
from sidtool.evaluation.ranking import ITEM_KNN, POPULARITY
from sidtool.evaluation.results import MEMORY_ALONE, MIXTURE, MODEL_ALONE, StoredEvaluation
from sidtool.model.prompt import HistoryPrompt

Standing = Literal["ahead", "level", "behind", "unknown"]
"""Where a model stands beside another system: "level" if the 95% interval of the difference
contains 0, "unknown" if they were not compared."""

NEAR = 10
"""The cut-off of NDCG that decides: the evaluated one nearest to it."""
FEW_USERS = 500
"""With fewer users the sentences say so: intervals are wide."""
MANY_NEW = 0.1
"""From this share of targets on, advice is about new items."""
MANY_TIED = 0.2
"""From this share of tied targets on, the verdict says so."""


@dataclass(frozen=True)
class EvaluationVerdict(JsonRecord):
    """What an evaluation says about a model, in words."""

    standing: Standing
    """Of the model as it recommends, with its memory if it has one, beside item-kNN."""
    sentences: tuple[str, ...]
    """The answer first: yes, no or unknown."""
    advice: str
    """What to try next."""

    def __str__(self) -> str:
        answer, *reasons = self.sentences
        text = "; ".join(reasons)
        return f"{answer}. {text[:1].upper()}{text[1:]}"

    __repr__ = __str__

    def next_step(
        self,
        evaluation: StoredEvaluation,
        model: str,
        prompt: HistoryPrompt | None = None,
        options: Sequence[str] = (),
    ) -> str:
        """What a command ends with: recommendations for a real history, if the answer is yes or
        unknown, with the options of the model that was evaluated, and the fields that its prompt
        shows, each unknown; else the advice."""
        if self.sentences[0].startswith("No"):
            return self.advice
        histories = [sample.history for sample in evaluation.samples[:1]]
        # --history takes ids between commas
        items = [item for history in histories for item in history if "," not in item][-3:]
        items = items or ["ITEM", "ITEM"]
        command = ["sidtool", "recommend", model, *options]
        command += ["--history", ",".join(items), "-k", "10"]
        if prompt is not None and prompt.shows_fields:
            command += ["--fields", json.dumps(prompt.unknown_fields(len(items)).to_json())]
        return shlex.join(command)


def verdict(evaluation: StoredEvaluation) -> EvaluationVerdict:
    """The verdict of an evaluation, by NDCG at the cut-off nearest to ten.

    Without item-kNN the standing is "unknown", and the first sentence has the metric alone."""
    compared = _Compared(evaluation, deciding_metric(evaluation))
    sentences = [compared.answer(), compared.with_item_knn()]
    if compared.standing(POPULARITY) in ("level", "behind"):
        sentences.append(f"the model is {compared.place(POPULARITY, 'popular items')}")
    subjects = {MEMORY_ALONE: "model with memory", MIXTURE: "re-ranked", OTHER_MODEL: "model"}
    for system, subject in subjects.items():
        if compared.standing(system) != "unknown":
            sentences.append(f"{subject} {compared.place(system, f'the {system}')}")
    if compared.standing(ITEM_KNN) != "unknown":
        sentences.append("item-kNN is not tuned")
    sentences += _limits(evaluation)
    return EvaluationVerdict(compared.standing(ITEM_KNN), tuple(sentences), _advice(compared))


def deciding_metric(evaluation: StoredEvaluation) -> str:
    """NDCG at the cut-off nearest to ten."""
    names = [name for name in evaluation.metrics if name.startswith("ndcg@")]
    return min(names, key=lambda name: abs(int(name.partition("@")[2]) - NEAR))


def share_of_new_targets(evaluation: StoredEvaluation) -> float:
    """The share of targets without any training event; 0 where that is unknown."""
    cold = evaluation.slices.get("cold")
    return cold.n / max(1, evaluation.n) if cold is not None else 0.0


@dataclass(frozen=True)
class _Compared:
    """An evaluation in its deciding metric."""

    evaluation: StoredEvaluation
    metric: str

    def difference(self, system: str) -> Difference | None:
        """Of the model from another system; None where one of the two is not stored."""
        if self.metric not in self.evaluation.baselines.get(system, {}):
            return None
        return self.evaluation.differences.get(system, {}).get(self.metric)

    def standing(self, system: str) -> Standing:
        difference = self.difference(system)
        return "unknown" if difference is None else _standing(difference)

    def memory_is_ahead(self) -> bool:
        """Whether the memory alone, too, is measurably better than item-kNN."""
        alone = self.evaluation.differences_from_item_knn.get(MEMORY_ALONE, {}).get(self.metric)
        return alone is not None and _standing(alone) == "ahead"

    def place(self, system: str, name: str, figures: str = "") -> str:
        """Like "11% behind item-kNN (95% interval -18% to -4%)", where `name` is "item-kNN";
        `figures` precede the interval within the brackets."""
        difference = self.difference(system)
        assert difference is not None
        return _place(difference, self.evaluation.baselines[system][self.metric], name, figures)

    def answer(self) -> str:
        """Whether to use the model, in a few words."""
        use = "Yes: use it"
        if self.standing(MEMORY_ALONE) in ("level", "behind") and self.memory_is_ahead():
            use = "Yes: use its memory alone, to which the model adds nothing measurable"
        if self.standing(ITEM_KNN) == "ahead" and self.standing(POPULARITY) in ("level", "behind"):
            return "No: it is not measurably better than popular items"
        return {
            "ahead": use,
            "level": "No: it is not measurably better than item-kNN",
            "behind": "No: item-kNN is better",
            "unknown": "Unknown: item-kNN was not measured beside it",
        }[self.standing(ITEM_KNN)]

    def with_item_knn(self) -> str:
        """How far from item-kNN; of a model with a memory, the model alone comes last."""
        evaluation, metric = self.evaluation, self.metric
        value = _number(evaluation.metrics[metric])
        if self.difference(ITEM_KNN) is None:
            ends = map(_number, evaluation.confidence_interval.get(metric, ()))
            return f"the model has {metric} {value} (95% interval {' to '.join(ends) or 'unknown'})"
        base = evaluation.baselines[ITEM_KNN][metric]
        figures = f"{metric} {value} against {_number(base)}"
        alone = evaluation.differences_from_item_knn.get(MODEL_ALONE, {}).get(metric)
        memory = "with its memory " if MODEL_ALONE in evaluation.baselines else ""
        text = f"{memory}the model is {self.place(ITEM_KNN, 'item-kNN', figures)}"
        # earlier versions did not measure it
        return text if alone is None else f"{text}, without it {_place(alone, base)}"


def _limits(evaluation: StoredEvaluation) -> list[str]:
    """What limits the figures: tied times, new items, targets that nothing can recommend, few
    users."""
    sentences = []
    tied = evaluation.settings.get("tied_targets") or 0
    if tied > MANY_TIED:
        sentences.append(
            f"{_share(tied)} of targets have the time of the event before them: the rows of the "
            "file order the two, and figures may be too high"
        )
    new = share_of_new_targets(evaluation)
    if new:
        sentences.append(f"{_share(new)} of targets are new items")
    for count, why in (
        ("targets_not_recommendable", "cannot be recommended"),
        ("targets_seen", "are seen items, which are never recommended"),
    ):
        if missing := evaluation.counts.get(count, 0):
            sentences.append(f"{_share(missing / max(1, evaluation.n))} of targets {why}")
    users = evaluation.counts.get("users", evaluation.n)
    if users < FEW_USERS:
        named = "1 user" if users == 1 else f"{users} users"
        sentences.append(f"with {named} only large differences show")
    return sentences


def _advice(compared: _Compared) -> str:
    standing = compared.standing(ITEM_KNN)
    over_memory = compared.standing(MEMORY_ALONE)
    memory = compared.evaluation.settings.get("memory", {})
    if standing == "unknown" and compared.evaluation.slices:  # counted in training events
        return "evaluate with baselines=True, which has item-kNN beside the model"
    if standing == "unknown":
        return "evaluate on a split with training events, which has item-kNN beside the model"
    if not memory and over_memory == "unknown" and standing != "ahead":
        # a memory is mixed with scores that are normalized over the trie
        trained = compared.evaluation.settings.get("normalize", "trie") == "trie"
        before = "" if trained else "train on tasks that answer with SIDs, "
        return f"add a memory: {before}build-memory, then tune-memory"
    if share_of_new_targets(compared.evaluation) >= MANY_NEW and not memory.get("content"):
        return "give the memory content for new items: build-memory --items CATALOG"
    if compared.standing(POPULARITY) in ("level", "behind"):
        return "train longer (fit --minutes), or show popular items: they are hard to beat here"
    if over_memory == "behind" or over_memory == "level":
        return "train longer (fit --minutes), or serve the memory alone: --memory-weight 1"
    if compared.answer().startswith("No"):
        return (
            "train longer (fit --minutes); where validation has stopped improving, look for "
            "overfitting, too few events or a level with few codes in use (inspect BUNDLE)"
        )
    return "train a second seed before you rely on small differences"


def _standing(difference: Difference) -> Standing:
    if difference.low > 0:
        return "ahead"
    return "behind" if difference.high < 0 else "level"


def _place(difference: Difference, base: float, name: str = "", figures: str = "") -> str:
    """As `_Compared.place`, for a system with the mean `base`: differences are shares of `base`,
    or differences of the metric where `base` is 0."""
    distance = _number(abs(difference.mean)) if base == 0 else _share(abs(difference.mean) / base)
    place, preposition = {
        "ahead": (f"{distance} ahead", " of "),
        "behind": (f"{distance} behind", " "),
        "level": ("level", " with "),
    }[_standing(difference)]
    if name:
        place += preposition + name
    # no metric is below 0, so nothing is behind by more than all of it
    low, high = (max(-1.0, end / (base or 1)) for end in (difference.low, difference.high))
    number_format = "+.4f" if base == 0 else "+z.0%"
    interval = f"95% interval {low:{number_format}} to {high:{number_format}}"
    return f"{place} ({figures}, {interval})" if figures else f"{place} ({interval})"


def _number(value: float) -> str:
    """Like .0576."""
    return f"{value:.4f}".removeprefix("0")


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.02 else f"{value:.1%}"
