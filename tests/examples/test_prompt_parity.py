"""Training examples and serving have the same token ids for the same history or text."""

import dataclasses
from typing import Any

import pytest

from sidtool.data.items import Items
from sidtool.data.split.split import Split
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.tasks import HISTORY_PROMPT_TASKS, TEXT_PROMPT_TASKS
from sidtool.examples.training_examples import ExampleMaker
from sidtool.model.prompt.assemble import history_prompt_ids, text_prompt_ids
from sidtool.model.prompt.frames import Format
from sidtool.model.prompt.segments import PromptEncoder
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.examples.cases import QUERIES
from tests.model.prompt.cases import extended_tokenizer

FORMATS = ("plain", "chat")


def served_prompts(
    maker: ExampleMaker, bundle: Bundle, catalog: Items, split: Split, *model: Any
) -> dict[Any, list[int]]:
    """Token ids when serving the history before each training event, by event."""
    prompts = {}
    for sequence in split.train:
        rows = bundle.items.rows(sequence.items)
        titles = [catalog.titles[int(item[1:])] for item in sequence.items]
        for position in range(1, len(rows)):
            codes = bundle.items.codes[rows[:position]]
            event = (sequence.user, sequence.items[position], position)
            prompts[event] = history_prompt_ids(
                maker.prompts.history, *model, codes, titles[:position]
            )
    return prompts


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("max_length", [90, 1024])
@pytest.mark.parametrize("task", [each for each in HISTORY_PROMPT_TASKS[1:] if each != "list"])
def test_history_prompts_are_the_same(
    bundle: Bundle, catalog: Items, split: Split, task: str, max_length: int, format_: Format
) -> None:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    options = SftOptions({task: 1.0}, format=format_, history_length=4, max_length=max_length)
    maker = ExampleMaker(bundle, catalog, options, tokenizer)
    encoder = PromptEncoder(tokenizer, tokens)
    trained = {example.events[-1]: encoder.ids(example.prompt) for example in maker.examples(split)}
    assert trained == served_prompts(maker, bundle, catalog, split, tokenizer, tokens)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_sequence_example_starts_with_every_served_prompt(
    bundle: Bundle, catalog: Items, split: Split, format_: Format
) -> None:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    maker = ExampleMaker(bundle, catalog, SftOptions(format=format_, history_length=20), tokenizer)
    encoder = PromptEncoder(tokenizer, tokens)
    trained = {
        sequence.user: encoder.ids(example.completion)
        for example, sequence in zip(maker.examples(split), split.train, strict=True)
    }
    served = served_prompts(maker, bundle, catalog, split, tokenizer, tokens)
    for (user, _, _), ids in served.items():
        assert trained[user][: len(ids)] == ids


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("task", TEXT_PROMPT_TASKS)
def test_text_prompts_are_the_same(
    bundle: Bundle, catalog: Items, split: Split, task: str, format_: Format
) -> None:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    options = SftOptions({task: 3.0, "sid-to-title": 1.0}, format=format_)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, QUERIES)
    prompt = maker.prompts.text
    assert prompt is not None
    assert (prompt.task, prompt.format) == (task, format_)
    trained = [example.prompt for example in maker.examples(split) if example.task == task]
    texts = {
        next(segment.text for segment in segments if segment.kind == "catalog")
        for segments in trained
    }
    encoder = PromptEncoder(tokenizer, tokens)
    trained_ids = [encoder.ids(segments) for segments in trained]
    for text in texts:
        assert text_prompt_ids(prompt, tokenizer, tokens, text) in trained_ids
    short = dataclasses.replace(prompt, max_length=99)
    ids = text_prompt_ids(short, tokenizer, tokens, "soft " * 2000)
    assert len(ids) == 99
    assert ids[-1] == tokens.begin


def test_a_mix_without_such_tasks_has_no_prompts(bundle: Bundle, catalog: Items) -> None:
    maker = ExampleMaker(bundle, catalog, SftOptions({"sid-to-title": 1.0}))
    assert maker.prompts.text is None
    assert maker.prompts.history is None
