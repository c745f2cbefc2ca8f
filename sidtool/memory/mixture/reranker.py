"""The re-ranker: a small network, learned on validation users, that orders the first items of a
mixture by more than the two probabilities that it mixes: features of an item for a request, which
docs/ranking.md defines."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.documents import canonical
from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.records import JsonRecord, Rule
from sidtool.memory.manifest import ContentSettings, KnnSettings, MemoryManifest
from sidtool.memory.mixture.gate import LIMIT

HIDDEN = 48
"""Units of each of the two hidden layers."""
FARTHEST_FEATURE = 5.0
"""Standard deviations beyond which features count the same."""
RERANKED = 100
"""Items of a list that are ordered again, the first ones."""
MAX_NETWORKS = 16
MAX_BONUS = 10.0
LOG_FLOOR = -30.0
"""Log-probabilities below this, as those of items that the memory lacks, count as this."""
SCORE_FLOOR = 1e-4
"""Added to an event or content score before its logarithm."""


@dataclass(frozen=True, eq=False)
class ListedItems:
    """The first c items of n requests, in the order of the mixture; (n, c) each, undefined where
    there is no item."""

    rows: NDArray[np.int64]
    """the memory's, -1 for items that it lacks"""
    events: NDArray[np.int64]
    """training events"""
    log_model: NDArray[np.float64]
    log_memory: NDArray[np.float64]
    log_mixture: NDArray[np.float64]
    """logs of the probabilities by each, at least LOG_FLOOR"""
    in_memory: NDArray[np.bool_]
    model_ranks: NDArray[np.int64]
    memory_ranks: NDArray[np.int64]
    """from 0"""
    log_length: NDArray[np.float64]
    """(n, 1) log of 1 + the items of the history"""
    log_last: NDArray[np.float64]
    """(n, 1) log of 1 + the training events of the last of them"""
    event_scores: NDArray[np.float32] = field(init=False)
    content_scores: NDArray[np.float32] = field(init=False)
    followed: NDArray[np.float32] = field(init=False)
    """how often the item came after the last item of the history, as pairs are counted"""
    preceded: NDArray[np.float32] = field(init=False)
    last_cosine: NDArray[np.float32] = field(init=False)
    """with the last item of the history"""
    largest_cosine: NDArray[np.float32] = field(init=False)
    mean_cosine: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        for name, entry in self.__dataclass_fields__.items():
            if not entry.init:
                object.__setattr__(self, name, np.zeros(self.rows.shape, dtype=np.float32))


class Feature(NamedTuple):
    """A number of each item for a request."""

    name: str
    values: Callable[[ListedItems], NDArray[Any]]
    """(n, c), or (n, 1) if it is the same for all items of a request"""
    meaning: str


RERANK_FEATURES = (
    Feature("log p_model", lambda x: x.log_model, "probability by the model"),
    Feature("log p_memory", lambda x: x.log_memory, "probability by the memory"),
    Feature("log mixture", lambda x: x.log_mixture, "mixed probability"),
    Feature("in memory", lambda x: x.in_memory, "1 if the memory gives a probability"),
    Feature("log rank by model", lambda x: np.log1p(x.model_ranks), "within the list"),
    Feature("log rank by memory", lambda x: np.log1p(x.memory_ranks), "within the list"),
    Feature("log event score", lambda x: np.log(x.event_scores + SCORE_FLOOR), "all neighbors"),
    Feature("log content score", lambda x: np.log(x.content_scores + SCORE_FLOOR), "the same"),
    Feature("event score, share of best", lambda x: _share_of_best(x.event_scores), "of the list"),
    Feature("content score, share of best", lambda x: _share_of_best(x.content_scores), "the same"),
    Feature("followed the last item", lambda x: np.log1p(x.followed), "as pairs are counted"),
    Feature("preceded the last item", lambda x: np.log1p(x.preceded), "as pairs are counted"),
    Feature("training events", lambda x: np.log1p(x.events), "of the item"),
    Feature("cosine with last item", lambda x: x.last_cosine, "of the items' vectors"),
    Feature("largest cosine", lambda x: x.largest_cosine, "with the last 20 items"),
    Feature("mean cosine", lambda x: x.mean_cosine, "with these, weighted by their ages"),
    Feature("history length", lambda x: x.log_length, "items that the bundle has"),
    Feature("events of last item", lambda x: x.log_last, "training events"),
    Feature("history length x log p_model", lambda x: x.log_length * x.log_model, "product"),
    Feature("history length x log p_memory", lambda x: x.log_length * x.log_memory, "product"),
    Feature("events of last item x log p_model", lambda x: x.log_last * x.log_model, "product"),
    Feature("events of last item x log p_memory", lambda x: x.log_last * x.log_memory, "product"),
)
"""A stored re-ranker reads the first of them, as many as there were when it was fitted, so a new
one goes last."""
N_FEATURES = len(RERANK_FEATURES)
TRAINING_EVENTS = [feature.name for feature in RERANK_FEATURES].index("training events")


