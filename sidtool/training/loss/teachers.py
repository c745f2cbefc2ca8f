"""Teachers: trained models whose distributions a model learns beside its targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.model import (
    LoadedModel,
    check_model_folder,
    is_encoder_decoder,
    load_model_folder,
)
from sidtool.model.contract import Contract, read_contract
from sidtool.recommendation.search import Columns, Part, PartialHead, full_blocks
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.loss.shortcuts import narrows_exactly, packs_exactly


class Teachers:
    """Frozen models in eval mode."""

    def __init__(self, models: Sequence[Any], columns: Columns | None) -> None:
        for model in models:
            model.eval().requires_grad_(False)
        self._models = [(model, PartialHead(model).install()) for model in models]
        self._narrow = [narrows_exactly(model, head, columns) for model, head in self._models]
        self.packs = all(not is_encoder_decoder(model) and packs_exactly(model) for model in models)

    @torch.no_grad()
    def blocks(
        self, inputs: Mapping[str, torch.Tensor], parts: Sequence[Part]
    ) -> list[list[torch.Tensor]]:
        """For each teacher the logits of each part, (n, columns), on a training batch."""
        blocks = []
        for (model, head), narrow in zip(self._models, self._narrow, strict=True):

            def forward(model: Any = model) -> torch.Tensor:
                logits: torch.Tensor = model(**inputs, use_cache=False).logits
                return logits

            blocks.append(head.blocks(forward, parts) if narrow else full_blocks(forward(), parts))
        return blocks


def check_teachers(folders: Sequence[Path], student: Contract, bundle: Bundle) -> None:
    """Check without reading weights that models can teach one with this contract and bundle.

    Raises CompatibilityError for a teacher with other SIDs or token ids, UsageError for one of
    another kind or with a memory, and as `check_model_folder`."""
    for folder in folders:
        contract = read_contract(folder)
        if contract.kind != student.kind:
            raise UsageError(
                f"teacher {folder} is {contract.kind}, the model {student.kind}: they read "
                "different batches",
                hint="give a teacher of the model's kind",
            )
        if contract.memory is not None:
            raise UsageError(
                f"teacher {folder} contains a memory, and teaches the distribution of its model "
                "alone",
                hint="give the model that tune-memory made a copy of",
            )
        try:
            _, _, verdict = check_model_folder(folder, bundle)
        except CompatibilityError as error:
            raise CompatibilityError(f"teacher {folder} has other SIDs: {error}") from error
        if verdict.kind == "aligned":
            raise CompatibilityError(f"teacher {folder} has other SIDs: {verdict.message}")
        if contract.tokens != student.tokens:
            is_shifted = contract.token_start != student.token_start
            raise CompatibilityError(
                f"teacher {folder} has SID tokens from id {contract.token_start}, the model from "
                f"{student.token_start}" + ("" if is_shifted else ", in another order"),
                hint="extend both from bases with the same tokenizer",
            )


def load_teachers(
    folders: Sequence[Path],
    student: LoadedModel,
    columns: Columns | None,
    *,
    trust_remote_code: bool = False,
) -> Teachers:
    """Load teachers on the student's device, in float32 on a CPU and bfloat16 elsewhere.

    `columns` are the token ids in the loss, None for all. Raises CompatibilityError if a tokenizer
    or the number of logits differs, and as `check_teachers` and `load_model_folder`."""
    check_teachers(folders, student.contract, student.bundle)
    vocabulary = student.tokenizer.get_vocab()
    n_logits = len(student.model.get_output_embeddings().weight)
    models = []
    for folder in folders:
        teacher = load_model_folder(
            folder,
            bundle=student.bundle,
            device=str(student.model.device),
            trust_remote_code=trust_remote_code,
        )
        if teacher.tokenizer.get_vocab() != vocabulary:
            raise CompatibilityError(f"teacher {folder} has another tokenizer than the model")
        n_teacher_logits = len(teacher.model.get_output_embeddings().weight)
        if columns is None and n_teacher_logits != n_logits:
            raise CompatibilityError(
                f"teacher {folder} has {n_teacher_logits} logits, the model {n_logits}, and the "
                "loss is over all of them",
                hint="train on examples that all answer with SIDs, or with a teacher of that size",
            )
        models.append(teacher.model)
    return Teachers(models, columns)
