"""A hook of mkdocs: pages that lie outside of docs/ in the repository are pages of the site, too.

The site has the tree of the repository with docs/ as its root: `../benchmarks/ablation.md` of a
page in docs/ becomes `benchmarks/ablation.md`, and `../docs/scale.md` there becomes `../scale.md`.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/ablation.md",
    "examples/recipes/tiger/README.md",
    "examples/recipes/onerec/README.md",
    "examples/recipes/plum/README.md",
)


def on_files(files: Any, *, config: Any) -> Any:
    """Add the outside pages to the files of docs/."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Move links between docs/ and the outside pages to the tree of the site."""
    if page.file.src_uri not in OUTSIDE:
        return markdown.replace("](../", "](")
    return markdown.replace("../docs/", "../").replace("](docs/", "](")
