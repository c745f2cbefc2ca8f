"""The prompt of a model that another system trained, and an example of it.

The prompts by which other systems recommend from a history are here word for word. Sources, where
each prompt is made: OpenOneRec `data/onerec_data/sft/video_rec.py` (the first of its texts) in the
markup of `benchmarks/.../qwen3_soft_switch.jinja2`; MiniOneRec `data.py` (`EvalSidDataset`, by
which it reports its metrics); LC-Rec `prompt.py` (the first of its texts); LETTER
`LETTER-TIGER/data.py`, or LC-Rec's prompt for a causal model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.options import check_options, option
from sidtool.data import FieldTypes
from sidtool.model.network import ModelKind
from sidtool.model.prompt import (
    MAX_TOKENS,
    HistoryPrompt,
    Templates,
    history_prompt_ids,
    make_frame,
)
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle

Preset = Literal["openonerec", "minionerec", "lc-rec", "letter"]


@dataclass(frozen=True)
class AdoptOptions:
    """The prompt and the origin of a model that another system trained. Raises UsageError unless
    there is one of preset and template."""

    preset: Preset | None = option(None)
    """System whose prompt the model was trained with."""
    template_file: str | Path | None = option(None, flag="--template")
    """File with another prompt: {"prompts": ["... {history} ..."], "separator": ", "}."""
    history_length: int | None = option(None, minimum=1)
    """Items of a history at most. Default: the preset's; 20 with --template."""
    max_length: int | None = option(None, minimum=1)
    """Tokens of a prompt at most. Default: the preset's; 2048 with --template."""
    revision: str | None = option(None)
    """Revision of the model on the hub."""
    license: str | None = option(None)
    """License, for the card of the model and of those trained from it."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.preset is not None and self.template_file is not None:
            raise UsageError("give either --preset or --template FILE")
        if self.preset is None and self.template_file is None:
            raise UsageError(
                "the prompt that the model was trained with is not known",
                hint="--preset names its system, --template FILE has the prompt",
            )


_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request. \n\n### Instruction:\n"
    "Can you predict the next possible item that the user may expect?\n\n"
)

TASKS = {"sid": "next-item", "title": "title-history-to-sid"}
"""The task of a prompt, by what it shows of the items in a history."""
_LC_REC = HistoryPrompt(
    TASKS["sid"],
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nThe user has interacted with items {history} in "
    "chronological order. Can you predict the next possible item that the user may expect?\n\n"
    "### Response:",
    history_length=20,
    max_length=2048,
    separator=", ",
    item="{sid}",
)

PRESETS: Mapping[Preset, Mapping[ModelKind, HistoryPrompt]] = {
    "openonerec": {
        "causal": HistoryPrompt(
            TASKS["sid"],
            "<|im_start|>system\n你是一个智能推荐助手，能够根据用户的浏览历史预测用户可能感兴趣的下一个内容。<|im_end|>\n"
            "<|im_start|>user\n根据以下用户浏览记录，请预测用户接下来可能观看的内容：\n{history}"
            "/no_think<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            history_length=512,
            max_length=4096,
            format="chat",
        )
    },
    "minionerec": {
        "causal": HistoryPrompt(
            TASKS["sid"],
            _ALPACA
            + "### User Input: \nCan you predict the next possible item the user may expect, given "
            "the following chronological interaction history: {history}\n\n### Response:\n",
            history_length=50,
            max_length=2560,
            separator=", ",
            item="{sid}",
        )
    },
    "lc-rec": {"causal": _LC_REC},
    "letter": {
        "encoder-decoder": HistoryPrompt(
            TASKS["sid"], "{history}", history_length=20, max_length=512
        ),
        "causal": _LC_REC,
    },
}
"""The prompts of each system, by the kinds of models that it trains, without what a tokenizer puts
around a text."""
WITH_BEGIN: tuple[Preset, ...] = ("minionerec",)
"""Systems whose begin token comes first even if the tokenizer itself puts none there."""
MARKUP = re.compile(r"<[^<>\s]+>")
"""Texts in the prompts of systems that each must be one token."""


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

    Raises UsageError if the file has several prompts or one with fields, CompatibilityError if
    markup of the preset is no token."""
    if options.preset is not None:
        prompt = _of_preset(options.preset, kind)
        for text in dict.fromkeys(MARKUP.findall(prompt.template)):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise CompatibilityError(
                    f"{text} is one token in the prompt of {options.preset}, and {len(ids)} tokens "
                    "of this tokenizer",
                    hint="--template FILE gives the model's own prompt",
                )
    else:
        assert options.template_file is not None
        prompt = _from_file(Path(options.template_file))
    around = make_frame("{history}", tokenizer, "text")
    before = around.before
    if options.preset in WITH_BEGIN and not before:
        before = tokenizer.bos_token or ""
    end = tokenizer.eos_token_id
    # some tokenizers put the end token behind every text, as T5's does
    is_appended = tokenizer("a")["input_ids"][-1:] == [end]
    after = around.close if is_appended else ""
    return replace(
        prompt,
        template=before + prompt.template + after,
        history_length=options.history_length or prompt.history_length,
        max_length=options.max_length or prompt.max_length,
    )


