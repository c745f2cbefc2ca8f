"""A model with everything that answers need, as one value that is replaced as a whole."""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

from sidtool.base.errors import RefusedError
from sidtool.model import LoadedModel
from sidtool.model.contract import targets_repeat
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommender import Recommender
from sidtool.recommendation.requests import BadRequest, Request
from sidtool.recommendation.search.search_options import seen_reason
from sidtool.recommendation.serve.bodies import Choices
from sidtool.recommendation.serve.sources import Version

MAX_RECOMMENDERS = 32
"""Combinations of options, and lists of candidates, that are kept."""


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model in use. All arrays of its bundle are in memory, so that files which are
    replaced later do not matter."""

    loaded: LoadedModel
    version: Version
    defaults: RecommendOptions
    base: Recommender
    """What answers requests without options of their own."""
    _recommenders: OrderedDict[Choices, Recommender] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, loaded: LoadedModel, version: Version, defaults: RecommendOptions) -> Self:
        """Read the bundle, and look up the lists of all requests. Raises as `Recommender.of`."""
        bundle = loaded.bundle
        _ = bundle.codebook  # /v1/encode reads it
        bundle.items.rows(["an id"])  # reads the index
        if len(bundle):
            bundle.items.title(0)
        return cls(loaded, version, defaults, Recommender.of(loaded, defaults, None))

    @property
    def device(self) -> str:
        """The kind of device that the model is on, such as "cpu"."""
        return str(self.loaded.model.device.type)

    @property
    def seen(self) -> str:
        """Whether seen items are recommended by default, and why."""
        return seen_reason(self.defaults.exclude_seen, targets_repeat(self.loaded.contract))

    def recommender(self, choices: Choices) -> Recommender:
        """What answers requests with these options; the model's thread is the only caller.

        Raises UsageError for options that the model does not support, DataError for candidates
        that the bundle lacks."""
        if choices in self._recommenders:
            self._recommenders.move_to_end(choices)
            return self._recommenders[choices]
        options = choices.options(self.defaults)
        if options.list is not None:
            made = Recommender.of(self.loaded, options, None)  # lists have a prompt of their own
        elif choices.candidates is None:
            made = self.base.with_options(options)
        else:
            session = self.base.session
            made = Recommender.of(self.loaded, options, choices.candidates, session)
        self._recommenders[choices] = made
        while len(self._recommenders) > MAX_RECOMMENDERS:
            self._recommenders.popitem(last=False)
        return made

    def tree_tokens(self, choices: Choices) -> int:
        """Tokens of what grows behind the prompt of a request with these options."""
        trie = self.base.session.trie
        if choices.candidates is not None:
            return len(choices.candidates) * trie.levels
        options = self.recommender(choices).options
        if options.list is not None:
            return options.num_beams * options.k * trie.levels
        beams = min(max(options.num_beams, options.k), trie.n_leaves)
        return beams * (trie.levels - 1)

    def warm_up(self) -> None:
        """Answer one request, so that what is made at first use exists. Raises RefusedError if the
        model cannot answer at all."""
        contract = self.loaded.contract
        prompt = contract.history_prompt
        history = tuple(islice(self.loaded.bundle.items.ids, 1))
        request = Request(history=history)
        if prompt is None and contract.text_prompt is not None:
            request = Request(text="a text")
        elif prompt is not None and prompt.shows_fields:
            request = Request(history=history, fields=prompt.unknown_fields(len(history)))
        (answer,) = self.base.answer([request])
        if isinstance(answer, BadRequest):
            raise RefusedError(f"the model cannot answer: {answer.error}")

    def to_json(self) -> dict[str, Any]:
        """What is served, for /readyz."""
        bundle = self.loaded.bundle
        memory = self.loaded.memory
        return {
            "model": self.version.model,
            "bundle": bundle.digest,
            "bundle_version": bundle.manifest.version,
            "items": len(bundle),
            "compatibility": self.loaded.verdict.kind,
            "memory": None if memory is None else memory.memory.digest,
            "exclude_seen": self.base.options.exclude_seen,
            "seen": self.seen,
        }
