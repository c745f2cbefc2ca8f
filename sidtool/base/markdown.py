"""Text from data as literal Markdown, tables of it, and the metadata of a card."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MARKUP = re.compile(r"[\\`<>|\[\]]")
"""Characters that begin code, HTML, a link or a cell."""


def literal(value: object) -> str:
    """A value as literal Markdown text on one line, so that it stays in its cell."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    """A text on one line without control characters."""
    line = " ".join(text.split())
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line
    )


def shell_word(text: str) -> str:
    """A text as one word of a shell command on one line."""
    return shlex.quote(one_line(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of literal cells."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(literal, line)) + " |" for line in lines)


def key_value_table(values: Mapping[str, object]) -> str:
    """A table of two columns, a row per key."""
    return table(("key", "value"), values.items())


LIBRARY = "sidtool"
TAGS = (LIBRARY, "semantic-ids", "generative-recommendation", "recommender-system")
_HUB_PREFIX = "hf://"


def model_index(
    name: str, task: str, metrics: Sequence[tuple[str, float]], split: str | None = None
) -> list[dict[str, Any]] | None:
    """What was measured of an artifact, as the hub's `model-index`; None without metrics. `task` is
    as the hub calls it."""
    label = one_line(name) or "unnamed"
    result = {
        "task": {"type": task},
        "dataset": {"type": label, "name": label} | ({} if split is None else {"split": split}),
        "metrics": [{"type": one_line(key), "value": value} for key, value in metrics],
    }
    return [{"name": label, "results": [result]}] if metrics else None


def front_matter(
    *,
    license: str | None,
    base_model: str | None,
    tags: Sequence[str] = TAGS,
    pipeline_tag: str | None = None,
    measured: list[dict[str, Any]] | None = None,
) -> str:
    """The lines of YAML between two lines `---`. What is not known is left out, and so is a base
    model that is not of the hub."""
    import yaml

    values: dict[str, Any] = {"library_name": LIBRARY}
    if pipeline_tag is not None:
        values["pipeline_tag"] = pipeline_tag
    if license is not None:
        values["license"] = one_line(license)
    if base_model is not None and base_model.startswith(_HUB_PREFIX):
        values["base_model"] = one_line(base_model.removeprefix(_HUB_PREFIX).partition("@")[0])
        if pipeline_tag is not None:
            values["base_model_relation"] = "finetune"
    values["tags"] = list(tags)
    if measured is not None:
        values["model-index"] = measured
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()


def with_dataset(card: str, dataset: str | None) -> str:
    """A card whose metadata names the data set that the artifact was made from, if it is known."""
    if dataset is None:
        return card
    import yaml

    front, _, body = card.removeprefix("---\n").partition("\n---\n")  # a value may end in ---
    values = yaml.safe_load(front) | {"datasets": [one_line(dataset)]}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n{body}"


def names_dataset(card: str, dataset: str) -> bool:
    """Whether `with_dataset` has put this data set into a card."""
    import yaml

    return yaml.safe_dump({"datasets": [one_line(dataset)]}, allow_unicode=True) in card
