from importlib.resources import files
from typing import Any

import pytest

from sidtool.base.errors import UsageError
from sidtool.data import FieldTypes
from sidtool.examples.prompts import frames_of_mix
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.tasks import history_prompt_task, named_task
from sidtool.model.prompt import PromptFrame
from tests.examples.cases import ALL_TASKS, RATING_TASKS
from tests.models import tiny_tokenizer


def test_every_template_file_belongs_to_a_task() -> None:
    templates = files("sidtool.model.prompt") / "templates"
    names = {path.name.removesuffix(".json") for path in templates.iterdir()}
    assert names == {named_task(task).templates for task in (*ALL_TASKS, *RATING_TASKS)}


@pytest.mark.parametrize("name", ["brand", "release date", "brand-name", "brand.name"])
def test_a_column_or_field_of_any_name_has_its_tasks(name: str) -> None:
    for task in (f"{name}-to-sid", f"sid-to-{name}", f"prefix-to-{name}"):
        assert named_task(task).column == name
    for task in (f"next-item-by-{name}", f"predict-{name}"):
        assert named_task(task).feedback == name


@pytest.mark.parametrize(
    ("mix", "task"),
    [
        ({"sequence": 1, "next-item": 2, "title-to-sid": 9}, "next-item"),
        ({"title-history-to-sid": 1, "sid-to-title": 1}, "title-history-to-sid"),
        ({"sid-to-title": 1}, None),
        ({"predict-rating": 1}, None),
        ({"predict-rating": 1, "next-item-by-rating": 1}, "next-item-by-rating"),
        ({"title-history-to-sid": 1, "context-to-sid": 1}, "context-to-sid"),
        ({"title-history-to-sid": 1, "context-to-sid": 1, "sequence": 0.1}, "sequence"),
    ],
)
def test_the_history_prompt_follows_the_mix(mix: dict[str, float], task: str | None) -> None:
    assert history_prompt_task(mix) == task


def test_chat_frames_need_a_template_that_renders_both_messages() -> None:
    def frames(tokenizer: Any) -> tuple[PromptFrame, ...]:
        options = SftOptions({"next-item": 1}, "chat")
        return frames_of_mix(options, tokenizer, FieldTypes(), {})["next-item"]

    tokenizer = tiny_tokenizer()
    with pytest.raises(UsageError, match="chat template"):
        frames(tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(UsageError, match="once each"):
        frames(tokenizer)
    assert frames(tiny_tokenizer(chat=True))[0].before.startswith("<|im_start|>user\n")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        *(({task: 1.0}, f"'{task}'") for task in ("nonsense", "query-to-title", "prefix-to-sid")),
        *(({"sequence": weight}, "positive") for weight in (0.0, float("nan"), float("inf"))),
        ({}, "tasks need positive weights"),
    ],
)
def test_unknown_tasks_and_weights_are_refused(tasks: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SftOptions(tasks)