def _of_preset(name: Preset, kind: ModelKind) -> HistoryPrompt:
    """The prompt of a system for models of a kind. Raises UsageError if it trains none."""
    if kind not in PRESETS[name]:
        raise UsageError(
            f"preset {name} is for {next(iter(PRESETS[name]))} models, and this one is {kind}",
            hint="--template FILE gives the model's own prompt",
        )
    return PRESETS[name][kind]


def _from_file(path: Path) -> HistoryPrompt:
    """The prompt of a template file."""
    templates = Templates.read(path)
    if len(templates.prompts) != 1:
        raise UsageError(
            f"{path} has {len(templates.prompts)} prompts, a model is adopted with one",
            hint="leave the one that it recommends best with",
        )
    item = templates.item(0)
    if not item and templates.separator:
        item = "{sid}"
    history_as: Literal["sid", "title"] = "title" if "{title}" in item else "sid"
    if item:
        templates = replace(templates, items=(item,))
    templates.check(TASKS[history_as], history_as, FieldTypes())
    return HistoryPrompt(
        TASKS[history_as],
        templates.prompts[0],
        HISTORY_LENGTH,
        MAX_LENGTH,
        history_as=history_as,
        separator=templates.separator,
        item=item,
    )


def worked_prompt(
    prompt: HistoryPrompt, tokenizer: Any, tokens: SidTokens, bundle: Bundle
) -> WorkedPrompt:
    """The prompt of a history of the first items of the bundle. Raises UsageError if no item fits
    into a prompt."""
    whole = replace(prompt, max_length=MAX_TOKENS)  # items that do not fit are not left out
    n_shown = min(N_SHOWN, prompt.history_length, len(bundle.active))
    for n_items in range(n_shown, -1, -1):
        rows = bundle.active[:n_items]
        codes = bundle.items.codes[rows]
        titles: list[str] | None = None
        if prompt.history_as == "title":
            titles = [bundle.items.title(int(row)) for row in rows]
        ids = history_prompt_ids(whole, tokenizer, tokens, codes, titles)
        if len(ids) <= prompt.max_length:
            break
    if n_shown and not n_items:
        raise UsageError(f"no item of a history fits into a prompt of {prompt.max_length} tokens")
    # the same prompt as text, as the other system writes it
    names = titles or [bundle.space.spell(sid, begin_end_tokens=True) for sid in codes]
    form = prompt.item or "{sid}"
    history = prompt.separator.join(
        form.replace(f"{{{prompt.history_as}}}", name) for name in names
    )
    text = prompt.frame.template(history)
    if bundle.space.begin is not None:
        text += bundle.space.begin
    return WorkedPrompt(
        text,
        tuple(ids),
        tuple(map(str, tokenizer.convert_ids_to_tokens(ids))),
        tuple(bundle.items.ids[row] for row in rows.tolist()),
        np.array_equal(tokenizer(text, add_special_tokens=False)["input_ids"], ids),
    )
