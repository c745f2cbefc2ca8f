"""A run of `train`, with its inputs checked (`run_checks.py`): what determines it, by which it
resumes, and the contract of the model that it makes."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sidtool.base.checkpoint import CONFIG, EMBEDDED, read_object
from sidtool.base.digests import file_digest
from sidtool.base.errors import UsageError, without_credentials
from sidtool.base.output import partial_path
from sidtool.data.split import SplitReference
from sidtool.data.tables import as_url
from sidtool.examples import Lineage, find_task
from sidtool.memory import Memory
from sidtool.model.contract import Contract, ModelReference, SftRecord, StageRecord, TrainParams
from sidtool.model.network import ModelKind
from sidtool.model.prompt import HistoryPrompt
from sidtool.recommendation.search import seen_reason
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.loss.item_fields import ItemFields
from sidtool.training.settings import DEFAULTS, SHARDING, SoftmaxOver, TrainOptions

HISTORY_FILE = "training.jsonl"
"""The log lines and validations of a run, in its output."""
MACHINE_FILE = "machine.jsonl"
"""Time and memory at each log line, which another machine would not repeat."""
MACHINE_FIGURES = ("seconds", "memory_gib", "gpu_memory_gib")
"""What MACHINE_FILE has: the time in training, the resident memory, and the peak memory on the
GPU."""

SlidingWindows = Literal["none", "drawn", "all"]


def sliding_windows(options: TrainOptions, kind: ModelKind) -> SlidingWindows:
    """How item sequences become examples, with `auto` resolved."""
    if options.sliding_windows != "auto":
        return options.sliding_windows
    return "none" if kind == "causal" else "drawn"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The checked inputs of a training, by examples or by rewards."""

    model_dir: Path
    examples: Path
    out: Path
    valid: Path | None
    options: Any
    """sidtool's own settings"""
    config_fields: Mapping[str, Any]
    """fields of TRL's configuration, sidtool's defaults included"""
    lineage: Lineage
    """the lineage of the training examples"""
    contract: Contract
    """the contract of the model in `model_dir`"""
    bundle: Bundle
    learned_from: tuple[SplitReference, ...]
    """the splits of the bundle's codebook, of teachers and of rewards"""
    trust_remote_code: bool

    @property
    def work(self) -> Path:
        """The folder of checkpoints; it exists until the output is complete."""
        return partial_path(self.out)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config_fields["seed"])

    @cached_property
    def model(self) -> ModelReference:
        """The model to train."""
        return ModelReference.of(self.model_dir)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the run, as JSON values."""
        return json_values(
            {
                "model": self.model.weights,
                "model settings": self._model_settings(),
                "bundle": self.bundle.identity.digest,
                "examples": self.lineage.digest_of(self.examples),
                "validation users": file_digest(self.valid) if self.valid else None,
                "options": dataclasses.asdict(self.options),
                "settings": dict(self.config_fields),
                **self.other_inputs(),
            }
        )

    def _model_settings(self) -> dict[str, str]:
        """The digests of what determines the model beside its weights; of its configuration without
        the contract, which has the time of an aligned bundle, and the library that wrote it."""
        files = dict(self.model.files)
        if CONFIG in files:
            config = read_object(self.model_dir / CONFIG)
            written = {EMBEDDED, "transformers_version"}
            files[CONFIG] = json_digest({key: config[key] for key in config.keys() - written})
        return files

    def other_inputs(self) -> dict[str, Any]:
        """What identifies the inputs beside model, examples and validation users."""
        raise NotImplementedError

    def resumable(self, processes: int) -> dict[str, Any]:
        """Everything that must be equal for the run to resume in this number of processes, as JSON
        values: each may store what it made."""
        return self.fingerprint if processes == 1 else {**self.fingerprint, "processes": processes}

    def start(self) -> str:
        """The model that the run starts from, in a few words."""
        stages = " > ".join(record.stage for record in self.contract.stages)
        memory = ", without its memory" if self.contract.memory is not None else ""
        digest = self.bundle.identity.digest[:12]
        return f"{self.model_dir} ({stages}){memory}: bundle {self.bundle.manifest.name} {digest}"


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Run):
    """The checked inputs of one call of `train`."""

    options: TrainOptions
    sft_fields: Mapping[str, Any]
    """fields of SFTConfig as they were given"""
    teacher_dirs: tuple[Path, ...]
    memories: Mapping[Path, Memory]
    """the teachers that are no models, by their folders"""
    item_fields: ItemFields
    """the field tokens beside the items of sequences"""

    @cached_property
    def teachers(self) -> tuple[ModelReference, ...]:
        """The teachers."""
        return tuple(
            ModelReference(str(folder.resolve()), {"memory": self.memories[folder].digest})
            if folder in self.memories
            else ModelReference.of(folder)
            for folder in self.teacher_dirs
        )

    def other_inputs(self) -> dict[str, Any]:
        """The teachers, wherever they are."""
        if not self.teachers:
            return {}
        return {"teachers": [[teacher.weights, teacher.files] for teacher in self.teachers]}

    def resumable(self, processes: int) -> dict[str, Any]:
        """As the parent class, but of what says how a step is divided among `processes`, their
        batches and their memory, only the examples of the whole step."""
        settings = dict(self.fingerprint["settings"])
        batch_size = settings.pop("per_device_train_batch_size")
        batches = settings.pop("gradient_accumulation_steps", 1)
        for name in SHARDING:
            settings.pop(name, None)
        step = batch_size * batches * processes
        if self.lineage.parts:  # their order follows from these
            settings |= {"processes": processes, "per_device_train_batch_size": batch_size}
        return {**self.fingerprint, "settings": settings, "examples of a step": step}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what determines the weights, whatever divides a step."""
        return json_digest(self.resumable(int(os.environ.get("WORLD_SIZE", "1"))))

    @property
    def answers_are_sids(self) -> bool:
        """Whether all examples answer with SIDs."""
        tasks = map(find_task, self.lineage.tasks)
        return all(task is not None and task.writes_sids for task in tasks)

    @property
    def softmax_over(self) -> SoftmaxOver:
        """Tokens in the softmax of the loss, with `auto` resolved.

        Raises UsageError for a choice that needs SIDs as answers with other examples."""
        softmax_over = self.options.softmax_over
        if softmax_over == "auto":
            return "trie" if self.answers_are_sids else "vocabulary"
        if softmax_over != "vocabulary" and not self.answers_are_sids:
            raise UsageError(
                f"softmax_over={softmax_over} requires that all training examples answer with SIDs",
                hint="softmax_over=vocabulary",
            )
        return softmax_over

    @property
    def normalize(self) -> Literal["level", "trie"]:
        """Normalization of the trained model's scores: the finest that its loss used; that of the
        model before where nothing was learned about SIDs."""
        tasks = map(find_task, self.lineage.tasks)
        if not any(task is None or task.learns_sids for task in tasks):
            return self.contract.normalize
        return "trie" if self.softmax_over == "trie" else "level"

    @property
    def history_prompt(self) -> HistoryPrompt | None:
        """The prompt for histories: of these examples, else of the model before. That of lists
        stands in for it where there is no other."""
        both = (self.lineage.history_prompt, self.contract.history_prompt)
        prompts = [prompt for prompt in both if prompt is not None]
        return min(prompts, key=_is_of_lists, default=None)  # of equal ones the first

    def new_contract(self) -> Contract:
        """The contract of the trained model."""
        lineage, contract = self.lineage, self.contract
        sft = SftRecord(
            history_length=lineage.history_length,
            columns=lineage.columns,
            task_budgets=lineage.task_budgets,
            templates=lineage.own_templates,
            weight_clip=lineage.weights.clip if lineage.weights else None,
            hidden_items=lineage.hidden_items,
            general=lineage.general is not None,
        )
        # prompts are those of these examples, else of the model before; those for labels by task
        labels = (*contract.label_prompts, *lineage.label_prompts)
        params = TrainParams(
            examples=lineage.digest_of(self.examples),
            split=lineage.split,
            task_weights=lineage.task_weights,
            example_format=lineage.example_format,
            options=dataclasses.asdict(self.options),
            sft_fields=changed_fields(self.config_fields, DEFAULTS),
            run=self.digest,
            teachers=self.teachers,
            max_length=lineage.max_length,
            weights=lineage.weights.expression if lineage.weights else None,
            lists=lineage.lists,
            sft=sft,
            learned_from=self.learned_from,
        )
        return contract.with_stage(
            StageRecord(self.options.stage, params),
            identity=self.bundle.identity,
            base_folder=self.model if self.options.stage == "lora" else None,
            history_prompt=self.history_prompt,
            list_prompt=lineage.list_prompt or contract.list_prompt,
            label_prompts=tuple({prompt.task: prompt for prompt in labels}.values()),
            text_prompt=lineage.text_prompt or contract.text_prompt,
            normalize=self.normalize,
        )

    def to_json(self) -> dict[str, Any]:
        """What is read and written, and the settings as they were given, as JSON values."""
        return {
            "model": str(self.out),
            "starts_from": str(self.model_dir),
            "examples": without_credentials(as_url(self.examples)),
            "valid": None if self.valid is None else str(self.valid),
            "options": dataclasses.asdict(self.options),
            "settings": dict(self.sft_fields),
        }

    def __str__(self) -> str:
        fields = dict(self.sft_fields) or "sidtool's defaults"
        examples = without_credentials(as_url(self.examples))
        return f"{self.model_dir} on {examples} with {self.options} and {fields}; output {self.out}"

    def inheritance(self) -> str:
        """One line on what the run takes over from the model before it."""
        prompt = self.contract.history_prompt
        task = f"{prompt.task}, {prompt.format}" if prompt else "none"
        tokens = self.contract.tokens
        seen = seen_reason(self.options.eval_exclude_seen, self.lineage.split.targets_repeat)
        return (
            f"{self.options.stage} starts from {self.start()}, {tokens.number} tokens at "
            f"{tokens.start}, base {self.contract.base_model}, history prompt {task}; "
            f"in validation {seen}"
        )


def _is_of_lists(prompt: HistoryPrompt) -> bool:
    task = find_task(prompt.task)
    return task is not None and task.target == "list"


def changed_fields(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that differ from sidtool's defaults, as JSON values."""
    return json_values({key: value for key, value in fields.items() if defaults.get(key) != value})


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back; what JSON cannot store becomes text."""
    return dict(json.loads(json.dumps(values, default=str)))


def json_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a JSON object, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