def _share_of_best(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, c) scores over the largest of their row."""
    best = scores.max(axis=1, keepdims=True, initial=0)
    return np.divide(scores, best, out=np.zeros_like(scores), where=best > 0)


def network_shapes(n_features: int) -> tuple[tuple[int, ...], ...]:
    """Of one network's arrays, as `Network` has them."""
    first, second = (n_features, HIDDEN), (HIDDEN, HIDDEN)
    return first, (HIDDEN,), second, (HIDDEN,), (HIDDEN,), (n_features,)


class Network(NamedTuple):
    """linear · x + output · gelu(second gelu(first x + first_bias) + second_bias), float32. Biases
    of the output would change no order."""

    first: NDArray[np.float32]
    first_bias: NDArray[np.float32]
    second: NDArray[np.float32]
    second_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    linear: NDArray[np.float32]

    def scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) for (n, features) standardized features."""
        hidden = gelu(inputs @ self.first + self.first_bias)
        hidden = gelu(hidden @ self.second + self.second_bias)
        return np.asarray(hidden @ self.output + inputs @ self.linear)


def gelu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); overwrites the values' own memory."""
    inner = values * values
    inner *= np.float32(0.044715)
    inner += 1
    inner *= values
    inner *= np.float32(np.sqrt(2 / np.pi))
    np.tanh(inner, out=inner)
    inner += 1
    inner *= values
    inner *= np.float32(0.5)
    return inner


