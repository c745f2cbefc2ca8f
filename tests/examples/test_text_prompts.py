import dataclasses

import pytest

from sidtool.data import Items
from sidtool.data.split import Split
from sidtool.examples import ExampleMaker, SftOptions
from sidtool.examples.tasks import TEXT_PROMPT_TASKS
from sidtool.model.prompt import Format, PromptEncoder, text_prompt_ids
from sidtool.tokenizer.bundle import Bundle
from tests.examples.cases import QUERIES
from tests.model.prompt.cases import extended_tokenizer


@pytest.mark.parametrize("format_", ["plain", "chat"])
@pytest.mark.parametrize("task", TEXT_PROMPT_TASKS)
def test_text_prompts_are_the_same(
    bundle: Bundle, catalog: Items, split: Split, task: str, format_: Format
) -> None:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    options = SftOptions({task: 3.0, "sid-to-title": 1.0}, format=format_)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, QUERIES)
    prompt = maker.prompts.text
    assert (prompt.task, prompt.format) == (task, format_)
    trained = [example.prompt for example in maker.examples(split) if example.task == task]
    catalogs = ([part.text for part in segments if part.kind == "catalog"] for segments in trained)
    texts = {catalog[0] for catalog in catalogs}
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
