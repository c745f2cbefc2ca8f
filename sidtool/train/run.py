"""train: a model and rows become a tuned model, resumably.

Knows the order of things: what can refuse without reading a weight does so first; the work lies in
OUT.partial with its checkpoints until the output is whole. What a step computes is trainer.py's.

Under torchrun or accelerate launch every process runs this; the first one alone writes.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sidtool.bundle.bundle import Bundle
from sidtool.data.digests import file_digest
from sidtool.data.examples import read_examples
from sidtool.data.split_record import recorded_split
from sidtool.errors import SidtoolError, UsageError
from sidtool.model.adapter import base_of
from sidtool.model.contract import Contract, read_contract, write_contract
from sidtool.model.load import LoadedModel, check_model_folder, load_model_folder
from sidtool.model.split_check import check_model_split
from sidtool.output import partial_path, refuse_existing, remove, replace_dir
from sidtool.prompt.encoder import prompt_encoder
from sidtool.prompt.prompts import HistoryPrompt, TextPrompt
from sidtool.sft.make_sft import check_spelling, read_lineage
from sidtool.train.arguments import kept_dtype, settled, sft_config
from sidtool.train.checkpoints import find_best, has_ended, last_checkpoint, open_work, run_digest
from sidtool.train.dataset import TokenizedExamples, answers_with_sid
from sidtool.train.machine import peak_memory, quiet
from sidtool.train.settings import DEFAULTS, TrainOptions
from sidtool.train.settings_file import typed_sft_fields

Progress = Callable[[int, int], None]
Log = Callable[[dict[str, float]], None]
Tell = Callable[[str], None]


def train(
    model_dir: Path,
    rows: Path,
    out: Path,
    *,
    options: TrainOptions | None = None,
    fields: Mapping[str, Any] | None = None,
    valid: Path | None = None,
    bundle: Bundle | None = None,
    teachers: Sequence[Path] = (),
    force: bool = False,
    keep: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Train a model on rows; what the best checkpoint by validation holds becomes `out` (the last,
    without `valid`).

    `fields` are fields of TRL's SFTConfig by name. `bundle` is the one that the rows were made
    with, where that is not the model's own but a refreshed one. `teachers` are folders of trained
    models with this bundle and tokenizer: their mean answer is learnt beside the targets
    (`TrainOptions.distill_weight`). A run that was killed goes on from its last checkpoint when called
    again with the same arguments, and ends with the same weights. `progress` is told steps, `log`
    each log line and validation as a dict, `tell` a line on what is inherited. With `keep`, an
    output that this very run made stays, and the summary says so (`kept`). Returns a summary:
    steps, tokens (no padding), targets, tokens_per_second, seconds, peak memory and loss (of this
    call; None if nothing was left to train), metric and best (None without `valid`).

    Raises UsageError if the output exists, settings make no sense or an unfinished run had others;
    CompatibilityError if model, bundle, rows and teachers do not belong together or come from
    different splits; DataError if rows are malformed."""
    options = options or TrainOptions()
    if not keep:
        refuse_existing(out, force)
    lineage = read_lineage(rows)
    contract, bundle, _ = check_model_folder(model_dir, bundle)
    check_spelling(lineage, bundle, rows)
    if teachers:
        from sidtool.train.teachers import check_teachers

        check_teachers(teachers, contract.tokens, bundle)
    split = recorded_split(lineage)
    for folder in (model_dir, *teachers):
        check_model_split(folder, read_contract(folder), bundle, str(rows), split)
    fields = settled(options, typed_sft_fields(fields or {}), lineage)
    run = _Run(
        model_dir,
        rows,
        out,
        valid,
        options,
        fields,
        lineage,
        contract,
        bundle,
        tuple(teachers),
        trust_remote_code,
    )
    if tell:
        tell(inherited(options.stage, model_dir, contract, bundle))
    if keep and out.exists() and read_contract(out).params.get("run") == run.digest:
        return {"stage": options.stage, "kept": str(out)}
    refuse_existing(out, force)
    with quiet():
        return run.go(force, progress, log)


