"""Beam search by an engine of vLLM, in the place of sidtool's decoder: one token per beam and step.

As vLLM's own `LLM.beam_search`, but each request has the filter of its prompt, and since no SID
ends early, the engine reports one log-probability per beam instead of two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidtool.base.errors import UsageError
from sidtool.integrations.vllm.row_constraint import RowConstraint
from sidtool.integrations.vllm.settings import RequestSettings
from sidtool.memory import Prior
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search import (
    EMPTY_RESULT,
    BeamResult,
    LeafFilter,
    Normalize,
    best_leaves,
    leaves_of,
)
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import SidPositions

LogProbs = Mapping[int, float]
"""Log-probability by token id."""


@dataclass(frozen=True)
class Beam:
    """A prefix of a SID behind one of the prompts."""

    prompt: int
    """The number of the prompt."""
    ids: tuple[int, ...] = ()
    score: float = 0.0


@dataclass(frozen=True, eq=False)
class VllmSearch:
    """The beam search of an engine whose `SidConstraint` has this constraint."""

    llm: Any
    constraint: RowConstraint
    max_beams: int
    """The widest search that the engine allows."""

    def __call__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        trie: Trie,
        tokens: SidTokens,
        *,
        num_beams: int,
        k: int,
        normalize: Normalize,
        filters: Sequence[LeafFilter | None] | None = None,
        priors: Sequence[Prior | None] | None = None,
        targets: Sequence[int] | None = None,
    ) -> list[BeamResult]:
        """The k best SIDs after each prompt, as `recommendation.search.beam.beam_search` defines
        them; `model` is not used. Raises UsageError for what an engine cannot do: more beams than
        it was started for, another normalization, a memory, targets."""
        num_beams = min(max(num_beams, k), trie.n_leaves)
        filters = filters or [None] * len(prompts)
        self._check(num_beams, normalize, priors, targets)
        extra_args = [self._settings(leaf_filter).to_extra_args() for leaf_filter in filters]
        beams = [Beam(number) for number, prompt in enumerate(prompts) if len(prompt)]
        for _ in range(trie.levels):
            requests = [
                ([*prompts[beam.prompt], *beam.ids], extra_args[beam.prompt]) for beam in beams
            ]
            beams = list(best_beams(beams, self._next_tokens(requests, num_beams), num_beams))
        results = [EMPTY_RESULT] * len(prompts)
        for number in {beam.prompt for beam in beams}:
            ranked = [beam for beam in beams if beam.prompt == number]
            leaves = leaves_of(trie, tokens.codes(np.array([beam.ids for beam in ranked])))
            scores = np.array([beam.score for beam in ranked], dtype=np.float32)
            results[number] = best_leaves(leaves, scores, k)
        return results

    def _check(
        self,
        num_beams: int,
        normalize: Normalize,
        priors: Sequence[Prior | None] | None,
        targets: Sequence[int] | None,
    ) -> None:
        if num_beams > self.max_beams:
            raise UsageError(
                f"{num_beams} beams are too many: the engine was started for {self.max_beams}",
                hint=f"engine_arguments(MODEL, num_beams={num_beams})",
            )
        if normalize != self.constraint.normalize:
            raise UsageError(
                f"scores are to be normalized over {normalize!r}, the engine does so over "
                f"{self.constraint.normalize!r}",
                hint=f"engine_arguments(MODEL, normalize={normalize!r})",
            )
        if priors is not None and any(priors):
            raise UsageError("an engine's beam search cannot be mixed with a memory")
        if targets is not None and max(targets, default=-1) >= 0:
            raise UsageError("an engine's beam search follows no targets")

    def _settings(self, leaf_filter: LeafFilter | None) -> RequestSettings:
        """The filter as item ids, which the engine's processes look up again."""
        if leaf_filter is None:
            return RequestSettings()
        allowed = leaf_filter.allowed
        return RequestSettings(
            allow=None if allowed is None else self._ids(leaf_filter.trie, allowed),
            deny=self._ids(leaf_filter.trie, leaf_filter.denied),
        )

    def _ids(self, trie: Trie, positions: SidPositions) -> tuple[str, ...]:
        ids = self.constraint.bundle.items.ids
        return tuple(ids[row] for row in trie.item_rows(positions).tolist())

    def _next_tokens(
        self, requests: Sequence[tuple[list[int], dict[str, Any]]], num_beams: int
    ) -> list[LogProbs]:
        """The `num_beams` best tokens behind each request's token ids."""
        from vllm import SamplingParams, TokensPrompt

        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids, _ in requests],
            [
                SamplingParams(
                    max_tokens=1,
                    temperature=0.0,
                    logprobs=num_beams,
                    flat_logprobs=True,
                    detokenize=False,
                    ignore_eos=True,
                    extra_args=extra_args,
                )
                for _, extra_args in requests
            ],
            use_tqdm=False,
        )
        answers = [output.outputs[0].logprobs for output in outputs]
        return [dict(zip(answer.token_ids, answer.logprobs, strict=True)) for answer in answers]


def best_beams(
    beams: Sequence[Beam], next_tokens: Sequence[LogProbs], num_beams: int
) -> Iterable[Beam]:
    """The `num_beams` best extensions of each prompt's beams, best first; none has a score of minus
    infinity."""
    extended: dict[int, list[Beam]] = {}
    for beam, log_probs in zip(beams, next_tokens, strict=True):
        extended.setdefault(beam.prompt, []).extend(
            Beam(beam.prompt, (*beam.ids, token), beam.score + log_prob)
            for token, log_prob in log_probs.items()
            if log_prob > -np.inf
        )
    for candidates in extended.values():
        # equal scores in the order of the tokens, as a search over the trie has them
        yield from sorted(candidates, key=lambda beam: (-beam.score, beam.ids))[:num_beams]
