"""sidtool: the semantic-ID tokenizer of a generative recommender as a versioned, verified artifact.

Every command of the command line but `inspect` is a function here, and its options are a dataclass
or its parameters. A name is imported when it is first used: `import sidtool` loads neither torch
nor transformers.
"""

from typing import Any

import lazy_loader

__version__ = "0.3.0.dev0"

_import, _, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = ["__version__", *_names]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises MissingPackageError if its module needs a package of an extra."""
    try:
        return _import(name)
    except ImportError as error:
        from sidtool.base.extras import missing_package

        raise missing_package(error) or error from error
