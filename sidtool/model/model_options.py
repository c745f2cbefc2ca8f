"""How a model is loaded for use."""

from dataclasses import dataclass

from sidtool.base.options import option
from sidtool.model.pretrained import Dtype


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a model is used with, and what it runs on."""

    bundle: str | None = option(None)
    """A newer, compatible bundle in place of the model's own."""
    device: str | None = option(None)
    """Device that the model runs on, like cpu or cuda; the GPU if there is one."""
    dtype: Dtype | None = option(None)
    """Precision of inference. Default: float32 on a CPU, else bfloat16."""
    trust_remote_code: bool = option(False)
    """Run a model's own code and load pickled weights."""
