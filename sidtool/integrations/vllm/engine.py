"""Recommendations from an engine of vLLM: how it is started, and a model that `recommend` takes.
The option `--engine` is another thing: where work is done (`integrations/cluster/engines.py`).

    from vllm import LLM
    from sidtool.integrations.vllm.engine import engine_arguments, engine_model

    llm = LLM("tuned", **engine_arguments("tuned", num_beams=50))
    answers = sidtool.recommend(engine_model(llm), requests)

vLLM's beam search runs outside its engine, on the log-probabilities of one token per request. A
mask reaches them only if the engine reports processed logits and the processor has put
log-probabilities in their place: vLLM takes its own before any processor runs, and those after
processing are normalized over the valid tokens, which distorts the ranking of a model that was not
trained so.

The search is as vLLM's own `LLM.beam_search`, but each request has the filter of its prompt, and
since no SID ends early, the engine reports one log-probability per beam instead of two."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.base.options import Option
from sidtool.integrations.vllm.row_constraint import (
    KEY,
    EngineSettings,
    RequestSettings,
    RowConstraint,
)
from sidtool.memory.mixture import Prior
from sidtool.model import Checkpoint, LoadedModel, load_tokenizer
from sidtool.model.contract import model_folder
from sidtool.model.vocabulary import SidTokens, check_token_ids
from sidtool.recommendation.search import BeamResult, LeafFilter, Normalize, best_sids
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import SidPositions

PROCESSOR = "sidtool.integrations.vllm.processor:SidConstraint"
LOGPROBS_MODE = "processed_logits"

LogProbs = Mapping[int, float]
"""Log-probability by token id."""


def engine_arguments(
    model: str | Path,
    *,
    num_beams: int = 1,
    bundle: str | Path | None = None,
    normalize: Normalize | None = None,
) -> dict[str, Any]:
    """The keyword arguments of `vllm.LLM`, or of vLLM's engine, for a constrained model.

    `num_beams` is the widest beam search that the engine will run, `bundle` a path or reference to
    recommend from instead of the model's copy, and `normalize` what scores are normalized over
    instead of what the contract says. Raises UsageError for other values and, before an engine is
    started, as `RowConstraint.of` does.
    """
    Option(minimum=1).check("num_beams", num_beams, int)
    Option().check("normalize", normalize, Normalize | None)
    settings = EngineSettings(str(model), None if bundle is None else str(bundle), normalize)
    RowConstraint.of(settings)  # raises
    return {
        "logits_processors": [PROCESSOR],
        "logprobs_mode": LOGPROBS_MODE,
        # vLLM's own beam search looks at twice as many tokens as it has beams
        "max_logprobs": 2 * num_beams,
        "additional_config": {KEY: settings.to_json()},
        # top-k, top-p and penalties of a checkpoint's settings would remove valid tokens
        "generation_config": "vllm",
    }


def engine_model(llm: Any) -> LoadedModel:
    """A running `vllm.LLM` as a model that `recommend` takes. Its weights stay in the engine.

    Answers are those of the model alone: a memory of the folder is not mixed in, and candidates are
    not scored. Raises UsageError for an engine that was not started with `engine_arguments`."""
    vllm_config = llm.llm_engine.vllm_config
    model_config = vllm_config.model_config
    mode, processors = model_config.logprobs_mode, model_config.logits_processors or ()
    if mode != LOGPROBS_MODE or PROCESSOR not in processors:
        raise UsageError(
            f"the engine has logits processors {list(processors)} and logprobs_mode {mode!r}",
            hint="start it with sidtool.integrations.vllm.engine.engine_arguments(MODEL)",
        )
    settings = EngineSettings.of(vllm_config)
    constraint = RowConstraint.of(settings)
    contract = constraint.contract
    tokenizer = load_tokenizer(Checkpoint(model_folder(settings.model)))
    check_token_ids(tokenizer, contract.tokens)
    if contract.memory is not None:
        warnings.warn(
            f"the memory of {settings.model} is not mixed in: an engine answers by the model alone",
            SidtoolWarning,
            stacklevel=2,
        )
    network = SimpleNamespace(
        config=model_config.hf_config,
        dtype=str(model_config.dtype),
        named_parameters=lambda: iter(()),  # they are in another process
    )
    search = VllmSearch(llm, constraint, model_config.max_logprobs // 2)
    return LoadedModel(
        network, tokenizer, contract, constraint.bundle, constraint.verdict, beam_search=search
    )


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
        params = [self._params(leaf_filter, num_beams) for leaf_filter in filters]
        beams = [Beam(number) for number, prompt in enumerate(prompts) if len(prompt)]
        for _ in range(trie.levels):
            requests = [([*prompts[beam.prompt], *beam.ids], params[beam.prompt]) for beam in beams]
            beams = list(best_beams(beams, self._next_tokens(requests), num_beams))
        results = []
        for number in range(len(prompts)):
            ranked = [beam for beam in beams if beam.prompt == number]
            ids = np.array([beam.ids for beam in ranked], dtype=np.int64).reshape(-1, trie.levels)
            scores = np.array([beam.score for beam in ranked], dtype=np.float32)
            results.append(best_sids(trie, tokens.codes(ids), scores, k))
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

    def _params(self, leaf_filter: LeafFilter | None, num_beams: int) -> Any:
        """Of all requests behind a prompt: report the `num_beams` best tokens."""
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=num_beams,
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            extra_args=self._settings(leaf_filter).to_extra_args(),
            skip_clone=True,  # a deep copy per request takes as long as the constraint
        )

    def _next_tokens(self, requests: Sequence[tuple[list[int], Any]]) -> list[LogProbs]:
        """The best next tokens of each request, which is token ids and what `_params` returns."""
        from vllm import TokensPrompt

        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids, _ in requests],
            [params for _, params in requests],
            use_tqdm=False,
        )
        best_tokens = [output.outputs[0].logprobs for output in outputs]
        return [dict(zip(best.token_ids, best.logprobs, strict=True)) for best in best_tokens]


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
