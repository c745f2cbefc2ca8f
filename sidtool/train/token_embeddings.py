"""The rows of the new tokens as parameters of their own, in a model whose other weights stay as
they are.

A row parameter shares its memory with the weight that it is part of, so a step on it is a step on
that weight: what reads the whole weight (the decoder, a checkpoint) needs to know nothing of it,
and no other byte can move, whatever the optimizer does. Only the gradient needs a way: lookups and
logits of the block go through the parameter. PEFT's `trainable_token_indices` learns the same, by a
copy of the whole weight in every forward and every backward."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import embedding, linear

from sidtool.errors import UsageError
from sidtool.prompt.tokens import SidTokens

NAME = "sid_rows"


class TokenEmbeddings:
    """Makes the block's rows of a model's embeddings, and of an untied head, learn in float32; call
    it on the device.

    Weights of the model that learn already go on learning. Raises UsageError unless embeddings and
    head are plain."""

    def __init__(self, model: Any, tokens: SidTokens) -> None:
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        if not isinstance(table, nn.Embedding) or type(head) is not nn.Linear:
            raise UsageError(
                "rows learn in plain embeddings and a plain head, not in "
                f"{type(table).__name__} and "
                f"{type(head).__name__}",
                hint="stage=full trains all of it",
            )
        self._start, self._stop = tokens.start, tokens.stop
        tied = head.weight is table.weight
        table.weight.data = table.weight.data.float()
        self._table, self._head = table, head
        self._rows = self._own(table)
        self._head_rows = self._rows
        if not tied:
            head.weight.data = head.weight.data.float()
            self._head_rows = self._own(head)
        self._lookup = copy.copy(table)
        self._lookup._parameters = dict(table._parameters)
        self._lookup._forward_hooks, self._lookup._forward_pre_hooks = (
            OrderedDict(),
            OrderedDict(),
        )  # the table's run
        self._lookup.padding_idx = (
            None  # places are renumbered below, and the padding's row does not learn
        )
        table.forward = self._embedded
        head.forward = self._logits

    def named(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The rows, detached, by the name of the layer that they are part of."""
        names = {id(layer): name for name, layer in model.named_modules()}
        found = {names[id(self._table)]: self._rows.detach()}
        if self._head_rows is not self._rows:
            found[names[id(self._head)]] = self._head_rows.detach()
        return found

    def logits(self, hidden: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        """(..., width) hidden states -> (..., stop - first) logits of the ids first..stop-1."""
        weight, start, end = self._head.weight, self._start, self._stop
        parts = [
            weight[first : min(stop, start)],
            self._head_rows[max(first - start, 0) : max(min(stop, end) - start, 0)],
            weight[max(first, end) : stop],
        ]
        found = [linear(hidden, part) for part in parts if len(part)]
        joined = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        return joined if self._head.bias is None else joined + self._head.bias[first:stop]

    def _own(self, layer: Any) -> nn.Parameter:
        layer.weight.requires_grad_(False)
        rows = nn.Parameter(layer.weight.data[self._start : self._stop])
        layer.register_parameter(NAME, rows)
        layer.register_state_dict_post_hook(_leave_out)
        return rows

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.logits(hidden, 0, len(self._head.weight))

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """The layer's own forward, on a table that holds one row for each token of the batch."""
        flat = ids.reshape(-1)
        own = embedding(
            (flat - self._start).clamp(0, len(self._rows) - 1), self._rows
        )  # (tokens, width)
        inside = ((flat >= self._start) & (flat < self._stop)).unsqueeze(-1)
        table = torch.where(inside, own, embedding(flat, self._table.weight))
        places = torch.arange(len(flat), device=ids.device).view_as(ids)
        return functional_call(self._lookup, {"weight": table}, (places,))


def _leave_out(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """The whole weight is in the state already, these rows in it."""
    state.pop(prefix + NAME, None)
