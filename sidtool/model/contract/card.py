"""The model card of a model folder, `README.md`: what the model is, how it was made and how it is
loaded. It follows from contract and bundle alone, so equal models have equal cards."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path, PurePath
from string import Template
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.hub import HUB_PREFIX, is_hub_repository
from sidtool.base.markdown import (
    TAGS,
    front_matter,
    key_value_table,
    literal,
    model_index,
    shell_word,
    table,
)
from sidtool.model.contract.contract import BUNDLE_COPY, Contract
from sidtool.model.contract.stage_record import RlParams, StageParams, TrainParams
from sidtool.model.network.structure import ModelKind
from sidtool.tokenizer.bundle import Bundle, flat_record

MODEL_CARD = "README.md"
MAX_LICENSE = 1000
"""Characters of the longest license."""
_CLASSES: Mapping[ModelKind, tuple[str, str]] = {
    "causal": ("AutoModelForCausalLM", "text-generation"),
    "encoder-decoder": ("AutoModelForSeq2SeqLM", "text2text-generation"),
}
"""Of each kind of model, the class of transformers that loads it, and its task on the hub."""
Validation = tuple[str, str, float, object]
"""Stage, metric, value and step."""
_MEMORY = "memory"
"""The stage of what `tune-memory` measured."""
_OF_MIXTURE = "ndcg@10 mixture"
"""The metric of model and memory among these; the others compare, or count users."""
N_EXAMPLES = 2
"""Items in the history of the examples."""
_NOT_SETTINGS = {"examples", "split", "task_weights", "run", "best"}
"""Fields of a stage that other sections show, or that only a machine compares."""
_UNTRAINED = "It was not trained to recommend yet: `sidtool train` trains it."
_SIDTOOL = """\
```console
pip install 'sidtool[models]'
sidtool recommend . $options -k 10
```

`.` is this folder; a model on the Hugging Face hub is named `hf://ORG/NAME`."""
_FROM_HUB = """\
import sidtool

model = sidtool.LoadedModel.from_pretrained({name})"""
_TRANSFORMERS = """\


With `transformers` alone$without_memory:

```python
import sidtool
from transformers import $model_class, AutoTokenizer

bundle = sidtool.open_bundle("sid.zarr")
tokenizer = AutoTokenizer.from_pretrained(".")
model = $model_class.from_pretrained(".")
constraint = sidtool.SidLogitsProcessor.from_pretrained(".")
history = "".join(bundle.sid(item, begin_end_tokens=True) for item in $items)
prompt = tokenizer($before + history + $after, add_special_tokens=False, return_tensors="pt")
settings = {"num_beams": 50, "num_return_sequences": 3, "do_sample": False}
sids = model.generate(**prompt, **settings, max_new_tokens=$levels, logits_processor=[constraint])
print([bundle.item_ids(sid)[0] for sid in tokenizer.batch_decode(sids[:, -$levels:])])
```"""


def check_license(license: str) -> None:
    """Raise UsageError if a license cannot stand on one line."""
    if not license.isprintable() or len(license) > MAX_LICENSE:
        raise UsageError(
            f"{license[:MAX_LICENSE]!r} is not a license", hint="one line, such as CC-BY-4.0"
        )


def model_card(contract: Contract, bundle: Bundle, *, reference: str | None = None) -> str:
    """The card of a model, as Markdown with YAML front matter. `reference` is URL/NAME@VERSION of a
    published one, which a reader of the card has to pull first."""
    pulling = ""
    if reference is not None and is_hub_repository(reference):
        hub_name = json.dumps(reference.removeprefix(HUB_PREFIX))
        pulling = f"```python\n{_FROM_HUB.format(name=hub_name)}\n```\n\n"
    elif reference is not None:
        command = f"sidtool pull {shell_word(reference)} -o model && cd model"
        pulling = f"```console\n{command}\n```\n\n"
    recipe = []
    for number, record in enumerate(contract.stages, 1):
        settings = {} if record.params is None else _settings(record.params)
        text = key_value_table(settings) if settings else "Its settings are not known."
        recipe.append(f"### {number}. {literal(record.stage)}\n\n{text}")
    template = files("sidtool.model.contract").joinpath("card.md").read_text(encoding="utf-8")
    name, task = bundle.manifest.name, _CLASSES[contract.kind][1]
    rows = validations(contract)
    last = {metric: float(value) for stage, metric, value, _ in rows if stage != _MEMORY}
    if contract.memory is not None and _OF_MIXTURE in contract.memory.validation:
        last["ndcg@10"] = contract.memory.validation[_OF_MIXTURE]  # that of what is recommended
    return Template(template).substitute(
        front=front_matter(
            license=contract.license,
            base_model=contract.base_model,
            tags=[*TAGS, "transformers"],
            pipeline_tag=task,
            measured=model_index(name, task, list(last.items()), split="validation"),
        ),
        name=literal(name),
        summary=key_value_table(summary(contract, bundle)),
        loading=pulling + _loading(contract, bundle),
        recipe="\n\n".join(recipe),
        data=key_value_table(dict(_data(contract, bundle))),
        metrics=_metrics(contract),
    )


def stored_card(
    contract: Contract, location: str | Path, reference: str | None, license: str | None
) -> str:
    """The card of the model at `location`, as it is published under `reference` and a license;
    without a reference the card of its copy."""
    bundle = Bundle.open(f"{location}/{BUNDLE_COPY}")
    return model_card(replace(contract, license=license), bundle, reference=reference)


def summary(contract: Contract, bundle: Bundle) -> dict[str, object]:
    """What a model is: its license, base, items, tokens, bundle and memory, by name."""
    manifest = bundle.manifest
    tokens = contract.tokens
    n_missing = len(tokens.token_ids) - tokens.number
    missing = f", {n_missing} codes have no token" if n_missing else ""
    base = contract.base_model
    first_sid = contract.space.spell([0] * contract.space.levels)
    values: dict[str, object] = {
        "license": contract.license or "unknown",
        # of a path the last part, because others name folders of a machine
        "base model": base if base.startswith(HUB_PREFIX) else PurePath(base).name,
        "items": len(bundle.active),
        "retired items": bundle.n_retired,
        "SIDs": f"{contract.space.spelled_sizes} codes, spelled like {first_sid}",
        "SID tokens": f"ids {tokens.start} to {tokens.stop - 1}{missing}",
        "bundle": f"{manifest.name} {manifest.version}, digest {manifest.identity.digest}",
        "scores": f"log-probabilities, normalized over the {contract.normalize}",
    }
    if contract.base_folder is not None:
        reference = _reference(contract.base_folder.to_json())
        values["adapters"] = f"LoRA over the model {reference}, which must be beside this folder"
    if contract.memory is not None:
        memory = contract.memory
        weight = "by a gate per request" if memory.gate else f"weight {memory.weight:g}"
        order = f", re-ranker {memory.reranker.digest[:12]}" if memory.reranker else ""
        values["memory"] = f"{memory.digest}, {weight}, power {memory.power:g}{order}"
    return values


def _loading(contract: Contract, bundle: Bundle) -> str:
    ids = [bundle.items.ids[row] for row in bundle.active[:N_EXAMPLES].tolist()]
    prompt = contract.history_prompt
    if prompt is not None:
        options = f"--history {shell_word(','.join(ids))}"
        if prompt.shows_fields:
            fields = prompt.unknown_fields(len(ids)).to_json()
            options += f" --fields {shell_word(json.dumps(fields))}"
        loading = Template(_SIDTOOL).substitute(options=options)
        shows_sids_alone = prompt.history_as == "sid" and not prompt.frame.has_slots
        if contract.base_folder is not None or not shows_sids_alone:
            return loading
        # the code that loads a whole model without sidtool's decoder
        without_memory = "" if contract.memory is None else ", which knows nothing of the memory"
        return loading + Template(_TRANSFORMERS).substitute(
            items=repr(ids),
            before=repr(prompt.frame.before),
            after=repr(prompt.frame.after + (contract.space.begin or "")),
            levels=contract.space.levels,
            model_class=_CLASSES[contract.kind][0],
            without_memory=without_memory,
        )
    if contract.text_prompt is not None:
        return Template(_SIDTOOL).substitute(options="--query 'a text'")
    return _UNTRAINED


def _settings(params: StageParams) -> dict[str, object]:
    """What a user chose for a stage, and what it started from."""
    settings: dict[str, object] = {}
    for name, value in params.to_json().items():
        if name in _NOT_SETTINGS or value is None or value == []:
            continue
        if name in ("options", "sft_fields", "grpo_fields"):
            options = {
                key: member for key, member in flat_record(value).items() if member is not None
            }
            settings |= options
        elif name in ("start", "base"):
            settings[name] = _reference(value)
        elif name == "reward_inputs":
            for reward, stored in value.items():
                is_model = isinstance(stored, Mapping) and "weights" in stored
                settings[f"input of {reward}"] = _reference(stored) if is_model else stored
        elif name == "teachers":
            settings[name] = ", ".join(_reference(teacher) for teacher in value)
        else:
            settings[name] = value
    return settings


def _reference(model: Mapping[str, Any]) -> str:
    """A model by the name of its folder and the digest of its first weight file."""
    digest = next(iter(model["weights"].values()), "")
    return f"{PurePath(model['path']).name} ({digest[:12]})"


def _data(contract: Contract, bundle: Bundle) -> Iterator[tuple[str, object]]:
    """The catalog, and what each stage was trained on."""
    manifest = bundle.manifest
    yield "items", len(bundle.active)
    collaborative = (manifest.recipe or {}).get("collaborative")
    if collaborative is not None:
        yield "training events in the codebook", collaborative["train_events"]
    for number, record in enumerate(contract.stages, 1):
        params = record.params
        if not isinstance(params, TrainParams | RlParams):
            continue
        yield f"split of stage {number}", f"{params.split.digest} ({params.split.protocol})"
        if params.split.cuts is not None:
            cuts = params.split.cuts
            yield (
                f"held out in stage {number}",
                f"validation from {cuts.valid_from!r}, test from {cuts.test_from!r}",
            )
        yield f"training examples of stage {number}", f"SHA-256 {params.examples}"
        if isinstance(params, TrainParams):
            tasks = ", ".join(f"{task} {weight:g}" for task, weight in params.task_weights.items())
            yield f"tasks and weights of stage {number}", tasks
            if params.forgetting is not None:
                before, after = params.forgetting.before, params.forgetting.after
                text = f"{before:.4g} before, {after:.4g} after"
                yield f"perplexity on held-out general text, stage {number}", text


def validations(contract: Contract) -> list[Validation]:
    """The validations that a contract records; a test metric is no part of it."""
    rows: list[Validation] = []
    for number, record in enumerate(contract.stages, 1):
        best = getattr(record.params, "best", None)
        if best is not None:
            rows.append((f"{number}. {record.stage}", best.metric, best.value, best.step))
    if contract.memory is not None:
        validation = contract.memory.validation.items()
        rows += [(_MEMORY, metric, value, "-") for metric, value in validation]
    return rows


def _metrics(contract: Contract) -> str:
    rows = validations(contract)
    if not rows:
        return f"None: no stage was validated. {_evaluation(contract)} measures them."
    note = f"On validation users, who selected the weights. {_evaluation(contract)} tests."
    return table(("stage", "metric", "value", "step"), rows) + f"\n\n{note}"


def _evaluation(contract: Contract) -> str:
    """The command that measures a model: what it recommends, or a task that it learned."""
    task = contract.measured_task
    return "`sidtool evaluate . SPLIT`" if task is None else f"`sidtool evaluate-task . {task}`"
