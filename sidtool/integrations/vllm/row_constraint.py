"""The constraint on a batch of an engine, whose rows are requests at different places of a SID, and
its settings as plain JSON values: of an engine, and of one request.

Which engine has the rows does not matter here: an engine's plug-in says which tokens each row ends
with. The settings of an engine travel in its own configuration, since its processes share nothing
else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.records import JsonRecord
from sidtool.model import check_model_folder
from sidtool.model.contract import Contract, Verdict
from sidtool.recommendation.search import LeafFilter, Normalize, SidLogitsProcessor
from sidtool.registry import open_bundle
from sidtool.tokenizer.bundle import Bundle

KEY = "sidtool"
"""The key of an engine's settings in vLLM's `additional_config`."""
PREFIX = "sid_"
KEYS = ("sid_constraint", "sid_allow", "sid_deny")
"""Keys of a request's extra arguments. Others that begin with `PREFIX` are refused, since an engine
would ignore a misspelt one."""
NO_TOKEN = -1
"""Fills the tails of rows that have fewer tokens than a SID."""

CHUNK = 1 << 19
"""Logits summed over at once on a CPU: they fit its cache, and copies of all of them do not."""
FILTERS_KEPT = 1024
"""Filters of requests that are kept: a beam search sends those of a prompt once per beam and
step."""


@dataclass(frozen=True)
class EngineSettings(JsonRecord):
    """What an engine recommends from."""

    model: str
    """a model folder or `hf://ORG/NAME`"""
    bundle: str | None = None
    """path or reference of the bundle; None is the model's copy"""
    normalize: Normalize | None = None
    """what scores are normalized over; None is what the contract says"""

    @classmethod
    def of(cls, vllm_config: Any) -> Self:
        """The settings in vLLM's configuration; the model is the engine's own unless they name one.
        Raises UsageError for an unknown key or value."""
        settings = vllm_config.additional_config or {}
        settings = settings.get(KEY, {}) if isinstance(settings, Mapping) else {}
        if not isinstance(settings, Mapping):
            raise UsageError(f"{KEY!r} in additional_config is {settings!r}, not an object")
        names = [field.name for field in fields(cls)]
        unknown = sorted(map(str, settings.keys() - set(names)))
        if unknown:
            raise UsageError(f"{KEY!r} has no key {unknown[0]!r}, only {', '.join(names)}")
        model = settings.get("model") or str(vllm_config.model_config.model)
        try:
            return cls.from_json({**settings, "model": model})
        except TypeError as error:
            raise UsageError(f"{KEY!r} in additional_config: {error}") from error


@dataclass(frozen=True)
class RequestSettings:
    """How the constraint treats one request."""

    constrained: bool = True
    """False leaves the request as it is: text, not SIDs."""
    allow: tuple[str, ...] | None = None
    """Ids of the only items that may be written; None allows all."""
    deny: tuple[str, ...] = ()
    """Ids of items that are not written."""

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self:
        """The settings among the extra arguments of a request. Raises UsageError for an unknown key
        and for a value of another type."""
        extra_args = extra_args or {}
        unknown = sorted(key for key in extra_args if key.startswith(PREFIX) and key not in KEYS)
        if unknown:
            raise UsageError(f"there is no extra argument {unknown[0]!r}, only {', '.join(KEYS)}")
        constrained = extra_args.get("sid_constraint", True)
        if constrained not in (True, False, 0, 1):
            raise UsageError(f"sid_constraint is true or false, not {constrained!r}")
        deny = _item_ids(extra_args, "sid_deny")
        return cls(bool(constrained), _item_ids(extra_args, "sid_allow"), deny or ())

    def to_extra_args(self) -> dict[str, Any]:
        """The extra arguments that `of` reads; those with default values are left out."""
        extra_args: dict[str, Any] = {}
        if not self.constrained:
            extra_args["sid_constraint"] = False
        if self.allow is not None:
            extra_args["sid_allow"] = list(self.allow)
        if self.deny:
            extra_args["sid_deny"] = list(self.deny)
        return extra_args


def _item_ids(extra_args: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    ids = extra_args.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list | tuple) or not all(isinstance(item, str) for item in ids):
        raise UsageError(f"{key} is a list of item ids, not {str(ids)[:80]!r}")
    return tuple(ids)


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

        The logits are overwritten. Tokens that continue no valid SID get minus infinity; so do all
        tokens of a row that has left the trie."""
        tokens = self.contract.tokens
        processor = SidLogitsProcessor(
            self.bundle.trie(),
            tokens,
            begin_end_tokens=tokens.begin is not None,
            normalize=self.normalize,
            filters=filters,
        )
        blocks = processor.valid_scores(tails, logits)
        if self.normalize == "vocabulary":  # the processor normalizes over a level or the trie
            on_cpu = logits.device.type == "cpu"
            chunk = max(1, CHUNK // logits.shape[1]) if on_cpu else len(logits)
            totals = torch.cat([rows.logsumexp(-1) for rows in logits.split(chunk)])
            blocks = [(rows, ids, scores - totals[rows]) for rows, ids, scores in blocks]
        logits.fill_(-torch.inf)
        for rows, ids, scores in blocks:
            logits[rows, ids] = scores
        return logits

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
