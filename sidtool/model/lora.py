"""LoRA adapters on a model's linear layers, with the embedding rows of SID tokens (E. Hu et al.,
LoRA, 2021).

The saved files are those of PEFT's `LoraConfig(trainable_token_indices=...)`, so PEFT alone can
load them over the base."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sidtool.base.checkpoint import ADAPTER
from sidtool.model.adapter import PREFIX, TOKEN_ADAPTER, peft_task
from sidtool.model.sharded import part_like
from sidtool.model.token_embeddings import TokenEmbeddings


class Lora:
    """Adds adapters to all linear layers of a model but its output head, in place, and trains the
    embedding rows of `ids` with them; `seed` initializes their A matrices."""

    def __init__(
        self,
        model: Any,
        base: Path,
        ids: range,
        *,
        r: int,
        alpha: float,
        seed: int,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self._config = LoraConfig(
            r=r,
            lora_alpha=alpha,
            target_modules="all-linear",
            task_type=peft_task(model),
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
