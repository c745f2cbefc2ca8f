"""The options of adopt, shared by the library and the command line."""

from dataclasses import dataclass
from pathlib import Path

from sidtool.base.options import check_options, option
from sidtool.integrations.adopt.known_prompts import Preset


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
