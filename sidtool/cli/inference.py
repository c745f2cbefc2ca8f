"""What the commands that run a model share: loading it."""

from dataclasses import asdict

from sidtool.cli.terminal.console import note
from sidtool.integrations import ray
from sidtool.memory import MemoryOptions
from sidtool.model import LoadedModel, ModelOptions


def load_model(
    model: str, use: ModelOptions, memory: MemoryOptions = MemoryOptions()
) -> LoadedModel:
    """Load a model; print a notice if another bundle is compatible but not the same."""
    loaded = model_source(model, use, memory).load()
    # an aligned bundle has raised a warning already
    if loaded.verdict.message and loaded.verdict.kind != "aligned":
        note(loaded.verdict.message)
    return loaded


def model_source(model: str, use: ModelOptions, memory: MemoryOptions) -> "ray.ModelSource":
    """The model as this process or workers load it."""
    return ray.ModelSource(model, memory, **asdict(use))
