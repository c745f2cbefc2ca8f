"""Model folders as an engine opens them, and a stand-in for the parts of vLLM that are called."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from sidtool.integrations.vllm.row_constraint import RequestSettings, RowConstraint
from sidtool.model.contract import Contract, StageRecord, write_contract
from sidtool.model.contract.stage_record import ExtendParams
from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.tokenizer.bundle import Bundle
from tests.loaded import HISTORY_PROMPT
from tests.models import tiny_model, tiny_tokenizer

Layout = Literal["block", "table"]
"""How a tokenizer has its SID tokens: as `extend-model` adds them, or as other systems do."""


def added_tokens(bundle: Bundle, layout: Layout) -> list[str]:
    """The tokens in the order in which a tokenizer gets them. A table has those of used codes
    alone, sorted as texts, with other tokens between them."""
    space = bundle.space
    if layout == "block":
        return list(space.tokens)
    indexes = set((bundle.items.codes + space.offsets).ravel().tolist())
    indexes |= set(range(space.n_codes, len(space.tokens)))  # begin and end token
    used = sorted(space.tokens[index] for index in indexes)
    return [text for n, token in enumerate(used) for text in (token, f"<other_{n}>")]


def save_model(folder: Path, bundle: Bundle, *, layout: Layout = "block", **changes: Any) -> Path:
    """A random Qwen3 with the bundle's tokens, as a model folder. Its heads have 32 dimensions,
    the fewest that vLLM's attention takes. `changes` go to the contract."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(added_tokens(bundle, layout))
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary.get(token, NO_TOKEN) for token in bundle.space.tokens]
    tokens = SidTokens.of_ids(bundle.space, ids)
    assert (tokens.table is None) == (layout == "block")
    shape = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32}
    model = tiny_model("qwen3", vocab_size=len(tokenizer), **shape)
    stages = (StageRecord("extend", ExtendParams("random", 0)),)
    contract = Contract(bundle.identity, bundle.space, tokens.start, "tiny", None, {}, stages)
    contract = replace(contract, token_table=tokens.table, history_prompt=HISTORY_PROMPT, **changes)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_contract(folder, contract, bundle)
    return folder


class Direction(Enum):
    """vLLM's MoveDirectionality."""

    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass
class BatchUpdate:
    """vLLM's BatchUpdate of its first model runner."""

    removed: Sequence[int] = ()
    added: Sequence[tuple[int, Any, list[int] | None, list[int]]] = ()
    moved: Sequence[tuple[int, int, Direction]] = ()


@dataclass
class SamplingParams:
    """The parameters that a search sets."""

    max_tokens: int = 1
    temperature: float = 0.0
    logprobs: int = 1
    flat_logprobs: bool = False
    detokenize: bool = True
    ignore_eos: bool = False
    extra_args: dict[str, Any] | None = None
    skip_clone: bool = False


def vllm_config(folder: Path, **arguments: Any) -> Any:
    """vLLM's configuration of an engine that was started with `engine_arguments`."""
    return SimpleNamespace(
        speculative_config=None,
        additional_config=arguments.get("additional_config", {}),
        model_config=SimpleNamespace(
            model=str(folder),
            logprobs_mode=arguments.get("logprobs_mode", "raw_logprobs"),
            logits_processors=arguments.get("logits_processors"),
            max_logprobs=arguments.get("max_logprobs", 20),
            hf_config=SimpleNamespace(max_position_embeddings=512, is_encoder_decoder=False),
            dtype=torch.float32,
        ),
    )


@pytest.fixture
def vllm_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules named as vLLM's, with empty classes of its two processor interfaces."""
    processors = ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor")
    packages = [processor.split(".") for processor in processors]
    names = {".".join(parts[:n]) for parts in packages for n in range(1, len(parts) + 1)}
    for name in sorted(names):
        module: Any = ModuleType(name)
        module.LogitsProcessor = type("LogitsProcessor", (), {"__module__": name})
        module.SamplingParams = SamplingParams
        module.TokensPrompt = dict
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "sidtool.integrations.vllm.processor", raising=False)


@dataclass
class TokenEngine:
    """An engine that runs a network on each request by itself: one token, the constraint, and the
    log-probabilities of the best tokens."""

    network: Any
    constraint: RowConstraint
    vllm_config: Any
    lengths: list[int] = field(default_factory=list)
    """The number of log-probabilities of each request so far."""

    @property
    def llm_engine(self) -> Any:
        return SimpleNamespace(vllm_config=self.vllm_config)

    @torch.no_grad()
    def generate(self, prompts: Any, params: Any, *, use_tqdm: bool) -> list[Any]:
        return [self._answer(*request) for request in zip(prompts, params, strict=True)]

    def _answer(self, prompt: Any, params: SamplingParams) -> Any:
        ids = prompt["prompt_token_ids"]
        logits = self.network(torch.tensor([ids])).logits[:, -1].float()
        leaf_filter = self.constraint.leaf_filter(RequestSettings.of(params.extra_args))
        tail = torch.tensor([self.constraint.tail(ids, ())])
        best = self.constraint.apply(logits, tail, [leaf_filter])[0].topk(params.logprobs)
        self.lengths.append(params.logprobs)
        flat = SimpleNamespace(token_ids=best.indices.tolist(), logprobs=best.values.tolist())
        return SimpleNamespace(outputs=[SimpleNamespace(logprobs=flat)])
