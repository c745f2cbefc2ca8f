"""The card of a published version: what it is, how it was made, and how to load it, as Markdown.

Knows the manifest and the template card.md; knows nothing of stores.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from sidtool.bundle.lineage import history, spell_change
from sidtool.bundle.manifest import Manifest

_NOT_SHOWN = ("probes",)
"""Keys of a recipe that are for machines."""


def write_card(manifest: Manifest, reference: str, license: str) -> str:
    """The card of a version that `Bundle.open(reference)` opens."""
    template = files("sidtool.registry").joinpath("card.md").read_text(encoding="utf-8")
    space = manifest.space
    return Template(template).substitute(
        name=_line(manifest.name),
        version=manifest.version,
        license=_line(license),
        items=manifest.items,
        sizes=space.spelled_sizes,
        example=space.spell([0] * space.levels),
        policy=manifest.collisions["policy"],
        digest=manifest.identity.digest,
        created=manifest.created or "unknown",
        reference=reference,
        recipe=_table(("key", "value"), _flat(manifest.recipe))
        if manifest.recipe
        else "None: a map without a codebook.",
        report=_table(("key", "value"), _flat(manifest.report)) if manifest.report else "None.",
        lineage=_table(
            ("version", "digest", "created", "change"),
            [
                (
                    each["version"],
                    each["digest"][:12],
                    each["created"] or "-",
                    spell_change(each["change"]),
                )
                for each in reversed(history(manifest))
            ],
        ),
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        elif key not in _NOT_SHOWN:
            yield prefix + key, item


def _table(columns: Sequence[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_line, line)) + " |" for line in lines)


def _line(value: object) -> str:
    """A value on one line that cannot end its cell."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
