"""The reward `label` of a run: the model that predicts labels, and which of them are positive.
Everything is checked that needs no weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data.fields.conditions import Condition
from sidtool.data.fields.fields import Value
from sidtool.examples.lineage import Lineage
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.split_check import check_model_split
from sidtool.model.load import check_model_folder
from sidtool.model.prompt.prompts import LabelPrompt, are_numbers
from sidtool.tokenizer.bundle.bundle import Bundle

POSITIVE = "positive_label"
"""The setting that says which labels are positive."""


@dataclass(frozen=True)
class PositiveLabels:
    """The labels of one feedback that count, and the prompt that asks for it."""

    prompt: LabelPrompt
    is_positive: tuple[bool, ...]
    """for each of the prompt's labels"""

    @classmethod
    def of(cls, contract: Contract, condition: str, model: str) -> "PositiveLabels":
        """The labels that fulfill a condition, like `rating>=4`, in a model that predicts them.

        Raises CompatibilityError if the model predicts no labels, UsageError if it predicts those
        of another feedback, if all labels fulfill the condition or none does, and for a model with
        tokens of users, which such prompts lack."""
        if not contract.label_prompts:
            raise CompatibilityError(
                f"{model} was not trained to predict labels: its contract has no label prompt",
                hint="make-sft --task predict-FIELD=1, then sidtool train",
            )
        if contract.user_tokens:
            raise UsageError(
                f"{model} has user tokens, and prompts that ask for labels have none",
                hint="extend-model without --user-tokens",
            )
        parsed = Condition.parse(condition, option=POSITIVE)
        prompts = {prompt.feedback: prompt for prompt in contract.label_prompts}
        if parsed.field not in prompts:
            raise UsageError(
                f"{POSITIVE}={condition} is about {parsed.field!r}, {model} predicts "
                f"{', '.join(prompts)}"
            )
        prompt = prompts[parsed.field]
        is_positive = _fulfilling(parsed, prompt.labels)
        if all(is_positive) or not any(is_positive):
            how_many = "every label" if all(is_positive) else "no label"
            raise UsageError(
                f"{POSITIVE}={condition} is fulfilled by {how_many} of {', '.join(prompt.labels)}"
            )
        return cls(prompt, is_positive)


def _fulfilling(condition: Condition, labels: Sequence[str]) -> tuple[bool, ...]:
    values: list[Value] = list(labels)
    if not are_numbers(labels):
        return tuple(condition.holds(values, "str").tolist())
    return tuple(condition.holds([float(label) for label in labels], "float").tolist())


@dataclass(frozen=True, eq=False)
class LabelReward:
    """What the reward `label` is computed from."""

    name: str
    """the model as errors name it"""
    model_dir: Path
    positive: PositiveLabels


def open_label_reward(
    model: str | Path,
    condition: str,
    examples: Path,
    lineage: Lineage,
    bundle: Bundle,
    *,
    trust_remote_code: bool = False,
) -> LabelReward:
    """The reward of a model that predicts labels, for training examples with this lineage.

    Raises CompatibilityError if the model is of another bundle, predicts no labels, or may have
    learned what the examples' split holds out; UsageError as `PositiveLabels.of`."""
    name = f"reward model {model}"
    folder = model_folder(model, trust_remote_code=trust_remote_code)
    contract, _, _ = check_model_folder(folder, bundle)
    check_model_split(contract, bundle, str(examples), lineage.split, model=name)
    return LabelReward(name, folder, PositiveLabels.of(contract, condition, name))
