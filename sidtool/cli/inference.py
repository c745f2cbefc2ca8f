"""What the commands that run a model share: their options, and loading the model."""

from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.cli.terminal.console import note
from sidtool.model.pretrained import Dtype as Precision
from sidtool.recommendation.search.results import Normalize as Normalization

if TYPE_CHECKING:
    from sidtool.integrations.ray.models import ModelSource
    from sidtool.model.load import LoadedModel

NumBeams = Annotated[
    int, typer.Option(help="Beam width: number of partial SIDs that survive each level.")
]
Normalize = Annotated[
    Normalization | None,
    typer.Option(
        help="Normalize scores over all codes of the level, the valid next codes (trie), or the "
        "whole vocabulary. Default: the model's training setting."
    ),
]
ExcludeSeen = Annotated[
    bool, typer.Option("--exclude-seen", help="Never recommend an item of the history.")
]
Device = Annotated[
    str | None,
    typer.Option(help="Device that the model runs on, like cpu or cuda; the GPU if there is one."),
]
Dtype = Annotated[
    Precision | None,
    typer.Option(help="Precision of inference. Default: float32 on a CPU, else bfloat16."),
]
OtherBundle = Annotated[
    str | None,
    typer.Option("--bundle", help="A newer, compatible bundle in place of the model's own."),
]

Memory = Annotated[
    str | None,
    typer.Option(
        help="A memory of build-memory, or URL/NAME@VERSION, in place of the model's own, "
        "for example tonight's."
    ),
]
MemoryWeight = Annotated[
    float | None,
    typer.Option(help="Share of the memory in the mixture, 0 to 1; 0 leaves the memory out."),
]
MemoryPower = Annotated[
    float | None,
    typer.Option(help="Power to which the memory's scores are raised before they are normalized."),
]


def load_model(
    model: str,
    bundle: str | None,
    device: str | None,
    dtype: Precision | None,
    trust_remote_code: bool,
    memory: tuple[str | None, float | None, float | None] = (None, None, None),
) -> "LoadedModel":
    """Load a model, with a memory by its location, weight and power; print a notice if
    another bundle is compatible but not the same."""
    from sidtool.model.load import load_model_folder
    from sidtool.model.memory import MemoryOptions
    from sidtool.registry.references import located, open_bundle

    loaded = load_model_folder(
        model,
        bundle=open_bundle(bundle) if bundle else None,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        memory=located(MemoryOptions(*memory)),
    )
    # an aligned bundle has raised a warning already
    if loaded.verdict.message and loaded.verdict.kind != "aligned":
        note(loaded.verdict.message)
    return loaded


def model_source(
    model: str,
    bundle: str | None,
    device: str | None,
    dtype: Precision | None,
    trust_remote_code: bool,
    memory: tuple[str | None, float | None, float | None] = (None, None, None),
) -> "ModelSource":
    """The same model for workers, which load it themselves."""
    from sidtool.integrations.ray.models import ModelSource
    from sidtool.model.memory import MemoryOptions

    return ModelSource(model, bundle, device, dtype, trust_remote_code, MemoryOptions(*memory))
