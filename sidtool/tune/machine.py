"""What a run takes of the machine and says on it: precision as stored, peak memory, and libraries kept quiet."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


def stored_dtype(folder: Path) -> str:
    """The precision that a model's folder says it is stored in; float32 where it says none."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def peak_memory() -> dict[str, float]:
    """The most memory of this process so far, in GiB: resident, and on the GPU where there is one."""
    import resource

    import torch

    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20  # macOS counts bytes, Linux KiB
    peak = {"peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if torch.cuda.is_available():
        peak["peak_cuda_gib"] = torch.cuda.max_memory_allocated() / (1 << 30)
    return peak


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and logs, which are about their own defaults, out of the user's way."""
    import transformers

    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for module in ("trl", "transformers", "torch", "accelerate", "datasets"):
                warnings.filterwarnings("ignore", module=rf"{module}\.")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
