"""The constraint on a batch of an engine, whose rows are requests at different places of a SID.

Which engine has the rows does not matter here: an engine's plug-in says which tokens each row ends
with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from sidtool.base.errors import CompatibilityError
from sidtool.integrations.vllm.settings import EngineSettings, RequestSettings
from sidtool.model import check_model_folder
from sidtool.model.contract import Contract, Verdict
from sidtool.recommendation.search import LeafFilter, Normalize, SidLogitsProcessor
from sidtool.registry import open_bundle
from sidtool.tokenizer.bundle import Bundle

NO_TOKEN = -1
"""Fills the tails of rows that have fewer tokens than a SID."""

FILTERS_KEPT = 1024
"""Filters of requests that are kept: a beam search sends those of a prompt once per beam and
step."""


@dataclass(frozen=True, eq=False)
class RowConstraint:
    """Replaces logits by the normalized log-probabilities of tokens that continue a valid SID."""

    bundle: Bundle
    contract: Contract
    normalize: Normalize
    verdict: Verdict
    """How the bundle relates to the bundle that the model was made for."""

    @classmethod
    def of(cls, settings: EngineSettings) -> "RowConstraint":
        """The constraint of an engine.

        Raises CompatibilityError or IntegrityError unless model and bundle belong together, and
        CompatibilityError for a model that an engine cannot load."""
        other = None if settings.bundle is None else open_bundle(settings.bundle)
        contract, opened, verdict = check_model_folder(settings.model, other)
        check_engine_model(settings.model, contract)
        return cls(opened, contract, settings.normalize or contract.normalize, verdict)

    @property
    def levels(self) -> int:
        """Number of tokens at the end of a row that the constraint looks at."""
        return self.contract.space.levels

    def apply(
        self, logits: torch.Tensor, tails: torch.Tensor, filters: Sequence[LeafFilter | None]
    ) -> torch.Tensor:
        """(rows, vocabulary) float32 logits, the (rows, levels) int64 token ids that each row ends
        with and one filter per row -> (rows, vocabulary) log-probabilities.

        Tokens that continue no valid SID get minus infinity; so do all tokens of a row that has
        left the trie."""
        tokens = self.contract.tokens
        processor = SidLogitsProcessor(
            self.bundle.trie(),
            tokens,
            begin_end_tokens=tokens.begin is not None,
            normalize=self.normalize,
            filters=filters,
            strict=False,
        )
        # the processor normalizes over a level or the trie itself
        scores = logits.log_softmax(-1) if self.normalize == "vocabulary" else logits
        return processor(tails, scores)

    def leaf_filter(self, settings: RequestSettings) -> LeafFilter | None:
        """The filter of a request; ids that the bundle lacks have no effect. None if it excludes
        nothing."""
        if settings.allow is None and not settings.deny:
            return None
        return _leaf_filter(self.bundle, settings)

    def tail(self, prompt: Sequence[int], output: Sequence[int]) -> list[int]:
        """The last `levels` tokens of a prompt and what was written behind it."""
        written = list(output[-self.levels :])
        missing = self.levels - len(written)
        before = list(prompt[-missing:]) if missing else []
        return [NO_TOKEN] * (missing - len(before)) + before + written


@lru_cache(maxsize=FILTERS_KEPT)
def _leaf_filter(bundle: Bundle, settings: RequestSettings) -> LeafFilter:
    trie = bundle.trie()
    items = bundle.items
    allowed = None
    if settings.allow is not None:
        allowed = trie.positions(items.rows(settings.allow))
    return LeafFilter.of(trie, allowed, items.rows(settings.deny))


def check_engine_model(model: str | Path, contract: Contract) -> None:
    """Raise CompatibilityError for a model that sidtool's plug-ins do not serve."""
    if contract.base_folder is not None:
        raise CompatibilityError(
            f"{model} holds adapters over another model, which an engine does not read",
            hint=f"sidtool merge {model} -o MERGED",
        )
    if contract.kind != "causal":
        raise CompatibilityError(
            f"{model} is an {contract.kind} model: the plug-in constrains causal models only",
            hint="recommend with sidtool's own decoder",
        )
