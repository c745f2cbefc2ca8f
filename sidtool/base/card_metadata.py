"""The metadata of a card, as the Hugging Face hub reads it from the head of a README.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidtool.base.markdown import one_line

LIBRARY = "sidtool"
TAGS = (LIBRARY, "semantic-ids", "generative-recommendation", "recommender-system")
_HUB_PREFIX = "hf://"


@dataclass(frozen=True)
class Measured:
    """What was measured of an artifact, for the hub's `model-index`."""

    name: str
    """of the artifact"""
    task: str
    """as the hub calls it"""
    dataset: str
    metrics: Sequence[tuple[str, float]]
    """names and values"""
    split: str | None = None

    def to_model_index(self) -> list[dict[str, Any]]:
        """The value of `model-index`."""
        name = one_line(self.dataset) or "unnamed"
        split = {} if self.split is None else {"split": self.split}
        result = {
            "task": {"type": self.task},
            "dataset": {"type": name, "name": name} | split,
            "metrics": [{"type": one_line(key), "value": value} for key, value in self.metrics],
        }
        return [{"name": one_line(self.name) or "unnamed", "results": [result]}]


def front_matter(
    *,
    license: str | None,
    base_model: str | None,
    tags: Sequence[str] = TAGS,
    pipeline_tag: str | None = None,
    measured: Measured | None = None,
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
    if measured is not None and measured.metrics:
        values["model-index"] = measured.to_model_index()
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()