def inherited(stage: str, folder: Path, contract: Contract, bundle: Bundle) -> str:
    """What a stage takes over from the model's folder before it, as a line for people."""
    road = " > ".join([*(str(parent["stage"]) for parent in contract.parents), contract.stage])
    history_prompt = contract.history_prompt
    prompt = (
        f"{history_prompt.task}, {history_prompt.format}, history {history_prompt.history_length}"
        if history_prompt
        else "no task yet"
    )
    tokens, name = contract.tokens, f"{bundle.manifest.name} {bundle.identity.digest[:12]}"
    return (
        f"{stage} inherits from {folder} ({road}): bundle {name}, {tokens.stop - tokens.start} "
        "tokens "
        f"at {tokens.start}, base {contract.base_model}, history prompt {prompt}"
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """One training run, all of its arguments settled."""

    model_dir: Path
    rows: Path
    out: Path
    valid: Path | None
    options: TrainOptions
    fields: Mapping[str, Any]
    lineage: Mapping[str, Any]
    contract: Contract
    bundle: Bundle
    teachers: tuple[Path, ...]
    trust_remote_code: bool

    @property
    def work(self) -> Path:
        """Where checkpoints lie."""
        return partial_path(self.out)

    def go(self, force: bool, progress: Progress | None, log: Log | None) -> dict[str, Any]:
        """Load, train, and put the result in place."""
        arguments = sft_config(
            self.work, self.options, self.fields, validated=self.valid is not None
        )
        first = arguments.process_index == 0
        with arguments.main_process_first(desc="open the work folder"):
            if first:
                processes = {"processes": arguments.world_size} if arguments.world_size > 1 else {}
                open_work(self.work, self.fingerprint | processes, force)
            checkpoint = last_checkpoint(self.work, arguments.world_size)
            if first and checkpoint:
                find_best(checkpoint)
        try:
            trainer = self._trainer(arguments, progress, log)
        except SidtoolError:
            if (
                first and checkpoint is None
            ):  # nothing was begun that another try would have to go on with
                remove(self.work)
            raise
        start, loss = time.monotonic(), None
        if checkpoint and has_ended(checkpoint):
            trainer.restore(checkpoint)
        else:
            loss = trainer.train(
                resume_from_checkpoint=str(checkpoint) if checkpoint else None
            ).training_loss
        seconds = time.monotonic() - start
        trainer.accelerator.wait_for_everyone()
        if first:
            self._finish(trainer)
        trainer.accelerator.wait_for_everyone()
        tokens, targets = trainer.accelerator.reduce(trainer.seen).tolist()
        return {
            "stage": self.options.stage,
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "loss": loss,
            "metric": self.options.metric_for_best_model if self.valid else None,
            "best": trainer.state.best_metric,
            "tokens": tokens,
            "targets": targets,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "seconds": seconds,
            **peak_memory(),
            "trained_parameters": sum(
                weight.numel() for weight in trainer.model.parameters() if weight.requires_grad
            ),
            "resumed_from": checkpoint.name if checkpoint else None,
            "packed": trainer.packed,
            "softmax_over": self._loss_over,
        }

    @cached_property
    def base(self) -> dict[str, Any]:
        """The model's folder and the digests of its weights."""
        return base_of(self.model_dir)

    @cached_property
    def _taught_by(self) -> dict[str, Any]:
        """The fact `teachers`, if there are any: their folders and the digests of their weights."""
        return {"teachers": [base_of(folder) for folder in self.teachers]} if self.teachers else {}

    @cached_property
    def digest(self) -> str:
        """Of the fingerprint."""
        return run_digest(self.fingerprint)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to go on: model, rows, validation users and every setting."""
        facts = {
            "model": self.base["weights"],
            "bundle": self.bundle.identity.digest,
            "rows": self.lineage["files"][self.rows.name],
            "valid": file_digest(self.valid) if self.valid else None,
            "options": dataclasses.asdict(self.options),
            "settings": dict(self.fields),
            **self._taught_by,
        }
        return dict(json.loads(json.dumps(facts, default=str)))

    @property
    def _sid_only(self) -> bool:
        return all(answers_with_sid(task) for task in self.lineage["tasks"])

    @property
    def _loss_over(self) -> str:
        over = self.options.softmax_over
        if over in ("sid", "level", "trie") and not self._sid_only:
            raise UsageError(
                f"softmax_over={over} needs rows that all answer with SIDs",
                hint="softmax_over=vocabulary",
            )
        own = (
            self.fields.get("loss_type", "nll") == "nll"
        )  # TRL's others are over the whole vocabulary
        return ("sid" if self._sid_only and own else "vocabulary") if over == "auto" else over

    def _trainer(self, arguments: Any, progress: Progress | None, log: Log | None) -> Any:
        from transformers import EarlyStoppingCallback

        from sidtool.train.augment import (
            UNVARIED,
            Augmentation,
            AugmentedExamples,
            EpochCallback,
        )
        from sidtool.train.lora import Lora
        from sidtool.train.loss import Loss
        from sidtool.train.teachers import load_teachers
        from sidtool.train.token_embeddings import TokenEmbeddings
        from sidtool.train.trainer import ProgressCallback, SidTrainer, set_dropout

        softmax_over = self._loss_over
        served = load_model_folder(
            self.model_dir,
            bundle=self.bundle,
            device=str(arguments.device),
            dtype=kept_dtype(self.model_dir, self.options, arguments),
            trust_remote_code=self.trust_remote_code,
        )
        encoder = prompt_encoder(served.tokenizer, served.tokens)
        rows = TokenizedExamples.read(
            self.rows, encoder, served.tokens, codes_only=softmax_over != "vocabulary"
        )
        self._check_length(rows, served)
        set_dropout(served.model, self.options.dropout)
        learning: TokenEmbeddings | Lora | None = None
        if self.options.stage == "lora":
            learning = Lora(
                served.model, self.model_dir, served.tokens, self.options, int(self.fields["seed"])
            )
        elif self.options.stage == "embeddings":
            served.model.requires_grad_(False)
            learning = TokenEmbeddings(served.model, served.tokens)
        trie = self.bundle.trie() if softmax_over == "trie" else None
        loss = Loss(
            softmax_over,
            served.tokens,
            trie,
            arguments.label_smoothing_factor,
            self.options.distill_weight,
        )
        teachers = None
        if self.teachers:
            teachers = load_teachers(
                self.teachers, served, loss.columns, trust_remote_code=self.trust_remote_code
            )
        callbacks: list[Any] = [ProgressCallback(progress, log)]
        shown: TokenizedExamples | AugmentedExamples = rows
        chosen = self.options
        augmentation = Augmentation(chosen.item_dropout, chosen.reverse_prob, chosen.shuffle_span)
        if augmentation != UNVARIED:
            shown = AugmentedExamples(rows, augmentation, served.tokens, int(self.fields["seed"]))
            callbacks.append(EpochCallback(shown))
        if self.valid and self.options.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(self.options.early_stopping_patience))
        return SidTrainer(
            model=served.model,
            args=arguments,
            rows=shown,
            tokenizer=served.tokenizer,
            loss=loss,
            batching=self.options.batching,
            validator=self._validator(served),
            mark=self._mark,
            callbacks=callbacks,
            learning=learning,
            muon=self.options.optimizer == "muon",
            teachers=teachers,
        )

    def _check_length(self, rows: TokenizedExamples, served: LoadedModel) -> None:
        longest, places = (
            int(rows.lengths.max()),
            getattr(served.model.config, "max_position_embeddings", None),
        )
        limit = min(self.lineage["max_length"], places or self.lineage["max_length"])
        if longest > limit:
            raise UsageError(
                f"the longest row takes {longest} tokens, a row may take {limit}",
                hint="make-sft --model measures rows; lower --history-length or raise --max-length",
            )

    def _validator(self, served: LoadedModel) -> Any:
        from sidtool.train.validation import Validator

        if self.valid is None:
            return None
        if self._history_prompt is None:
            raise UsageError(
                "no task of these rows recommends, so nothing can be validated",
                hint="leave out --valid",
            )
        return Validator(
            tuple(read_examples(self.valid)),
            self.bundle,
            self._history_prompt,
            served.tokenizer,
            served.tokens,
            users=self.options.eval_users,
            num_beams=self.options.eval_num_beams,
            k=self.options.metric_k,
            normalize=self._normalize,
            exclude_seen=self.options.eval_exclude_seen,
            seed=int(self.fields["seed"]),
        )

    @property
    def _normalize(self) -> Literal["level", "trie"]:
        """What the trained model's scores are normalized over: what its targets competed with,
        where that is finer."""
        return "trie" if self._loss_over == "trie" else "level"

    @property
    def _history_prompt(self) -> HistoryPrompt | None:
        return (
            HistoryPrompt.from_json(self.lineage["history_prompt"])
            if self.lineage["history_prompt"]
            else self.contract.history_prompt
        )

    def _mark(self, folder: Path) -> None:
        """Write contract and bundle into a folder of weights."""
        parent = {"stage": self.contract.stage, "params": dict(self.contract.params)}
        settings = {key: value for key, value in self.fields.items() if DEFAULTS.get(key) != value}
        contract = dataclasses.replace(
            self.contract,
            identity=self.bundle.identity,
            stage=self.options.stage,
            base_folder=self.base if self.options.stage == "lora" else None,
            parents=(*self.contract.parents, parent),
            params=json.loads(
                json.dumps(
                    {
                        "rows": self.lineage["files"][self.rows.name],
                        "split": self.lineage["split"],
                        "weights": self.lineage["weights"],
                        "row_format": self.lineage["row_format"],
                        "options": dataclasses.asdict(self.options),
                        "settings": settings,
                        **self._taught_by,
                        "run": self.digest,
                    },
                    default=str,
                )
            ),
            history_prompt=self._history_prompt,
            normalize=self._normalize,
            text_prompt=TextPrompt.from_json(self.lineage["text_prompt"])
            if self.lineage.get("text_prompt")
            else self.contract.text_prompt,
        )
        write_contract(folder, contract, self.bundle)

    def _finish(self, trainer: Any) -> None:
        """Save the model without any training state, move it into place, and drop the work folder."""
        final = self.work / "output"
        remove(final)
        trainer.write_model(final)
        replace_dir(final, self.out)
        remove(self.work)
