import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.digests import file_digest
from sidtool.base.documents import SEAL
from sidtool.base.errors import DataError, SidtoolError, UsageError
from sidtool.model.contract.folder import read_contract
from sidtool.training.settings import StageSettings, TrainOptions
from sidtool.training.training import check_stages, plan_stages, train, train_stages
from tests.training.runs import Make, Stopped

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
    "no JSON": line("sequence"),
    "NaN": line('{"task": "sequence", "text": "", "weight": NaN}'),
    "another encoding": line('{"task": "sequence", "text": "\udcff"}'),
    "no examples": lambda examples, lineage, valid: examples.clear(),
    "one example": lambda examples, lineage, valid: examples.__delitem__(slice(1, None)),
    "another order": lambda examples, lineage, valid: examples.reverse(),
    # keys of an example
    "no task": put(FIRST, task=None),
    "an unknown task": put(FIRST, task="dream"),
    "another task": put(FIRST, task="next-item"),
    "a number as user": put(FIRST, user=7),
    "no text": put(FIRST, text=None),
    "an empty text": put(FIRST, text=""),
    "a text without SIDs": put(FIRST, text="blue toy"),
    "a single item": put(FIRST, text=SID),
    "a SID of no item": put(FIRST, text="<|sid_begin|><s_a_3><s_b_4><s_c_5><|sid_end|>" * 2),
    "half a SID": put(FIRST, text=SID + "<|sid_begin|><s_a_0><s_b_0><|sid_end|>"),
    "codes in another order": put(FIRST, text=SID + "<|sid_begin|><s_b_0><s_a_0><s_c_0>"),
    "a text that is too long": put(FIRST, text=SID * 80),
    "a text of words that is too long": put(LAST, prompt="blue toy " * 300, catalog=None),
    "a prompt without completion": put(LAST, completion=None),
    "both forms": put(LAST, text=SID),
    "a completion of words": put(LAST, task="title-to-sid", completion="blue", catalog=None),
    "special tokens in a prompt": put(LAST, prompt="<eos><eos>", catalog=None),
    # weights
    "a weight": put(FIRST, weight=2.5),
    "no weight above 0": without_targets,
    "a negative weight": put(FIRST, weight=-1),
    "too large a weight": put(FIRST, weight=1e39),
    "weights of SIDs": put(FIRST, text=SID * 3, weight=[1, 2, 0.5]),
    "too few weights": put(FIRST, text=SID * 3, weight=[1, 2]),
    # catalog text
    "a span outside": put(FIRST, text="blue" + SID * 2, catalog={"text": [[0, 999]]}),
    "overlapping spans": put(FIRST, text="blue" + SID * 2, catalog={"text": [[0, 3], [2, 4]]}),
    "a span of SIDs": put(FIRST, text=SID * 2, catalog={"text": [[0, len(SID)]]}),
    # lineage
    "a leak": record(leaked_events=5),
    "another format": record(format=2),
    "no bundle": lambda examples, lineage, valid: lineage.pop("bundle"),
    "another split": record(split={"protocol": "leave-one-out", "digest": "0" * 64}),
    "no files": record(files={}),
    "no tasks": record(tasks={}),
    "a text as count": tasks(examples="5"),
    "a task of text in the lineage": record(tasks={"item-text": COUNTS}),
    "a renamed task": rename_task("sequence", "next-item"),
    "a small maximum length": record(max_length=8),
    "an unknown form": record(example_format="rich"),
    "no history prompt": record(history_prompt=None),
    "a prompt without slot": prompt(template="history"),
    "a prompt of another task": prompt(task="next-item"),
    "a prompt of titles": prompt(history_as="title", separator="; "),
    "a prompt that is too long": prompt(template="blue toy " * 300 + "{history}"),
    "a prompt of unknown fields": prompt(template="{user.age}{history}"),
    "a prompt of listed tokens": prompt(
        item="{sid}{event.rating:token}", field_tokens={"event.rating": [1, 2]}
    ),
    "malformed weights": record(weights=3),
    "general text": record(general={"documents": 3}),
    "a prompt of lists": record(list_prompt={"task": "list"}),
    # validation users
    "no validation users": lambda examples, lineage, valid: valid.clear(),
    "validation users without JSON": lambda examples, lineage, valid: valid.insert(1, "u1"),
    "an unknown validation item": user(0, item="unknown"),
    "an empty history": user(0, history=[]),
    "a text as history": user(0, history="i1"),
    "another position": user(0, position=99),
    "fields of a validation user": user(0, fields={"user": {"age": 3}}),
}


ACCEPTED = {"nothing", "one example", "another order", "an unknown task", "another task"}
ACCEPTED |= {"an empty text", "a text without SIDs", "a single item", "a SID of no item"}
ACCEPTED |= {"half a SID", "codes in another order", "both forms", "a completion of words"}
ACCEPTED |= {"special tokens in a prompt", "a weight", "weights of SIDs", "a span of SIDs"}
ACCEPTED |= {"another split", "no tasks", "a renamed task", "no history prompt", "another position"}
ACCEPTED |= {"a prompt of another task", "a prompt of titles", "an unknown validation item"}
ACCEPTED |= {"an empty history", "fields of a validation user"}
"""What a training takes, and so does its plan."""


def edited(edit: Edit, made: Path, folder: Path) -> Path:
    """Edited training examples whose lineage has their digests."""
    files = [made.with_name(name).read_text() for name in ("train.jsonl", "valid.jsonl")]
    examples, valid = ([json.loads(line) for line in text.splitlines()] for text in files)
    lineage = json.loads(made.with_name("train.jsonl.meta.json").read_text())
    del lineage[SEAL]  # as a document of an earlier version: what it says is checked
    edit(examples, lineage, valid)
    folder.mkdir()
    for name, values in (("train.jsonl", examples), ("valid.jsonl", valid)):
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        text = "".join(f"{jsonl_line}\n" for jsonl_line in lines)
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        if isinstance(lineage.get("files"), dict) and lineage["files"]:
            lineage["files"][name] = file_digest(folder / name)
    (folder / "train.jsonl.meta.json").write_text(json.dumps(lineage))
    return folder / "train.jsonl"


