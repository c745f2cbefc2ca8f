"""The embedding rows of SID tokens as separate parameters, while all other weights stay frozen, or
are changed by LoRA adapters.

Such a parameter shares its memory with the weight that it is part of, so a step on it changes that
weight in place, and no other byte can change, whatever the optimizer does. Code that reads the
whole weight (the decoder, a checkpoint) needs no change. For the gradient, lookups and logits of
these rows go through the parameter. PEFT's `trainable_token_indices` trains the same, but copies
the whole weight in every forward and backward pass."""

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import embedding, linear

from sidtool.base.checkpoint import ADAPTER
from sidtool.base.errors import UsageError
from sidtool.model.network.adapter import PREFIX, TOKEN_ADAPTER, peft_task
from sidtool.model.network.sharded import part_like
from sidtool.model.network.structure import embedding_layers

PARAMETER = "sid_rows"
"""Name of the parameter in its layer."""


class TokenEmbeddings:
    """Makes the rows of `ids` in a model's embeddings, and in an untied output head, trainable in
    float32: SID tokens, and those of users if there are any. The model must be on its device
    already; its other trainable weights stay so.

    Raises UsageError unless embeddings and head are ordinary layers."""

    def __init__(self, model: Any, ids: range) -> None:
        tables = embedding_layers(model)
        head = model.get_output_embeddings()
        if not all(isinstance(table, nn.Embedding) for table in tables) or (
            type(head) is not nn.Linear
        ):
            raise UsageError(
                "embedding rows can be trained in ordinary embeddings and a plain head, not in "
                f"{type(tables[0]).__name__} and {type(head).__name__}",
                hint="--stage full trains all weights",
            )
        self._start = ids.start
        self._stop = ids.stop
        self.rows = slice(ids.start, ids.stop)
        """where the rows are in a weight"""
        self._head = head
        rows: dict[int, nn.Parameter] = {}
        self._first_layers: list[nn.Module] = []
        """the first layer with each of the rows: layers with one weight share them"""
        for layer in [*tables, head]:
            weight = layer.weight
            if id(weight) not in rows:
                weight.data = weight.data.float()
                weight.requires_grad_(False)
                rows[id(weight)] = nn.Parameter(weight.data[self.rows])
                self._first_layers.append(layer)
            layer.register_parameter(PARAMETER, rows[id(weight)])
            layer.register_state_dict_post_hook(_drop_parameter)
        for table in tables:
            table.forward = partial(self._embed, table, _lookup_copy(table))
        head.forward = partial(self.logits, columns=(0, len(head.weight)))

    def named(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The rows, detached, by the name of their first layer; parts under FSDP2."""
        names = {id(layer): name for name, layer in model.named_modules()}
        return {
            names[id(layer)]: layer.get_parameter(PARAMETER).detach()
            for layer in self._first_layers
        }

    @torch.no_grad()
    def write_rows(self) -> None:
        """Copy the rows into the weights that they are part of, where both have memory of their
        own: FSDP2 divides them apart from each other."""
        for layer in self._first_layers:
            weight = layer.get_parameter("weight")
            weight[self.rows] = layer.get_parameter(PARAMETER)

    def write_rows_to(
        self, weights: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor]
    ) -> None:
        """Copy whole rows, as `named` names them, into whole weights, by their names."""
        for layer, values in rows.items():
            weights[f"{layer}.weight"][self.rows] = values

    def logits(self, hidden: torch.Tensor, columns: tuple[int, int] | torch.Tensor) -> torch.Tensor:
        """(..., width) hidden states -> (..., columns) logits of these token ids: first and stop of
        a range, or ids of SID tokens."""
        # FSDP2 replaces it for each forward pass
        head_rows = self._head.get_parameter(PARAMETER)
        if not isinstance(columns, tuple):
            logits = linear(hidden, head_rows[columns - self._start])
            return logits if self._head.bias is None else logits + self._head.bias[columns]
        first, stop = columns
        weight = self._head.weight
        rows_first = max(first - self._start, 0)
        rows_stop = max(min(stop, self._stop) - self._start, 0)
        # the columns before the SID tokens, those of SID tokens, and those behind
        parts = [
            weight[first : min(stop, self._start)],
            head_rows[rows_first:rows_stop],
            weight[max(first, self._stop) : stop],
        ]
        blocks = [linear(hidden, part) for part in parts if len(part)]
        joined = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-1)
        return joined if self._head.bias is None else joined + self._head.bias[first:stop]

    def _embed(self, layer: nn.Embedding, lookup: Any, ids: torch.Tensor) -> torch.Tensor:
        """The layer's output for token ids, with a gradient for the trained rows alone: `lookup`, a
        copy of the layer, reads a table of this batch with one row per token."""
        parameter = layer.get_parameter(PARAMETER)
        flat_ids = ids.reshape(-1)  # (tokens,)
        rows = (flat_ids - self._start).clamp(0, len(parameter) - 1)  # any for frozen tokens
        trained = embedding(rows, parameter)  # (tokens, width)
        is_trained = ((flat_ids >= self._start) & (flat_ids < self._stop)).unsqueeze(-1)
        table = torch.where(is_trained, trained, embedding(flat_ids, layer.weight))
        table_rows = torch.arange(len(flat_ids), device=ids.device).view_as(ids)
        looked_up: torch.Tensor = functional_call(lookup, {"weight": table}, (table_rows,))
        return looked_up


def _lookup_copy(table: nn.Embedding) -> Any:
    """A copy of the embedding layer for lookups in a table of the batch."""
    lookup = copy.copy(table)
    # the weight is given by call, and a reference would keep it whole in memory under FSDP2
    lookup._parameters = {"weight": nn.Parameter(table.weight.new_empty(0), requires_grad=False)}
    # the hooks of the original run already
    lookup._forward_hooks = OrderedDict()
    lookup._forward_pre_hooks = OrderedDict()
    # ids are renumbered, and the row of the padding is not trained
    lookup.padding_idx = None
    return lookup


def _drop_parameter(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Drop the rows from a state that has them in the whole weight already."""
    state.pop(prefix + PARAMETER, None)


class Lora:
    """Adds adapters to all linear layers of a model but its output head, in place, and trains the
    embedding rows of `ids` with them; `seed` initializes their A matrices."""

    def __init__(
        self, model: Any, base: Path, ids: range, *, r: int, alpha: float, seed: int
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self._config = LoraConfig(
            r=r, lora_alpha=alpha, target_modules="all-linear", task_type=peft_task(model)
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._adapted = get_peft_model(model, self._config)
        self._model = model
        self._base = base.resolve()
        self._ids = ids
        self.embeddings = TokenEmbeddings(model, ids)

    def state(self) -> dict[str, torch.Tensor]:
        """The values of adapters and embedding rows, detached, by their names in the file; parts
        under FSDP2."""
        from peft import get_peft_model_state_dict

        rows = self.embeddings.named(self._model)
        adapters: dict[str, torch.Tensor] = get_peft_model_state_dict(self._adapted)
        return adapters | {f"{PREFIX}{name}{TOKEN_ADAPTER}": row for name, row in rows.items()}

    def save(self, folder: Path, state: Mapping[str, torch.Tensor]) -> None:
        """Write adapter_config.json and, with the whole tensors of `state`,
        adapter_model.safetensors."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        rows = self.embeddings.named(self._model)
        config = dataclasses.replace(
            self._config,
            inference_mode=True,
            trainable_token_indices={name: list(self._ids) for name in rows},
            base_model_name_or_path=str(self._base),
        )
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in state.items()}, folder / ADAPTER
        )
        config.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Load the values from a folder that `save` wrote."""
        from safetensors.torch import load_file

        values = load_file(folder / ADAPTER)
        for name, target in self.state().items():
            target.copy_(part_like(target, values[name]))
