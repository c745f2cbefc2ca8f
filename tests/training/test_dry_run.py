"""A dry run of `train` refuses the training examples that the run refuses, and no others."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.digests import file_digest
from sidtool.base.documents import SEAL
from sidtool.base.errors import DataError, SidtoolError
from sidtool.data.split.split import Split
from sidtool.memory.build import build_memory
from sidtool.model.contract.folder import read_contract
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.run import check_stages, plan_stages, train, train_stages
from sidtool.training.settings import StageSettings, TrainOptions
from sidtool.training.training_run import TrainRequest

FIRST, LAST = 0, -1
SID = "<|sid_begin|><s_a_0><s_b_0><s_c_0><|sid_end|>"

Object = dict[str, Any]
Edit = Callable[[list[Any], Object, list[Any]], object]
"""Edits training examples, their lineage and the validation users, as JSON values, in place; a
text in place of an object is a line as it is."""


def put(index: int, **values: Any) -> Edit:
    """Give an example other values; None removes a key."""

    def edit(examples: list[Any], lineage: Object, valid: list[Any]) -> None:
        examples[index].update(values)
        for key in [key for key, value in values.items() if value is None]:
            del examples[index][key]

    return edit


def line(text: str) -> Edit:
    return lambda examples, lineage, valid: examples.insert(3, text)


def record(**values: Any) -> Edit:
    return lambda examples, lineage, valid: lineage.update(values)


def forget(key: str) -> Edit:
    return lambda examples, lineage, valid: lineage.pop(key)


def prompt(**values: Any) -> Edit:
    return lambda examples, lineage, valid: lineage["history_prompt"].update(values)


def user(index: int, **values: Any) -> Edit:
    return lambda examples, lineage, valid: valid[index].update(values)


def tasks(**counts: Any) -> Edit:
    return lambda examples, lineage, valid: lineage["tasks"]["sequence"].update(counts)


def rename_task(old: str, new: str) -> Edit:
    def edit(examples: list[Any], lineage: Object, valid: list[Any]) -> None:
        for example in examples:
            if example["task"] == old:
                example["task"] = new
        for key in ("tasks", "task_weights", "templates"):
            lineage[key][new] = lineage[key].pop(old)

    return edit


def without_targets(examples: list[Any], lineage: Object, valid: list[Any]) -> None:
    for example in examples:
        example["weight"] = 0


COUNTS = {"examples": 40, "tokens": 400, "longest": 9, "share": 0.1}
EDITS: dict[str, Edit] = {
    "nothing": lambda examples, lineage, valid: None,
    # lines
    "an empty line": line(""),
    "half a line": line('{"task": "sequence", "text": "'),
    "no JSON": line("sequence"),
    "a list": line("[]"),
    "a number": line("3"),
    "null": line("null"),
    "NaN": line('{"task": "sequence", "text": "", "weight": NaN}'),
    "a key twice": line('{"task": "sequence", "text": "", "text": ""}'),
    "another encoding": line('{"task": "sequence", "text": "\udcff"}'),
    "half a surrogate": line('{"task": "sequence", "text": "\\ud800"}'),
    "no examples": lambda examples, lineage, valid: examples.clear(),
    "one example": lambda examples, lineage, valid: examples.__delitem__(slice(1, None)),
    "half of the examples": lambda examples, lineage, valid: examples.__delitem__(slice(40, None)),
    "the examples twice": lambda examples, lineage, valid: examples.extend(examples[:]),
    "another order": lambda examples, lineage, valid: examples.reverse(),
    # keys of an example
    "no task": put(FIRST, task=None),
    "a number as task": put(FIRST, task=3),
    "an unknown task": put(FIRST, task="dream"),
    "another task": put(FIRST, task="next-item"),
    "an unknown key": put(FIRST, more=1),
    "a number as user": put(FIRST, user=7),
    "no user": put(FIRST, user=None),
    "an unknown user": put(FIRST, user="nobody"),
    "an empty user": put(FIRST, user=""),
    "no text": put(FIRST, text=None),
    "a number as text": put(FIRST, text=3),
    "a list as text": put(FIRST, text=[SID]),
    "an empty text": put(FIRST, text=""),
    "a text without SIDs": put(FIRST, text="blue toy"),
    "a single item": put(FIRST, text=SID),
    "a SID of no item": put(FIRST, text="<|sid_begin|><s_a_3><s_b_4><s_c_5><|sid_end|>" * 2),
    "a code out of range": put(FIRST, text="<|sid_begin|><s_a_9><s_b_0><s_c_0><|sid_end|>" * 2),
    "half a SID": put(FIRST, text=SID + "<|sid_begin|><s_a_0><s_b_0><|sid_end|>"),
    "codes in another order": put(FIRST, text=SID + "<|sid_begin|><s_b_0><s_a_0><s_c_0>"),
    "begin tokens alone": put(FIRST, text="<|sid_begin|>" * 3),
    "no begin token": put(FIRST, text="<s_a_0><s_b_0><s_c_0>" * 2),
    "a text that is too long": put(FIRST, text=SID * 80),
    "a text of words that is too long": put(LAST, prompt="blue toy " * 300, catalog=None),
    "a prompt without completion": put(LAST, completion=None),
    "an empty completion": put(LAST, completion="", catalog=None),
    "an empty prompt": put(LAST, prompt="", catalog=None),
    "both forms": put(LAST, text=SID),
    "a completion of words": put(LAST, task="title-to-sid", completion="blue", catalog=None),
    "special tokens in a prompt": put(LAST, prompt="<eos><eos>", catalog=None),
    # weights
    "a weight": put(FIRST, weight=2.5),
    "a weight of 0": put(FIRST, weight=0),
    "no weight above 0": without_targets,
    "a negative weight": put(FIRST, weight=-1),
    "true as weight": put(FIRST, weight=True),
    "a text as weight": put(FIRST, weight="1"),
    "too large a weight": put(FIRST, weight=1e39),
    "weights of SIDs": put(FIRST, text=SID * 3, weight=[1, 2, 0.5]),
    "too few weights": put(FIRST, text=SID * 3, weight=[1, 2]),
    "too many weights": put(FIRST, text=SID * 3, weight=[1] * 4),
    "no weights": put(FIRST, text=SID * 3, weight=[]),
    "a negative weight of a SID": put(FIRST, text=SID * 3, weight=[1, -2, 1]),
    # catalog text
    "a list as catalog": put(FIRST, catalog=[]),
    "a span outside": put(FIRST, text="blue" + SID * 2, catalog={"text": [[0, 999]]}),
    "a reversed span": put(FIRST, text="blue" + SID * 2, catalog={"text": [[3, 1]]}),
    "overlapping spans": put(FIRST, text="blue" + SID * 2, catalog={"text": [[0, 3], [2, 4]]}),
    "three ends of a span": put(FIRST, text="blue" + SID * 2, catalog={"text": [[0, 3, 4]]}),
    "a span of an absent side": put(FIRST, catalog={"completion": [[0, 1]]}),
    "a span of SIDs": put(FIRST, text=SID * 2, catalog={"text": [[0, len(SID)]]}),
    # lineage
    "a leak": record(leaked_events=5),
    "a negative leak": record(leaked_events=-1),
    "another format": record(format=2),
    "another catalog": record(catalog="other"),
    "no bundle": forget("bundle"),
    "a text as bundle": record(bundle="b"),
    "another split": record(split={"protocol": "leave-one-out", "digest": "0" * 64}),
    "an unknown protocol": record(split={"protocol": "other", "digest": "0" * 64}),
    "no files": record(files={}),
    "a list as files": record(files=[]),
    "no tasks": record(tasks={}),
    "negative counts": tasks(examples=-5, tokens=-7),
    "a text as count": tasks(examples="5"),
    "no weights of tasks": record(task_weights={}),
    "a negative weight of a task": record(task_weights={"sequence": -1.0}),
    "an unknown task in the lineage": record(tasks={"dream": COUNTS}),
    "a task of text in the lineage": record(tasks={"item-text": COUNTS}),
    "a renamed task": rename_task("sequence", "next-item"),
    "no maximum length": forget("max_length"),
    "a small maximum length": record(max_length=8),
    "a maximum length of 0": record(max_length=0),
    "a huge maximum length": record(max_length=10**9),
    "a fraction as maximum length": record(max_length=256.5),
    "no history length": record(history_length=0),
    "a negative history length": record(history_length=-3),
    "an unknown form": record(example_format="rich"),
    "negative hidden items": record(hidden_items=-2),
    "a text as seed": record(seed="0"),
    "no templates": record(templates={}),
    "a number as template": record(templates={"sequence": 3}),
    "no history prompt": record(history_prompt=None),
    "a prompt without slot": prompt(template="history"),
    "a prompt with two slots": prompt(template="{history}{history}"),
    "a prompt of no length": prompt(max_length=0),
    "a prompt of another task": prompt(task="next-item"),
    "a prompt of an unknown task": prompt(task="dream"),
    "a prompt of titles": prompt(history_as="title", separator="; "),
    "a prompt that is too long": prompt(template="blue toy " * 300 + "{history}"),
    "a prompt of unknown fields": prompt(template="{user.age}{history}"),
    "a prompt of unknown slots": prompt(template="{wish}{history}"),
    "a prompt of tokens": prompt(item="{sid}{event.rating:token}"),
    "a prompt of listed tokens": prompt(
        item="{sid}{event.rating:token}", field_tokens={"event.rating": [1, 2]}
    ),
    "an unknown form of a prompt": prompt(format="rich"),
    "an incomplete text prompt": record(text_prompt={"task": "title-to-sid"}),
    "weights in the lineage": record(weights={"expression": "rating", "clip": None}),
    "malformed weights": record(weights=3),
    "field tokens": record(field_tokens={"event.rating": [1, 2]}),
    "general text": record(general={"documents": 3}),
    "own templates": record(own_templates={"sequence": {"prompts": [], "separator": ""}}),
    "a text as columns": record(columns="brand"),
    "labels without a prompt": record(label_prompts=[{}]),
    "a prompt of lists": record(list_prompt={"task": "list"}),
    # validation users
    "no validation users": lambda examples, lineage, valid: valid.clear(),
    "validation users without JSON": lambda examples, lineage, valid: valid.insert(1, "u1"),
    "a validation user without item": lambda examples, lineage, valid: valid[0].pop("item"),
    "a number as validation user": user(0, user=3),
    "an unknown validation item": user(0, item="unknown"),
    "an unknown item in a history": user(0, history=["unknown"]),
    "an empty history": user(0, history=[]),
    "a text as history": user(0, history="i1"),
    "a negative position": user(0, position=-1),
    "another position": user(0, position=99),
    "fields of a validation user": user(0, fields={"user": {"age": 3}}),
}


def edited(edit: Edit, made: Path, folder: Path) -> Path:
    """Edited training examples whose lineage has their digests."""
    examples, valid = (
        [json.loads(text) for text in made.with_name(name).read_text().splitlines()]
        for name in ("train.jsonl", "valid.jsonl")
    )
    lineage = json.loads(made.with_name("train.jsonl.meta.json").read_text())
    del lineage[SEAL]  # as a document of an earlier version: what it says is checked
    edit(examples, lineage, valid)
    folder.mkdir()
    for name, values in (("train.jsonl", examples), ("valid.jsonl", valid)):
        lines = [each if isinstance(each, str) else json.dumps(each) for each in values]
        text = "".join(f"{each}\n" for each in lines)
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        if isinstance(lineage.get("files"), dict) and lineage["files"]:
            lineage["files"][name] = file_digest(folder / name)
    (folder / "train.jsonl.meta.json").write_text(json.dumps(lineage))
    return folder / "train.jsonl"


def same_refusal(
    model: Path, examples: Path, options: TrainOptions, more: Mapping[str, Any], **inputs: Any
) -> str:
    """Why training is refused, by a dry run as by the run; empty if it is not."""
    fields = {"max_steps": 1, "per_device_train_batch_size": 64, **more}
    run = (model, examples, examples.parent / "out")
    stages = [StageSettings(options, fields)]

    def refusal(call: Callable[[], object]) -> str:
        try:
            call()
        except SidtoolError as error:
            return str(error)
        return ""

    dry = refusal(lambda: check_stages(plan_stages(TrainRequest(*run, **inputs), stages)))
    assert not list(examples.parent.glob("out*"))
    assert refusal(lambda: train_stages(*run, stages, **inputs)) == dry
    return dry


Make = Callable[..., Path]
FEW = {"eval_users": 5, "eval_num_beams": 5}


@pytest.mark.parametrize("softmax_over", ["trie", pytest.param("auto", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if place % 4 else ())
        for place, name in enumerate(EDITS)
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    tmp_path: Path, models: Make, examples: Make, name: str, softmax_over: Any
) -> None:
    mix = {"sequence": 1.0, "title_to_sid": 1.0}
    if softmax_over == "auto":
        mix["sid_to_title"] = 1.0
    made = edited(EDITS[name], examples(**mix), tmp_path / "sft")
    options = TrainOptions(softmax_over=softmax_over, **FEW)
    refusal = same_refusal(models("llama"), made, options, {})
    assert name != "nothing" or not refusal


@pytest.mark.parametrize(
    ("name", "options", "fields", "refused"),
    [
        ("a weight", {}, {"loss_type": "dft"}, True),
        ("another order", {}, {"loss_type": "dft"}, False),
        ("a single item", {"sliding_windows": "all", "item_dropout": 0.5}, {}, False),
        ("too few weights", {"sliding_windows": "all", "item_dropout": 0.5}, {}, True),
    ],
)
def test_settings_and_examples_are_checked_together(
    tmp_path: Path,
    models: Make,
    examples: Make,
    name: str,
    options: dict[str, Any],
    fields: dict[str, Any],
    refused: bool,
) -> None:
    made = edited(EDITS[name], examples(sequence=1.0, sid_to_title=1.0), tmp_path / "sft")
    chosen = TrainOptions(**options, **FEW)
    assert bool(same_refusal(models("llama"), made, chosen, fields)) == refused


def without_users(examples: list[Any], lineage: Object, valid: list[Any]) -> None:
    for example in examples:
        del example["user"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (EDITS["nothing"], ""),
        (EDITS["an unknown user"], "no training event"),
        (put(40, user="u0"), "no training event"),
        (without_users, "names the user"),
    ],
)
def test_examples_are_checked_with_the_memory(
    tmp_path: Path,
    models: Make,
    examples: Make,
    bundle: Bundle,
    split: Split,
    edit: Edit,
    message: str,
) -> None:
    made = edited(edit, examples(sequence=1.0), tmp_path / "sft")
    options = TrainOptions(softmax_over="trie", memory_weight=0.3, **FEW)
    inputs = {"memory": build_memory(split, bundle), "split": split}
    epoch = {"max_steps": -1, "num_train_epochs": 1}
    refusal = same_refusal(models("llama"), made, options, epoch, **inputs)
    assert message in refusal
    assert bool(message) == bool(refusal)


def test_every_stage_is_checked_with_the_tokenizer_of_the_first(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    made = examples(sequence=1.0)
    broken = edited(EDITS["too few weights"], made, tmp_path / "sft")
    stages = [
        StageSettings(TrainOptions(stage="embeddings", **FEW), {}),
        StageSettings(TrainOptions(stage="lora", **FEW), {}),
        StageSettings(TrainOptions(**FEW), {}, examples=broken),
    ]
    request = TrainRequest(models("llama"), made, tmp_path / "out")
    check_stages(plan_stages(request, stages[:2]))
    with pytest.raises(DataError, match="an example has 2 weights and 3 SIDs"):
        check_stages(plan_stages(request, stages))


def test_the_model_of_a_dry_run_may_be_adapters(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    made = examples(sequence=1.0)
    options = TrainOptions(stage="lora", lora_r=4, **FEW)
    train(models("llama"), made, tmp_path / "lora", options=options, sft_fields={"max_steps": 1})
    assert read_contract(tmp_path / "lora").base_folder is not None
    broken = edited(EDITS["a prompt that is too long"], made, tmp_path / "sft")
    refusal = same_refusal(tmp_path / "lora", broken, TrainOptions(**FEW), {})
    assert "the model has 512 positions" in refusal
