"""train: a model and rows become a tuned model, resumably.

Knows the order of things: what can refuse without reading a weight does so first; the work lies in OUT.partial with
its checkpoints until the output is whole. What a step computes is trainer.py's.

Under torchrun or accelerate launch every process runs this; the first one alone writes.
"""

import contextlib
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sidtool.bundle.bundle import Bundle
from sidtool.catalog.rows import read_examples
from sidtool.errors import CompatibilityError, UsageError
from sidtool.model.contract import Contract, write_contract
from sidtool.model.load import Served, check_folder, load_served
from sidtool.output import partial_path, refuse_existing, remove, replace_dir
from sidtool.prompt.render import prompt_encoder
from sidtool.prompt.serving import Serving
from sidtool.tune.data import Rows, answers_with_sid
from sidtool.tune.settings import DEFAULTS, TrainOptions, typed_fields
from sidtool.tune.sft import read_lineage, sha256

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"
Progress = Callable[[int, int], None]
Log = Callable[[dict[str, float]], None]


def train(
    model_dir: Path,
    rows: Path,
    out: Path,
    *,
    options: TrainOptions | None = None,
    fields: Mapping[str, Any] | None = None,
    valid: Path | None = None,
    bundle: Bundle | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Train a model on rows; what the best checkpoint by validation holds becomes `out` (the last, without `valid`).

    `fields` are fields of TRL's SFTConfig by name. `bundle` is the one that the rows were made with, where that is
    not the model's own but a refreshed one. A run that was killed goes on from its last checkpoint when called again
    with the same arguments, and ends with the same weights. `progress` is told steps, `log` each log line and
    validation as a dict. Returns a summary: steps, tokens, tokens_per_second,
    seconds (of this call), loss, metric and best (None without `valid`).

    Raises UsageError if the output exists, settings make no sense or an unfinished run had others;
    CompatibilityError if model, bundle and rows do not belong together; DataError if rows are malformed.
    """
    options = options or TrainOptions()
    refuse_existing(out, force)
    lineage = read_lineage(rows)
    contract, bundle, _ = check_folder(model_dir, bundle)
    _check_lineage(lineage, bundle, rows)
    fields = {**DEFAULTS, **typed_fields(fields or {})}
    run = _Run(model_dir, rows, out, valid, options, fields, lineage, contract, bundle, trust_remote_code)
    with _quiet():
        return run.go(force, progress, log)


def _check_lineage(lineage: Mapping[str, Any], bundle: Bundle, rows: Path) -> None:
    """Rows spell SIDs: they must be those of the bundle that the model is trained with."""
    for part in ("space", "codebook", "items"):
        made, meant = lineage["bundle"][part][:12], getattr(bundle.identity, part)[:12]
        if made != meant:
            raise CompatibilityError(
                f"{rows} was made with a bundle whose {part} digest is {made}, the model's is {meant}",
                hint="make the rows with the model's bundle, or give the bundle that the rows were made with",
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
    trust_remote_code: bool

    @property
    def work(self) -> Path:
        """Where checkpoints lie."""
        return partial_path(self.out)

    def go(self, force: bool, progress: Progress | None, log: Log | None) -> dict[str, Any]:
        """Load, train, and put the result in place."""
        arguments = self._arguments()
        first = arguments.process_index == 0
        with arguments.main_process_first(desc="open the work folder"):
            if first:
                self._open_work(force)
        checkpoint = last_checkpoint(self.work, arguments.world_size)
        trainer = self._trainer(arguments, progress, log)
        start = time.monotonic()
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.monotonic() - start
        if trainer.ema:
            trainer.ema.adopt()
        trainer.accelerator.wait_for_everyone()
        if first:
            self._finish(trainer)
        trainer.accelerator.wait_for_everyone()
        tokens = int(trainer.accelerator.reduce(trainer.tokens_seen))
        return {
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "loss": result.training_loss,
            "metric": self.options.metric if self.valid else None,
            "best": trainer.state.best_metric,
            "tokens": tokens,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "seconds": seconds,
            "resumed_from": checkpoint.name if checkpoint else None,
            "packed": trainer.packed,
            "loss_over": self._loss_over,
        }

    def _arguments(self) -> Any:
        """SFTConfig from the settings, and what sidtool decides."""
        import torch
        from trl import SFTConfig

        on_gpu = torch.cuda.is_available() and not self.fields.get("use_cpu", False)
        decided = {
            "output_dir": str(self.work),
            "max_length": None,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "remove_unused_columns": False,
            "metric_for_best_model": f"eval_{self.options.metric}",
            "greater_is_better": True,
            "load_best_model_at_end": self.valid is not None,
            "restore_callback_states_from_checkpoint": True,
        }
        softer = {  # what the machine suggests, unless it is set
            "use_cpu": not on_gpu,
            "bf16": on_gpu and torch.cuda.is_bf16_supported(),
            "gradient_checkpointing": False,
            "ddp_find_unused_parameters": False,
            "dataloader_pin_memory": on_gpu,
            "report_to": "none",
            "disable_tqdm": True,
        }
        if self.valid is None:
            decided["eval_strategy"] = "no"
        try:
            return SFTConfig(**{**softer, **self.fields, **decided})
        except (ValueError, TypeError) as error:
            raise UsageError(f"settings do not fit together: {str(error).splitlines()[0]}") from error

    def _open_work(self, force: bool) -> None:
        """Go on in an unfinished work folder if it is this run's, else start a new one."""
        mine, path = self._fingerprint(), self.work / RUN_FILE
        if path.exists():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            other = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
            if not other:
                return
            if not force:
                raise UsageError(
                    f"{self.work} holds an unfinished run with another {other[0]}: "
                    f"{theirs.get(other[0])!r}, not {mine.get(other[0])!r}",
                    hint="repeat its settings to go on with it; --force starts anew",
                )
        remove(self.work)
        self.work.mkdir(parents=True)
        path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")

    def _fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to go on: model, rows, validation users and every setting."""
        weights = sorted(self.model_dir.glob("*.safetensors"))
        facts = {
            "model": {path.name: sha256(path) for path in weights},
            "bundle": self.bundle.identity.digest,
            "rows": self.lineage["files"][self.rows.name],
            "valid": sha256(self.valid) if self.valid else None,
            "options": dataclasses.asdict(self.options),
            "settings": dict(self.fields),
        }
        return dict(json.loads(json.dumps(facts, default=str)))

    @property
    def _sid_only(self) -> bool:
        return all(answers_with_sid(task) for task in self.lineage["tasks"])

    @property
    def _loss_over(self) -> str:
        over = self.options.loss_over
        if over in ("sid", "level") and not self._sid_only:
            raise UsageError(f"loss_over={over} needs rows that all answer with SIDs", hint="loss_over=vocabulary")
        return ("sid" if self._sid_only else "vocabulary") if over == "auto" else over

    def _trainer(self, arguments: Any, progress: Progress | None, log: Log | None) -> Any:
        from transformers import EarlyStoppingCallback

        from sidtool.tune.augment import Augmentation, Augmented, EpochCallback, hide_codes
        from sidtool.tune.trainer import Loss, ProgressCallback, SidTrainer, set_dropout

        loss_over = self._loss_over
        served = load_served(
            self.model_dir,
            bundle=self.bundle,
            device=str(arguments.device),
            dtype="float32",  # master weights; a GPU computes in bf16 under autocast
            trust_remote_code=self.trust_remote_code,
        )
        encoder = prompt_encoder(served.tokenizer, served.tokens)
        rows = Rows.read(self.rows, encoder, served.tokens, codes_only=loss_over != "vocabulary")
        self._check_length(rows, served)
        set_dropout(served.model, self.options.dropout, self.options.attention_dropout)
        callbacks: list[Any] = [ProgressCallback(progress, log)]
        shown: Rows | Augmented = rows
        if self.options.crop or self.options.drop_items:
            augmentation = Augmentation(self.options.crop, self.options.drop_items)
            shown = Augmented(rows, augmentation, served.tokens, int(self.fields["seed"]))
            callbacks.append(EpochCallback(shown))
        if self.options.code_dropout:
            hide_codes(served.model, served.tokens, self.options.code_dropout)
        if self.valid and self.options.patience is not None:
            callbacks.append(EarlyStoppingCallback(self.options.patience))
        return SidTrainer(
            model=served.model,
            args=arguments,
            rows=shown,
            tokenizer=served.tokenizer,
            loss=Loss(loss_over, served.tokens),
            batching=self.options.batching,
            ema=self.options.ema,
            validator=self._validator(served),
            mark=self._mark,
            callbacks=callbacks,
        )

    def _check_length(self, rows: Rows, served: Served) -> None:
        longest, places = int(rows.lengths.max()), getattr(served.model.config, "max_position_embeddings", None)
        limit = min(self.lineage["max_length"], places or self.lineage["max_length"])
        if longest > limit:
            raise UsageError(
                f"the longest row takes {longest} tokens, a row may take {limit}",
                hint="make-sft --model measures rows; lower --history-length or raise --max-length",
            )

    def _validator(self, served: Served) -> Any:
        from sidtool.tune.validate import Validator

        if self.valid is None:
            return None
        if self._serving is None:
            raise UsageError("no task of these rows recommends, so nothing can be validated", hint="leave out --valid")
        return Validator(
            tuple(read_examples(self.valid)),
            self.bundle,
            self._serving,
            served.tokenizer,
            served.tokens,
            users=self.options.valid_users,
            width=self.options.valid_width,
            k=self.options.metric_k,
            seed=int(self.fields["seed"]),
        )

    @property
    def _serving(self) -> Serving | None:
        return Serving.from_json(self.lineage["serving"]) if self.lineage["serving"] else self.contract.serving

    def _mark(self, folder: Path) -> None:
        """Write contract and bundle into a folder of weights."""
        parent = {"stage": self.contract.stage, "facts": dict(self.contract.facts)}
        settings = {key: value for key, value in self.fields.items() if DEFAULTS.get(key) != value}
        contract = dataclasses.replace(
            self.contract,
            identity=self.bundle.identity,
            stage="train",
            parents=(*self.contract.parents, parent),
            facts=json.loads(
                json.dumps(
                    {
                        "rows": self.lineage["files"][self.rows.name],
                        "protocol": self.lineage["protocol"],
                        "weights": self.lineage["weights"],
                        "options": dataclasses.asdict(self.options),
                        "settings": settings,
                    },
                    default=str,
                )
            ),
            serving=self._serving,
        )
        write_contract(folder, contract, self.bundle)

    def _finish(self, trainer: Any) -> None:
        """Save the model without any training state, move it into place, and drop the work folder."""
        final = self.work / "output"
        remove(final)
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(final)
        trainer.processing_class.save_pretrained(final)
        self._mark(final)
        replace_dir(final, self.out)
        remove(self.work)


def last_checkpoint(work: Path, processes: int = 1) -> Path | None:
    """The newest whole checkpoint in a work folder: Trainer writes its state after weights, optimizer and RNG."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    return next((path for path in found if _is_whole(path, processes)), None)


def _is_whole(checkpoint: Path, processes: int) -> bool:
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    if not all((checkpoint / name).is_file() for name in [*states, "optimizer.pt", "scheduler.pt"]):
        return False
    try:
        return bool(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings and logs, which are about their own defaults, out of the user's way."""
    import transformers

    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for module in ("trl", "transformers", "torch", "accelerate", "datasets"):
                warnings.filterwarnings("ignore", module=rf"{module}\.")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