@dataclass(frozen=True)
class Reranker(JsonRecord):
    """Networks on the first of the standardized RERANK_FEATURES, as many as there are means; the
    mean of their scores is added to the log of an item's mixed probability, times `scale`, with a
    bonus for items without training events.

    Raises UsageError for numbers that are out of range or not as many as the features."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: str
    """base64 of float32, little-endian: the arrays of `Network`, of one network after the other"""
    scale: float
    """of the networks' scores, above 0 and at most 1"""
    new_item_bonus: Annotated[float, Rule("a number from 0 to 10", minimum=0, maximum=MAX_BONUS)]
    """added to the scores of items without training events, 0 to MAX_BONUS"""
    exclude_seen: bool
    """whether items of the history were left out where it was fitted"""
    settings: KnnSettings
    """of the memory that it was fitted with"""
    content: ContentSettings | None
    """the same; without the digest of the vectors"""
    digest: str = ""
    """SHA-256 over all of the above"""

    def __post_init__(self) -> None:
        for name in ("means", "scales"):
            values = getattr(self, name)
            if not 0 < len(values) <= len(RERANK_FEATURES) or len(values) != len(self.means):
                raise UsageError(
                    f"a re-ranker of {len(self.means)} of the {len(RERANK_FEATURES)} features has "
                    f"{len(values)} {name}"
                )
            if not all(abs(value) <= LIMIT for value in values):
                raise UsageError(f"a number of a re-ranker's {name} is larger than {LIMIT:g}")
        if min(self.scales) < 1 / LIMIT:
            raise UsageError(f"a scale of a re-ranker is at least {1 / LIMIT:g}")
        if not 0 < self.scale <= 1:
            raise UsageError(f"a re-ranker's scale is above 0 and at most 1, not {self.scale}")
        _ = self.networks  # which raises

    @classmethod
    def of(
        cls,
        means: Sequence[float],
        scales: Sequence[float],
        networks: Sequence[Network],
        manifest: MemoryManifest,
        *,
        scale: float,
        exclude_seen: bool,
        new_item_bonus: float = 0.0,
    ) -> "Reranker":
        """A re-ranker that was fitted with the memory of a manifest."""
        arrays = [np.ravel(array) for network in networks for array in network]
        data = np.concatenate(arrays).astype("<f4").tobytes()
        fitted = cls(
            means=tuple(means),
            scales=tuple(scales),
            weights=base64.b64encode(data).decode("ascii"),
            scale=scale,
            exclude_seen=exclude_seen,
            settings=manifest.settings,
            content=_compared(manifest),
            new_item_bonus=new_item_bonus,
        )
        return replace(fitted, digest=fitted.values_digest)

    @property
    def values_digest(self) -> str:
        """What `digest` is of an intact re-ranker."""
        values = {**self.to_json(), "digest": None}
        return hashlib.sha256(canonical(values)).hexdigest()

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Its networks. Raises UsageError if the weights are not those of 1 to MAX_NETWORKS, or one
        is not finite."""
        try:
            data = base64.b64decode(self.weights, validate=True)
        except ValueError as error:
            raise UsageError("the weights of a re-ranker are not base64") from error
        shapes = network_shapes(len(self.means))
        sizes = [int(np.prod(shape)) for shape in shapes]
        n_networks, remainder = divmod(len(data), 4 * sum(sizes))
        if remainder or not 1 <= n_networks <= MAX_NETWORKS:
            raise UsageError(
                f"a re-ranker has 1 to {MAX_NETWORKS} networks of {4 * sum(sizes)} bytes, not "
                f"{len(data)} bytes"
            )
        weights = np.frombuffer(data, dtype="<f4").astype(np.float32)
        if not (np.abs(weights) <= LIMIT).all():
            raise UsageError(f"a weight of a re-ranker is larger than {LIMIT:g}")
        ends = np.cumsum(sizes)[:-1]
        networks = []
        for row in weights.reshape(n_networks, -1):
            arrays = zip(np.split(row, ends), shapes, strict=True)
            networks.append(Network(*(array.reshape(shape) for array, shape in arrays)))
        return tuple(networks)

    def check(self) -> None:
        """Raise UsageError unless its values are those of its digest."""
        if self.digest != self.values_digest:
            raise UsageError(
                f"the re-ranker has digest {self.digest[:12]}, its values {self.values_digest[:12]}"
            )

    def check_memory(self, manifest: MemoryManifest) -> None:
        """Raise CompatibilityError unless a memory has the settings of the one that this was fitted
        with: it may be of other events."""
        for name, fitted, actual in (
            ("settings", self.settings, manifest.settings),
            ("content", self.content, _compared(manifest)),
        ):
            if fitted != actual:
                raise CompatibilityError(
                    f"the re-ranker was fitted with a memory of {name} {_short(fitted)}, this "
                    f"memory has {_short(actual)}",
                    hint="--no-rerank leaves it out; sidtool tune-memory fits it to this memory",
                )

    def bonuses(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """(...) what is added for items without training events, by (..., RERANK_FEATURES) features
        that are not standardized."""
        return np.where(
            features[..., TRAINING_EVENTS] == 0, np.float32(self.new_item_bonus), np.float32(0)
        )

    def standardized(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The first of (..., RERANK_FEATURES) features in standard deviations from their means."""
        return standardized_features(features[..., : len(self.means)], self.means, self.scales)

    def scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) what is added to the logs of the mixed probabilities of n items, by their (n,
        features) standardized features."""
        total = sum(network.scores(inputs) for network in self.networks)
        return np.asarray(total * np.float32(self.scale / len(self.networks)))

    def contributions(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, features) by how much each feature raises the score of each of n items, against an
        item of which this feature has its mean."""
        scores = self.scores(inputs)
        columns = []
        for feature in range(inputs.shape[1]):
            without = inputs.copy()
            without[:, feature] = 0
            columns.append(scores - self.scores(without))
        return np.stack(columns, axis=1)

    def raised_by(self, inputs: NDArray[np.float32], most: int) -> list[dict[str, float]]:
        """The names of the features that contribute most to the score of each of n items, at most
        so many, by how much they raise it; largest first."""
        names = [feature.name for feature in RERANK_FEATURES[: len(self.means)]]
        return [
            {
                name: value
                for value, name in sorted(zip(values, names, strict=True), reverse=True)[:most]
                if value > 0
            }
            for values in self.contributions(inputs).tolist()
        ]


def standardized_features(
    features: NDArray[np.floating[Any]], means: Sequence[float], scales: Sequence[float]
) -> NDArray[np.float32]:
    """(..., features) features in standard deviations from their means, at most FARTHEST_FEATURE in
    size."""
    deviations = (features - np.array(means, np.float32)) / np.array(scales, np.float32)
    return np.clip(deviations, -FARTHEST_FEATURE, FARTHEST_FEATURE).astype(np.float32, copy=False)


def _compared(manifest: MemoryManifest) -> ContentSettings | None:
    """How a memory compares content, whatever the vectors are."""
    return None if manifest.content is None else replace(manifest.content, vectors="")


def _short(record: JsonRecord | None) -> str:
    """The fields of a record in one line."""
    if record is None:
        return "none"
    return ", ".join(f"{name} {value}" for name, value in record.to_json().items() if value != "")
