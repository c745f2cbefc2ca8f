"""The split whose fields the prompts of a run of reinforcement show. Training examples name the
users of their events, but do not repeat the fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.digests import file_digest
from sidtool.base.errors import UsageError
from sidtool.data.split.files import TRAIN, is_split_folder, read_split
from sidtool.data.split.split import Split
from sidtool.examples.lineage import Lineage, check_same_split
from sidtool.examples.prompts import check_prompt
from sidtool.model.prompt.prompts import HistoryPrompt, LabelPrompt

Prompt = HistoryPrompt | LabelPrompt


@dataclass(frozen=True, eq=False)
class FieldsSplit:
    """The split of the training examples."""

    split: Split
    digest: str
    """SHA-256 (hex) of its training events: a split's own digest leaves fields out"""


def open_fields_split(
    path: str | Path | None, prompts: Mapping[str, Prompt], examples: Path, lineage: Lineage
) -> FieldsSplit | None:
    """The split at `path`, if one of the prompts, by the name of their models, shows fields.

    Raises UsageError unless there is a split exactly if a prompt shows fields, and if the split has
    not all of them; CompatibilityError if the examples were made from another one."""
    with_fields = {name: prompt for name, prompt in prompts.items() if prompt.shows_fields}
    if path is None:
        for name in with_fields:
            raise UsageError(
                f"the prompt of {name} shows fields, which the training examples do not repeat",
                hint="--split SPLIT, the split that make-sft used",
            )
        return None
    if not with_fields:
        raise UsageError(f"--split has no use: no prompt of {' or '.join(prompts)} shows fields")
    folder = Path(path)
    if not is_split_folder(folder):
        raise UsageError(f"{path} is no split folder", hint="sidtool split EVENTS -o SPLIT")
    split = read_split(folder)
    check_same_split(lineage, split)
    for prompt in with_fields.values():
        check_prompt(prompt, split.fields)
    return FieldsSplit(split, file_digest(folder / TRAIN))
