"""The prompts by which other systems recommend from a history, word for word.

Sources, where each prompt is made: OpenOneRec `data/onerec_data/sft/video_rec.py` (the first of its
texts) in the markup of `benchmarks/.../qwen3_soft_switch.jinja2`; MiniOneRec `data.py`
(`EvalSidDataset`, by which it reports its metrics); LC-Rec `prompt.py` (the first of its texts);
LETTER `LETTER-TIGER/data.py`, or LC-Rec's prompt for a causal model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option
from sidtool.model.network import ModelKind
from sidtool.model.prompt import Format

Preset = Literal["openonerec", "minionerec", "lc-rec", "letter"]


@dataclass(frozen=True)
class AdoptOptions:
    """The prompt and the origin of a model that another system trained."""

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


@dataclass(frozen=True)
class PromptPreset:
    """A prompt that contains a history of SIDs."""

    kind: ModelKind
    template: str
    """its text, with {history}"""
    history_length: int
    """items of the history at most"""
    max_length: int
    """tokens at most"""
    separator: str = ""
    """between two items"""
    markup: tuple[str, ...] = ()
    """texts in the template that each must be one token"""
    format: Format = "plain"
    begin: bool = False
    """whether the begin token comes first even if the tokenizer itself puts none there"""


_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request. \n\n### Instruction:\n"
    "Can you predict the next possible item that the user may expect?\n\n"
)

_LC_REC = PromptPreset(
    "causal",
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nThe user has interacted with items {history} in "
    "chronological order. Can you predict the next possible item that the user may expect?\n\n"
    "### Response:",
    history_length=20,
    max_length=2048,
    separator=", ",
)

PRESETS: Mapping[Preset, tuple[PromptPreset, ...]] = {
    "openonerec": (
        PromptPreset(
            "causal",
            "<|im_start|>system\n你是一个智能推荐助手，能够根据用户的浏览历史预测用户可能感兴趣的下一个内容。<|im_end|>\n"
            "<|im_start|>user\n根据以下用户浏览记录，请预测用户接下来可能观看的内容：\n{history}"
            "/no_think<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            history_length=512,
            max_length=4096,
            markup=("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
            format="chat",
        ),
    ),
    "minionerec": (
        PromptPreset(
            "causal",
            _ALPACA
            + "### User Input: \nCan you predict the next possible item the user may expect, given "
            "the following chronological interaction history: {history}\n\n### Response:\n",
            history_length=50,
            max_length=2560,
            separator=", ",
            begin=True,
        ),
    ),
    "lc-rec": (_LC_REC,),
    "letter": (
        PromptPreset("encoder-decoder", "{history}", history_length=20, max_length=512),
        _LC_REC,
    ),
}
"""The prompts of each system: one for each kind of model that it trains."""


def preset_for(name: Preset, kind: ModelKind) -> PromptPreset:
    """The prompt of a system for models of a kind. Raises UsageError if it trains none."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", hint=f"one of {', '.join(PRESETS)}")
    for preset in PRESETS[name]:
        if preset.kind == kind:
            return preset
    raise UsageError(
        f"preset {name} is for {PRESETS[name][0].kind} models, and this one is {kind}",
        hint="--template FILE gives the model's own prompt",
    )
