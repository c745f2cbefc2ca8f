"""Recommendations from an engine of vLLM: how it is started, and a model that `recommend` takes.

    from vllm import LLM
    from sidtool.integrations.vllm.engine import engine_arguments, engine_model

    llm = LLM("tuned", **engine_arguments("tuned", num_beams=50))
    answers = sidtool.recommend(engine_model(llm), requests)

vLLM's beam search runs outside its engine, on the log-probabilities of one token per request. A
mask reaches them only if the engine reports processed logits and the processor has put
log-probabilities in their place: vLLM takes its own before any processor runs, and those after
processing are normalized over the valid tokens, which distorts the ranking of a model that was not
trained so."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.integrations.vllm.row_constraint import RowConstraint
from sidtool.integrations.vllm.search import VllmSearch
from sidtool.integrations.vllm.settings import EngineSettings
from sidtool.model import Checkpoint, LoadedModel, load_tokenizer
from sidtool.model.contract import model_folder
from sidtool.model.vocabulary import check_token_ids
from sidtool.recommendation.search import Normalize

PROCESSOR = "sidtool.integrations.vllm.processor:SidConstraint"
LOGPROBS_MODE = "processed_logits"


@dataclass(frozen=True)
class EngineNetwork:
    """What is known here of a network whose weights are in an engine."""

    config: Any
    dtype: str

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """None: the parameters are in another process."""
        return iter(())


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
    instead of what the contract says. Raises UsageError if `num_beams` is less than 1 and, before
    an engine is started, as `RowConstraint.of` does.
    """
    if num_beams < 1:
        raise UsageError(f"num_beams must be at least 1, not {num_beams}")
    settings = EngineSettings(str(model), None if bundle is None else str(bundle), normalize)
    RowConstraint.of(settings)  # raises
    return {
        "logits_processors": [PROCESSOR],
        "logprobs_mode": LOGPROBS_MODE,
        # vLLM's own beam search looks at twice as many tokens as it has beams
        "max_logprobs": 2 * num_beams,
        "additional_config": settings.to_additional_config(),
        # top-k, top-p and penalties of a checkpoint's settings would remove valid tokens
        "generation_config": "vllm",
    }


def engine_model(llm: Any) -> LoadedModel:
    """A running `vllm.LLM` as a model that `recommend` takes. Its weights stay in the engine.

    Answers are those of the model alone: a memory of the folder is not mixed in, and candidates are
    not scored. Raises UsageError for an engine that was not started with `engine_arguments`."""
    vllm_config = llm.llm_engine.vllm_config
    mode = vllm_config.model_config.logprobs_mode
    processors = vllm_config.model_config.logits_processors or ()
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
    model_config = vllm_config.model_config
    network = EngineNetwork(model_config.hf_config, str(model_config.dtype))
    search = VllmSearch(llm, constraint, vllm_config.model_config.max_logprobs // 2)
    return LoadedModel(
        network, tokenizer, contract, constraint.bundle, constraint.verdict, beam_search=search
    )
