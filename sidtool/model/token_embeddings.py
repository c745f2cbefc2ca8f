"""The embedding rows of SID tokens as separate parameters, while all other weights stay frozen.

Such a parameter shares its memory with the weight that it is part of, so a step on it changes that
weight in place, and no other byte can change, whatever the optimizer does. Code that reads the
whole weight (the decoder, a checkpoint) needs no change. For the gradient, lookups and logits of
these rows go through the parameter. PEFT's `trainable_token_indices` trains the same, but copies
the whole weight in every forward and backward pass."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import embedding, linear

from sidtool.errors import UsageError
from sidtool.prompt.tokens import SidTokens

PARAMETER = "sid_rows"
"""Name of the parameter in its layer."""


class TokenEmbeddings:
    """Makes the SID rows of a model's embeddings, and of an untied output head, trainable in
    float32. The model must be on its device already; its other trainable weights stay so.

    Raises UsageError unless embeddings and head are ordinary layers."""

    def __init__(self, model: Any, tokens: SidTokens) -> None:
        table = model.get_input_embeddings()
        head = model.get_output_embeddings()
        if not isinstance(table, nn.Embedding) or type(head) is not nn.Linear:
            raise UsageError(
                "embedding rows can be trained in ordinary embeddings and a plain head, not in "
                f"{type(table).__name__} and {type(head).__name__}",
                hint="stage=full trains all weights",
            )
        self._start = tokens.start
        self._stop = tokens.stop
        tied = head.weight is table.weight
        table.weight.data = table.weight.data.float()
        self._table = table
        self._head = head
        self._rows = self._add_parameter(table)
        self._head_rows = self._rows
        if not tied:
            head.weight.data = head.weight.data.float()
            self._head_rows = self._add_parameter(head)
        self._lookup = _lookup_copy(table)
        table.forward = self._embed
        head.forward = self._all_logits

    def named(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The rows, detached, by the name of their layer."""
        names = {id(layer): name for name, layer in model.named_modules()}
        rows = {names[id(self._table)]: self._rows.detach()}
        if self._head_rows is not self._rows:
            rows[names[id(self._head)]] = self._head_rows.detach()
        return rows

    def logits(self, hidden: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        """(..., width) hidden states -> (..., stop - first) logits of the ids first..stop-1."""
        weight = self._head.weight
        rows_first = max(first - self._start, 0)
        rows_stop = max(min(stop, self._stop) - self._start, 0)
        # the columns before the SID tokens, those of SID tokens, and those behind
        parts = [
            weight[first : min(stop, self._start)],
            self._head_rows[rows_first:rows_stop],
            weight[max(first, self._stop) : stop],
        ]
        logits = [linear(hidden, part) for part in parts if len(part)]
        joined = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
        return joined if self._head.bias is None else joined + self._head.bias[first:stop]

    def _add_parameter(self, layer: Any) -> nn.Parameter:
        layer.weight.requires_grad_(False)
        rows = nn.Parameter(layer.weight.data[self._start : self._stop])
        layer.register_parameter(PARAMETER, rows)
        layer.register_state_dict_post_hook(_drop_parameter)
        return rows

    def _all_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits(hidden, 0, len(self._head.weight))

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """The layer's own forward on a table with one row for each token of the batch."""
        flat = ids.reshape(-1)  # (tokens,)
        row_numbers = (flat - self._start).clamp(0, len(self._rows) - 1)
        sid_rows = embedding(row_numbers, self._rows)  # (tokens, width)
        is_sid = ((flat >= self._start) & (flat < self._stop)).unsqueeze(-1)
        table = torch.where(is_sid, sid_rows, embedding(flat, self._table.weight))
        positions = torch.arange(len(flat), device=ids.device).view_as(ids)
        return functional_call(self._lookup, {"weight": table}, (positions,))


def _lookup_copy(table: nn.Embedding) -> Any:
    """A copy of the embedding layer for lookups in a table of the batch."""
    lookup = copy.copy(table)
    lookup._parameters = dict(table._parameters)
    # the hooks of the original run already
    lookup._forward_hooks = OrderedDict()
    lookup._forward_pre_hooks = OrderedDict()
    # ids are renumbered, and the row of the padding is not trained
    lookup.padding_idx = None
    return lookup


def _drop_parameter(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Drop the rows from a state that has them in the whole weight already."""
    state.pop(prefix + PARAMETER, None)
