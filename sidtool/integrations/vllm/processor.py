"""vLLM's logits processor for SIDs. vLLM loads this module in its own processes, by name.

vLLM's two model runners call a processor in different ways, and which one runs depends on the
machine, so one class has both interfaces; vLLM 0.34 has the second one alone. What a row is allowed
is not decided here."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from sidtool.base.errors import UsageError
from sidtool.integrations.vllm.row_constraint import (
    NO_TOKEN,
    EngineSettings,
    RequestSettings,
    RowConstraint,
)
from sidtool.recommendation.search import LeafFilter

INTERFACES = ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor")
"""The modules that have the two interfaces. A version of vLLM may lack one."""
_bases: list[Any] = []
for _module in INTERFACES:
    with suppress(ImportError):
        _bases.append(import_module(_module).LogitsProcessor)
if not _bases:
    raise ImportError(f"this version of vLLM has none of {', '.join(INTERFACES)}")


@dataclass(frozen=True, eq=False)
class _Request:
    """A constrained request of the batch."""

    leaf_filter: LeafFilter | None
    prompt_tail: tuple[int, ...]
    output: Sequence[int]
    """The tokens that it has written: the engine's own list, which grows."""


class SidConstraint(*_bases):  # type: ignore[misc]
    """Constrains all requests of an engine to valid SIDs, those with `sid_constraint: false` among
    their extra arguments excepted; `sid_allow` and `sid_deny` there are lists of item ids.

    SIDs follow one another until `max_tokens` ends them: a search for one SID has as many tokens as
    there are levels."""

    def __init__(
        self, vllm_config: Any, device_or_history: Any, is_pin_memory: bool = False
    ) -> None:
        """The first runner gives a device, the second the tokens of all requests. Raises UsageError
        for an engine with speculative decoding, and as `RowConstraint.of` does."""
        if vllm_config.speculative_config is not None:
            raise UsageError("SIDs cannot be constrained with speculative decoding")
        self._constraint = RowConstraint.of(EngineSettings.of(vllm_config))
        self._history = device_or_history
        self._requests: dict[int, _Request] = {}
        """By their place in the batch, or with the second runner by their slot."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError for extra arguments that the constraint does not have."""
        try:
            RequestSettings.of(sampling_params.extra_args)
        except UsageError as error:
            raise ValueError(str(error)) from error

    def is_argmax_invariant(self) -> bool:
        """False: the best token may be invalid."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """First runner: follow the requests of the batch as they leave, come and move."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self._requests.pop(place, None)
        for place, sampling_params, prompt, output in batch_update.added:
            self._add(place, sampling_params, prompt or (), output)
        for first, second, direction in batch_update.moved:
            moved, displaced = self._requests.pop(first, None), self._requests.pop(second, None)
            if moved is not None:
                self._requests[second] = moved
            if displaced is not None and direction.name == "SWAP":
                self._requests[first] = displaced

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Second runner: a request enters a slot. Returns whether it is constrained."""
        return self._add(req_idx, sampling_params, (), ())

    def apply(self, logits: torch.Tensor, context: Any = None) -> torch.Tensor:
        """(rows, vocabulary) float32 logits -> the same with the constrained rows replaced, as by
        `RowConstraint.apply`. The second runner gives a `context`."""
        places = list(range(len(logits)))
        if context is not None:
            places = context.idx_mapping_np[: len(logits)].tolist()
        rows = [row for row, place in enumerate(places) if place in self._requests]
        if not rows:
            return logits
        requests = [self._requests[places[row]] for row in rows]
        filters = [request.leaf_filter for request in requests]
        if context is None:
            tail = self._constraint.tail
            written = [tail(request.prompt_tail, request.output) for request in requests]
            tails = torch.tensor(written).to(logits.device)  # (requests, levels) int64
        else:
            tails = self._stored_tails(context, rows)
        if len(rows) == len(logits):
            return self._constraint.apply(logits, tails, filters)
        logits[rows] = self._constraint.apply(logits[rows], tails, filters)
        return logits

    def _add(
        self, place: int, sampling_params: Any, prompt: Sequence[int], output: Sequence[int]
    ) -> bool:
        """Note a request at a place of the batch, if it is constrained. Returns whether it is."""
        settings = RequestSettings.of(sampling_params.extra_args)
        self._requests.pop(place, None)  # of a request that has left the place
        if settings.constrained:
            prompt_tail = tuple(prompt[-self._constraint.levels :])
            leaf_filter = self._constraint.leaf_filter(settings)
            self._requests[place] = _Request(leaf_filter, prompt_tail, output)
        return settings.constrained

    def _stored_tails(self, context: Any, rows: Sequence[int]) -> torch.Tensor:
        """(rows, levels) int64: the last tokens of requests, from the second runner's history,
        (slots, length) on the device."""
        device = context.pos.device
        n_back = torch.arange(self._constraint.levels - 1, -1, -1, device=device)
        # (rows, levels): from the last token of each request, which is at `pos`, backward
        positions = context.pos[rows].unsqueeze(1) - n_back
        slots = context.expanded_idx_mapping[rows].long().unsqueeze(1)
        tails = self._history.all_token_ids.gpu[slots, positions.clamp_min(0)].long()
        return tails.masked_fill(positions < 0, NO_TOKEN)