def same_refusal(model: Path, examples: Path, options: TrainOptions) -> str:
    """Why training is refused, by a dry run as by the run; empty if it is not."""
    run = (model, examples, examples.parent / "out")
    stages = [StageSettings(options, {"max_steps": 1, "per_device_train_batch_size": 64})]

    def refusal(call: Callable[[], object]) -> str:
        try:
            call()
        except SidtoolError as error:
            return str(error)
        return ""

    dry = refusal(lambda: check_stages(plan_stages(*run, stages)))
    assert not list(examples.parent.glob("out*"))
    assert refusal(lambda: train_stages(*run, stages)) == dry
    return dry


FEW = {"eval_users": 5, "eval_num_beams": 5}


@pytest.mark.parametrize("softmax_over", ["trie", pytest.param("auto", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if place % 10 else ())
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
    refusal = same_refusal(models("llama"), made, options)
    is_accepted = name in ACCEPTED or (name, softmax_over) == (
        "a task of text in the lineage",
        "auto",
    )
    assert bool(refusal) != is_accepted, refusal


def test_settings_and_examples_are_checked_together(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    options = TrainOptions(sliding_windows="all", item_dropout=0.5, **FEW)
    for name, is_refused in (("a single item", False), ("too few weights", True)):
        made = edited(EDITS[name], examples(sequence=1.0, sid_to_title=1.0), tmp_path / name)
        assert bool(same_refusal(models("llama"), made, options)) == is_refused


def test_the_hint_at_examples_that_are_too_long_has_the_length_that_fits(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    short = models("gpt2", max_position_embeddings=16)
    with pytest.raises(UsageError, match="tokens, the limit is 16") as caught:
        train(short, examples(sequence=1.0), tmp_path / "out", sft_fields={"max_steps": 1})
    assert caught.value.hint == "examples that fit: make-sft --model MODEL --max-length 16"


def test_every_stage_is_checked_with_the_tokenizer_of_the_first(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    made = examples(sequence=1.0)
    broken = edited(EDITS["too few weights"], made, tmp_path / "sft")
    stages = [
        StageSettings(TrainOptions(stage="embeddings", **FEW), {}),
        StageSettings(TrainOptions(stage="lora", **FEW), {}),
        StageSettings(TrainOptions(**FEW), {}, examples=str(broken)),
    ]
    run = (models("llama"), made, tmp_path / "out")
    check_stages(plan_stages(*run, stages[:2]))
    with pytest.raises(DataError, match="an example has 2 weights and 3 SIDs"):
        check_stages(plan_stages(*run, stages))


def test_a_dry_run_refuses_what_another_run_has_left(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    run = (models("llama"), examples(sequence=1.0), tmp_path / "out")
    fields = {"max_steps": 2, "save_strategy": "no", "eval_strategy": "no"}
    first = StageSettings(TrainOptions(stage="embeddings", **FEW), fields)
    last = StageSettings(TrainOptions(**FEW), fields)

    def stop(number: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if (number, done) == (2, 1):
                raise Stopped

        return progress

    with pytest.raises(Stopped):
        train_stages(*run, [first, last], progress=stop)
    check_stages(plan_stages(*run, [first, last]))
    with pytest.raises(UsageError, match="max_minutes is for one stage"):
        plan_stages(*run, [first, last], max_minutes=1)
    faster = {**fields, "learning_rate": 1e-5}
    unfinished = r"out\.partial has an unfinished run with different settings\.learning_rate"
    finished = "out-1-embeddings exists already"
    later, earlier = replace(last, sft_fields=faster), replace(first, sft_fields=faster)
    others = {unfinished: [first, later], finished: [earlier, last]}
    for message, stages in others.items():
        planned = plan_stages(*run, stages)
        with pytest.raises(UsageError, match=message):
            check_stages(planned)
        with pytest.raises(UsageError, match=message):
            train_stages(*run, stages)
        check_stages(planned, force=True)
    unfit = replace(last, sft_fields={**fields, "save_strategy": "epoch", "eval_strategy": "steps"})
    with pytest.raises(UsageError, match="settings do not fit together"):
        check_stages(plan_stages(*run, [first, unfit]), force=True)


def test_the_model_of_a_plan_may_be_adapters(tmp_path: Path, models: Make, examples: Make) -> None:
    made = examples(sequence=1.0)
    options = TrainOptions(stage="lora", lora_r=4, **FEW)
    train(models("llama"), made, tmp_path / "lora", options=options, sft_fields={"max_steps": 1})
    assert read_contract(tmp_path / "lora").base_folder is not None
    broken = edited(EDITS["a prompt that is too long"], made, tmp_path / "sft")
    refusal = same_refusal(tmp_path / "lora", broken, TrainOptions(**FEW))
    assert "the model has 512 positions" in refusal


def test_a_later_stage_has_the_earlier_prompt(tmp_path: Path, models: Make, examples: Make) -> None:
    """Examples without a history prompt are validated by that of the stage before."""
    stages = [
        StageSettings(TrainOptions(stage="embeddings", **FEW), {}),
        StageSettings(TrainOptions(**FEW), {}, examples(title_to_sid=1.0)),
    ]
    planned = plan_stages(models("llama"), examples(sequence=1.0), tmp_path / "out", stages)
    check_stages(planned)
    assert planned[1].history_prompt == planned[0].history_prompt is not None
