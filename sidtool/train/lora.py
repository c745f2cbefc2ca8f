"""LoRA on a model's linear layers, beside its new rows: which weights learn, and how they are
saved.

What is saved is what PEFT saves for `LoraConfig(trainable_token_indices=...)`, so that PEFT alone
can load it over the base. Knows models and PEFT; knows nothing of steps. (E. Hu et al., LoRA, 2021)
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from sidtool.errors import UsageError
from sidtool.prompt.tokens import SidTokens
from sidtool.train.settings import TrainOptions
from sidtool.train.token_embeddings import TokenEmbeddings

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
ROWS = ".token_adapter.trainable_tokens_delta"


class Lora:
    """Puts adapters into a model, in place; the first values of A are drawn with `seed`."""

    def __init__(
        self, model: Any, base: Path, tokens: SidTokens, options: TrainOptions, seed: int
    ) -> None:
        from peft import LoraConfig, get_peft_model

        targets = [name.strip() for name in options.lora_targets.split(",")]
        self._config = LoraConfig(
            r=options.lora_r,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules=targets if targets != ["all-linear"] else "all-linear",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._adapted = get_peft_model(model, self._config)
            except ValueError as error:
                raise UsageError(
                    f"lora_targets={options.lora_targets}: {str(error).splitlines()[0]}"
                ) from error
        self._model, self._base, self._tokens = model, base.resolve(), tokens
        self.embeddings = TokenEmbeddings(model, tokens)

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        rows = self.embeddings.named(self._model)
        state = get_peft_model_state_dict(self._adapted) | {
            f"{PREFIX}{name}{ROWS}": row for name, row in rows.items()
        }
        ids = list(range(self._tokens.start, self._tokens.stop))
        config = dataclasses.replace(
            self._config,
            inference_mode=True,
            trainable_token_indices=dict.fromkeys(rows, ids),
            base_model_name_or_path=str(self._base),
        )
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in state.items()}, folder / WEIGHTS
        )
        config.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Take the values of a folder that `save` wrote."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        state = load_file(folder / WEIGHTS)
        for name, row in self.embeddings.named(self._model).items():
            row.copy_(state.pop(f"{PREFIX}{name}{ROWS}"))
        set_peft_model_state_dict(self._adapted, state)
