"""The prompt of a model that another system trained, and an example of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data import FieldTypes
from sidtool.integrations.adopt.known_prompts import AdoptOptions, PromptPreset, preset_for
from sidtool.model.network import ModelKind
from sidtool.model.prompt import (
    HISTORY_SLOT,
    HistoryPrompt,
    Templates,
    begin_text,
    end_text,
    history_prompt_ids,
)
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle

TASK = "next-item"
HISTORY_LENGTH = 20
MAX_LENGTH = 2048
"""Limits of a prompt from a template file."""

N_SHOWN = 2
"""Items in the history of the worked prompt."""


@dataclass(frozen=True)
class WorkedPrompt:
    """A prompt as the model reads it."""

    text: str
    """what the tokens say"""
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """the token of each id, as the tokenizer names it"""
    history: tuple[str, ...]
    """ids of the items in it"""
    as_text: bool
    """whether the tokenizer reads the text as the same ids: the other system tokenized text"""


def adopted_prompt(tokenizer: Any, kind: ModelKind, options: AdoptOptions) -> HistoryPrompt:
    """The prompt of a preset or of a template file, with what the tokenizer puts around a text.

    Raises UsageError unless there is one of both, or if the file has several prompts or one with
    fields, CompatibilityError if markup of the preset is no token."""
    if options.preset is not None and options.template_file is not None:
        raise UsageError("give either --preset or --template FILE")
    if options.preset is not None:
        system_prompt = preset_for(options.preset, kind)
        for text in system_prompt.markup:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise CompatibilityError(
                    f"{text} is one token in the prompt of {options.preset}, and {len(ids)} tokens "
                    "of this tokenizer",
                    hint="--template FILE gives the model's own prompt",
                )
        item = "{sid}" if system_prompt.separator else ""
    elif options.template_file is not None:
        system_prompt, item = _from_file(Path(options.template_file), kind)
    else:
        raise UsageError(
            "the prompt that the model was trained with is not known",
            hint="--preset names its system, --template FILE has the prompt",
        )
    before = begin_text(tokenizer)
    if system_prompt.begin and not before:
        before = tokenizer.bos_token or ""
    end = tokenizer.eos_token_id
    # some tokenizers put the end token behind every text, as T5's does
    is_appended = end is not None and tokenizer("a")["input_ids"][-1] == end
    after = end_text(tokenizer) if is_appended else ""
    return HistoryPrompt(
        task=TASK,
        template=before + system_prompt.template + after,
        history_length=options.history_length or system_prompt.history_length,
        max_length=options.max_length or system_prompt.max_length,
        format=system_prompt.format,
        history_as="title" if "{title}" in item else "sid",
        separator=system_prompt.separator,
        item=item,
    )


def _from_file(path: Path, kind: ModelKind) -> tuple[PromptPreset, str]:
    """The prompt of a template file, and the form of its items."""
    templates = Templates.read(path)
    if len(templates.prompts) != 1:
        raise UsageError(
            f"{path} has {len(templates.prompts)} prompts, a model is adopted with one",
            hint="leave the one that it recommends best with",
        )
    item = templates.item(0)
    if not item and templates.separator:
        item = "{sid}"
    history_as = "title" if "{title}" in item else "sid"
    if item:
        templates = replace(templates, items=(item,))
    templates.check(TASK, history_as, FieldTypes())  # type: ignore[arg-type]
    system_prompt = PromptPreset(
        kind, templates.prompts[0], HISTORY_LENGTH, MAX_LENGTH, templates.separator
    )
    return system_prompt, item


def worked_prompt(
    prompt: HistoryPrompt, tokenizer: Any, tokens: SidTokens, bundle: Bundle
) -> WorkedPrompt:
    """The prompt of a history of the first items of the bundle."""
    rows = bundle.active[:N_SHOWN]
    codes = bundle.items.codes[rows]
    titles: Sequence[str] | None = None
    if prompt.history_as == "title":
        titles = [bundle.items.title(int(row)) for row in rows]
    ids = history_prompt_ids(prompt, tokenizer, tokens, codes, titles)
    # the same prompt as text, as the other system writes it
    names = titles or [bundle.space.spell(sid, begin_end_tokens=True) for sid in codes]
    form = prompt.item or "{sid}"
    history = prompt.separator.join(
        form.replace(f"{{{prompt.history_as}}}", name) for name in names
    )
    text = prompt.template.replace(HISTORY_SLOT, history)
    if bundle.space.begin is not None:
        text += bundle.space.begin
    return WorkedPrompt(
        text,
        tuple(ids),
        tuple(map(str, tokenizer.convert_ids_to_tokens(ids))),
        tuple(bundle.items.ids[row] for row in rows.tolist()),
        np.array_equal(tokenizer(text, add_special_tokens=False)["input_ids"], ids),
    )
