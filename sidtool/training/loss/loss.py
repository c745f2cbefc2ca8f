"""The training loss: cross-entropy over the tokens that a target competes with. Teachers, trained
models or memories whose distributions a model learns beside its targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.memory import Memory
from sidtool.model import LoadedModel, check_model_folder, load_model_folder
from sidtool.model.contract import Contract, read_contract
from sidtool.model.network import is_encoder_decoder, max_positions
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search import (
    Columns,
    Part,
    PartialHead,
    normalize_over_children,
    places_in,
    token_columns,
    trie_arrays,
)
from sidtool.tokenizer.bundle import Bundle, Trie
from sidtool.training.loss.batches import IGNORED, Targets
from sidtool.training.loss.memory_teacher import MemoryTeacher
from sidtool.training.loss.probes import narrows_exactly, packs_exactly, part_logits
from sidtool.training.settings import SoftmaxOver

Blocks = Sequence[torch.Tensor]
"""The logits of each part, (n, columns)."""


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with a softmax over part of the vocabulary.

    Over the trie, a target competes with the codes that continue its prefix to an item: a step with
    one such code costs nothing, and the product over the levels is a distribution over items. A
    code that leads to no item (of a retired item in a history) is no target: see `countable`."""

    over: SoftmaxOver
    tokens: SidTokens
    trie: Trie | None = None
    """needed for `over="trie"`"""
    smoothing: float = 0.0
    """share of a target's weight that is spread evenly over its competitors"""
    distill_weight: float = 0.0
    """weight of the cross-entropy with the teachers' mean distribution, against that of the target
    (Hinton et al., arXiv:1503.02531, at temperature 1)"""

    def columns(self, device: Any = "cpu") -> Columns | None:
        """The token ids whose logits are needed; None for all."""
        return None if self.over == "vocabulary" else token_columns(self.tokens, device).all_codes

    def parts(self, targets: torch.Tensor) -> list[Part]:
        """Split (n,) target ids by the columns that they need: one part, or one for each level."""
        if self.over in ("vocabulary", "sid"):
            every_target = torch.arange(len(targets), device=targets.device)
            return [(every_target, self.columns(targets.device))]
        parts: list[Part] = []
        for level in token_columns(self.tokens, targets.device).levels:
            in_level = level.contains(targets)
            parts.append((in_level.nonzero()[:, 0], level.columns))
        return parts

    def countable(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch on the CPU, of whose targets those are left that count: over the trie, those that
        continue their prefix to an item."""
        counted = dict(batch)
        if self.trie is None:
            return counted
        targets = Targets.pop(dict(batch), self.tokens.space.levels)
        ids = torch.cat([targets.preceding, targets.ids[:, None]], dim=1)  # (n, levels)
        counted |= {name: batch[name].clone() for name in ("labels", "weights")}
        width = batch.get("decoder_input_ids", batch["input_ids"]).shape[1]
        columns, arrays = token_columns(self.tokens, "cpu"), trie_arrays(self.trie, "cpu")
        for level, (indexes, _) in enumerate(self.parts(targets.ids)):
            # (targets, level + 1): the prefix of each target of the level, and the target
            token_levels, codes = columns.locate(ids[indexes, -1 - level :])
            _, exists = arrays.descend(codes)
            exists &= (token_levels == torch.arange(level + 1)).all(-1)
            before = targets.positions[indexes[~exists]]  # in the flat batch
            lines, places = before // width, before % width + 1
            counted["labels"][lines, places] = IGNORED
            counted["weights"][lines, places] = 0
        return counted

    def total(
        self,
        blocks: Blocks,
        parts: Sequence[Part],
        targets: Targets,
        teacher_blocks: Sequence[Blocks] = (),
    ) -> torch.Tensor:
        """() float: the sum of the losses at n targets of a `countable` batch, each times its
        weight, from the logits of each part and of each teacher."""
        total = torch.zeros((), device=targets.ids.device)
        for level, (block, (indexes, columns)) in enumerate(zip(blocks, parts, strict=True)):
            # the column of each target in its block
            places = places_in(columns, targets.ids[indexes])
            preceding = targets.preceding[indexes]
            log_probabilities, target_slots, n_competitors = self._competitors(
                level, block.shape[1], places, preceding
            )
            logs = log_probabilities(block.float())
            losses = -logs.gather(-1, target_slots[:, None])[:, 0]  # (n,)
            if self.smoothing:
                uniform = -logs.sum(-1) / n_competitors
                losses = torch.lerp(losses, uniform, self.smoothing)
            if teacher_blocks:
                teacher_logs = torch.stack(
                    [log_probabilities(teacher[level].float()) for teacher in teacher_blocks]
                )  # (teachers, n, competitors)
                distilled = -(teacher_logs.exp().mean(0) * logs).sum(-1)
                losses = torch.lerp(losses, distilled, self.distill_weight)
            # an empty sum keeps the weights in the graph: under DDP every process needs gradients
            total = total + (targets.weights[indexes] * losses).sum()
        return total

    def _competitors(
        self, level: int, width: int, places: torch.Tensor, preceding: torch.Tensor
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, torch.Tensor | int]:
        """What (n,) targets of a level, given by their columns, compete with after (n, levels - 1)
        token ids: what turns (n, columns) logits into (n, max competitors) log-probabilities, 0 in
        unused slots; (n,) the index of the target among its competitors; and (n,) their number, the
        target included."""
        if self.trie is None:
            return lambda block: block.log_softmax(-1), places, width
        arrays = trie_arrays(self.trie, places.device)
        columns = token_columns(self.tokens, places.device)
        first = preceding.shape[1] - level
        _, prefix_codes = columns.locate(preceding[:, first:])  # (n, level)
        nodes, _ = arrays.descend(prefix_codes)
        # (n, fan-out): nodes, their codes, and which of the slots are in use
        children, child_codes, in_use = (part[0] for part in arrays.candidates(level, nodes[None]))
        target_nodes, _ = arrays.child(level, nodes, columns.levels[level].codes_at(places))
        child_places = columns.levels[level].places(child_codes)

        def log_probabilities(block: torch.Tensor) -> torch.Tensor:
            logits = block.gather(-1, child_places)
            return normalize_over_children(logits, in_use).masked_fill(~in_use, 0.0)

        return log_probabilities, target_nodes - children[:, 0], in_use.sum(-1)


class Teachers:
    """Frozen models in eval mode, and memories."""

    def __init__(
        self, models: Sequence[Any], columns: Columns | None, memories: Sequence[MemoryTeacher] = ()
    ) -> None:
        self._memories = memories
        for model in models:
            model.eval().requires_grad_(False)
        self._models = [(model, PartialHead(model).install()) for model in models]
        self._narrow = [narrows_exactly(model, head, columns) for model, head in self._models]
        self.packs = all(not is_encoder_decoder(model) and packs_exactly(model) for model in models)

    @torch.no_grad()
    def blocks(
        self, inputs: Mapping[str, torch.Tensor], targets: Targets, parts: Sequence[Part]
    ) -> list[list[torch.Tensor]]:
        """For each teacher the logits of each part, (n, columns), on a training batch; `parts` are
        the indexes of targets, and their columns."""
        requests = [(targets.positions[indexes], columns) for indexes, columns in parts]
        is_reversed = [targets.is_reversed[indexes] for indexes, _ in parts]
        return [
            *(
                part_logits(model, head, inputs, requests, narrow=narrow)
                for (model, head), narrow in zip(self._models, self._narrow, strict=True)
            ),
            *(memory.blocks(inputs, requests, is_reversed) for memory in self._memories),
        ]


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
    memories: Sequence[Memory] = (),
    longest: int = 0,
    trust_remote_code: bool = False,
) -> Teachers:
    """Load teachers on the student's device, in float32 on a CPU and bfloat16 elsewhere; memories
    teach on the CPU.

    `columns` are the token ids in the loss, None for all; `longest` are the tokens of the longest
    example. Raises CompatibilityError if a tokenizer or the number of logits differs, UsageError if
    an example is longer than a teacher's positions, and as `check_teachers` and
    `load_model_folder`."""
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
        positions = max_positions(teacher.model) or longest
        if positions < longest:
            raise UsageError(
                f"the longest training example has {longest} tokens, teacher {folder} reads "
                f"{positions}",
                hint=f"examples that fit: make-sft --model MODEL --max-length {positions}",
            )
        n_teacher_logits = len(teacher.model.get_output_embeddings().weight)
        if columns is None and n_teacher_logits != n_logits:
            raise CompatibilityError(
                f"teacher {folder} has {n_teacher_logits} logits, the model {n_logits}, and the "
                "loss is over all of them",
                hint="train on examples that all answer with SIDs, or with a teacher of that size",
            )
        models.append(teacher.model)
    trie = student.bundle.trie()
    teaching = [MemoryTeacher(memory, student.tokens, trie) for memory in memories]
    return Teachers(models, columns, teaching)
