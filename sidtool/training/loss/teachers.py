"""Teachers: trained models whose distributions a model learns beside its targets.

A teacher of another kind reads a batch in its own layout: a causal one the prompt and the answer of
an encoder-decoder as one sequence, an encoder-decoder a causal batch with one answer per line in
two."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.model import (
    LoadedModel,
    check_model_folder,
    decoder_start_id,
    is_encoder_decoder,
    load_model_folder,
)
from sidtool.model.contract import read_contract
from sidtool.model.prompt import SidTokens
from sidtool.recommendation.search import Columns, Part, PartialHead, full_blocks
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.loss.shortcuts import narrows_exactly, packs_exactly

Inputs = Mapping[str, torch.Tensor]


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
        """For each teacher the logits of each part, (n, columns), on a training batch, which a
        teacher of another kind reads in its own layout."""
        blocks = []
        for (model, head), narrow in zip(self._models, self._narrow, strict=True):
            teacher_inputs, teacher_parts = inputs_for(model, inputs, parts)

            def forward(model: Any = model, inputs: Any = teacher_inputs) -> torch.Tensor:
                logits: torch.Tensor = model(**inputs, use_cache=False).logits
                return logits

            if narrow:
                blocks.append(head.blocks(forward, teacher_parts))
            else:
                blocks.append(full_blocks(forward(), teacher_parts))
        return blocks


def check_teachers(folders: Sequence[Path], tokens: SidTokens, bundle: Bundle) -> None:
    """Check without reading weights that models can teach one with these token ids and bundle.

    Raises CompatibilityError for a teacher with other SIDs or token ids, UsageError for one that
    contains a memory, and as `check_model_folder`."""
    for folder in folders:
        contract = read_contract(folder)
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
        if contract.tokens != tokens:
            raise CompatibilityError(
                f"teacher {folder} has SID tokens from id {contract.token_start}, the model from "
                f"{tokens.start}"
                + (", in another order" if contract.token_start == tokens.start else ""),
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
    check_teachers(folders, student.tokens, student.bundle)
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


def inputs_for(model: Any, inputs: Inputs, parts: Sequence[Part]) -> tuple[Inputs, Sequence[Part]]:
    """What a model reads of a training batch, and where in its logits those of `parts` are.

    A causal batch for an encoder-decoder must be padded, with the targets of a line behind one
    prompt."""
    has_decoder = "decoder_input_ids" in inputs
    if has_decoder == is_encoder_decoder(model):
        return inputs, parts
    if has_decoder:
        return _as_causal(inputs, parts)
    return _as_encoder_decoder(inputs, parts, decoder_start_id(model))


def _as_causal(inputs: Inputs, parts: Sequence[Part]) -> tuple[Inputs, Sequence[Part]]:
    prompts = inputs["input_ids"]  # (lines, longest prompt)
    answers = inputs["decoder_input_ids"][:, 1:]  # (lines, longest answer - 1)
    n_decoded = inputs["decoder_input_ids"].shape[1]
    lengths = inputs["attention_mask"].sum(1)  # (lines,)
    width = prompts.shape[1] + answers.shape[1]
    ids = torch.zeros(len(prompts), width, dtype=prompts.dtype, device=prompts.device)
    ids[:, : prompts.shape[1]] = prompts
    columns = lengths[:, None] + torch.arange(answers.shape[1], device=ids.device)
    ids = ids.scatter(1, columns, answers)
    mask = torch.arange(width, device=ids.device) < (lengths + answers.shape[1])[:, None]
    moved = []
    for positions, part_columns in parts:
        line = positions // n_decoded
        # the decoder's first token stands where the prompt's last one does
        column = lengths[line] - 1 + positions % n_decoded
        moved.append((line * width + column, part_columns))
    return {"input_ids": ids, "attention_mask": mask.long()}, moved


def _as_encoder_decoder(
    inputs: Inputs, parts: Sequence[Part], start: int
) -> tuple[Inputs, Sequence[Part]]:
    ids = inputs["input_ids"]
    n_lines, width = ids.shape
    lengths = inputs["attention_mask"].sum(1)  # (lines,)
    positions = torch.cat([part_positions for part_positions, _ in parts])
    # a line's prompt ends with the token before its first target
    prompt_lengths = lengths.scatter_reduce(
        0, positions // width, positions % width + 1, "amin"
    )  # (lines,)
    n_decoded = int((lengths - prompt_lengths).max().clamp_min(1))
    columns = prompt_lengths[:, None] + torch.arange(n_decoded - 1, device=ids.device)
    answers = ids.gather(1, columns.clamp_max(width - 1))
    starts = torch.full((n_lines, 1), start, dtype=ids.dtype, device=ids.device)
    longest = int(prompt_lengths.max())
    mask = torch.arange(longest, device=ids.device) < prompt_lengths[:, None]
    moved = []
    for part_positions, part_columns in parts:
        line = part_positions // width
        column = part_positions % width + 1 - prompt_lengths[line]
        moved.append((line * n_decoded + column, part_columns))
    teacher_inputs = {
        "input_ids": ids[:, :longest],
        "attention_mask": mask.long(),
        "decoder_input_ids": torch.cat([starts, answers], dim=1),
    }
    return teacher_inputs, moved
