"""Trained models that answer what a model in training is asked, for it to learn from them as well
as from its rows.

Knows which models may teach another, and their logits; what is made of these is loss.py's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sidtool.bundle.bundle import Bundle
from sidtool.errors import CompatibilityError
from sidtool.model.contract import read_contract
from sidtool.model.load import LoadedModel, check_model_folder, load_model_folder
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.partial_head import Columns, Part, PartialHead, full_blocks
from sidtool.train.shortcuts import narrows_exactly, packs_exactly


class Teachers:
    """Models in eval mode that learn nothing."""

    def __init__(self, models: Sequence[Any], columns: Columns | None) -> None:
        for model in models:
            model.eval().requires_grad_(False)
        self._models = [(model, PartialHead(model).install()) for model in models]
        self._narrow = [narrows_exactly(model, head, columns) for model, head in self._models]
        self.packs = all(packs_exactly(model) for model in models)

    @torch.no_grad()
    def blocks(
        self, inputs: Mapping[str, torch.Tensor], parts: Sequence[Part]
    ) -> list[list[torch.Tensor]]:
        """The logits of each part, (n, columns), by each of the models on a batch as the trained
        one gets it."""
        found = []
        for (model, head), narrow in zip(self._models, self._narrow, strict=True):

            def run(model: Any = model) -> torch.Tensor:
                logits: torch.Tensor = model(**inputs, use_cache=False).logits
                return logits

            found.append(head.blocks(run, parts) if narrow else full_blocks(run(), parts))
        return found


def check_teachers(folders: Sequence[Path], tokens: SidTokens, bundle: Bundle) -> None:
    """Whether the models in these folders may teach one with this token block and bundle; reads no
    weight.

    Raises CompatibilityError if one speaks other SIDs, and as `check_model_folder`.
    """
    for folder in folders:
        contract = read_contract(folder)
        try:
            _, _, verdict = check_model_folder(folder, bundle)
        except CompatibilityError as error:
            raise CompatibilityError(f"teacher {folder} is of other SIDs: {error}") from error
        if verdict.kind == "aligned":
            raise CompatibilityError(f"teacher {folder} is of other SIDs: {verdict.message}")
        if contract.tokens != tokens:
            raise CompatibilityError(
                f"teacher {folder} has its SID tokens at {contract.token_start}, the model at "
                f"{tokens.start}",
                hint="a teacher reads the model's own rows, so both are extended from bases "
                "with one tokenizer",
            )


def load_teachers(
    folders: Sequence[Path],
    served: LoadedModel,
    columns: Columns | None,
    *,
    trust_remote_code: bool = False,
) -> Teachers:
    """The models in these folders, on the device of the one that they teach; float32 on a CPU,
    bfloat16 elsewhere.

    Raises CompatibilityError unless they read text as that one does, and as `check_teachers` and
    `load_model_folder`."""
    check_teachers(folders, served.tokens, served.bundle)
    vocabulary, models = served.tokenizer.get_vocab(), []
    for folder in folders:
        teacher = load_model_folder(
            folder,
            bundle=served.bundle,
            device=str(served.model.device),
            trust_remote_code=trust_remote_code,
        )
        if teacher.tokenizer.get_vocab() != vocabulary:
            raise CompatibilityError(f"teacher {folder} has another tokenizer than the model")
        rows, asked = (
            len(model.get_output_embeddings().weight) for model in (teacher.model, served.model)
        )
        if columns is None and rows != asked:
            raise CompatibilityError(
                f"teacher {folder} gives {rows} logits, the model {asked}, and the loss is over "
                "all of them",
                hint="rows that all answer with SIDs are trained over their tokens alone",
            )
        models.append(teacher.model)
    return Teachers(models, columns)
