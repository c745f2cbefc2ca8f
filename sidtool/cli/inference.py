"""What the commands that run a model share: their options, and loading the model."""

from typing import TYPE_CHECKING

from sidtool.cli.terminal.console import note
from sidtool.model.memory import MemoryOptions
from sidtool.model.model_options import ModelOptions

if TYPE_CHECKING:
    from sidtool.integrations.ray.models import ModelSource
    from sidtool.model.load import LoadedModel


def load_model(
    model: str, use: ModelOptions, memory: MemoryOptions = MemoryOptions()
) -> "LoadedModel":
    """Load a model; print a notice if another bundle is compatible but not the same."""
    from sidtool.model.load import load_model_folder
    from sidtool.registry.references import located, open_bundle

    loaded = load_model_folder(
        model,
        bundle=open_bundle(use.bundle) if use.bundle else None,
        device=use.device,
        dtype=use.dtype,
        trust_remote_code=use.trust_remote_code,
        memory=located(memory),
    )
    # an aligned bundle has raised a warning already
    if loaded.verdict.message and loaded.verdict.kind != "aligned":
        note(loaded.verdict.message)
    return loaded


def model_source(
    model: str, use: ModelOptions, memory: MemoryOptions = MemoryOptions()
) -> "ModelSource":
    """The same model for workers, which load it themselves."""
    from sidtool.integrations.ray.models import ModelSource

    return ModelSource(model, use.bundle, use.device, use.dtype, use.trust_remote_code, memory)
