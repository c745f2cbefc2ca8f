"""The card of a published version, as Markdown: what it is, how it was made, how to load it."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from sidtool.bundle.manifest import Manifest, flat_record


def write_card(manifest: Manifest, reference: str, license: str) -> str:
    """The card of a version; `reference` is what `open_bundle` takes."""
    template = files("sidtool.registry").joinpath("card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        name=_one_line(manifest.name),
        version=manifest.version,
        license=_one_line(license),
        items=manifest.items,
        sizes=manifest.space.spelled_sizes,
        example=manifest.space.spell([0] * manifest.space.levels),
        policy=manifest.collisions.policy,
        digest=manifest.identity.digest,
        created=manifest.created or "unknown",
        reference=reference,
        recipe=_key_value_table(manifest.recipe) or "None: a map without a codebook.",
        report=_key_value_table(manifest.report) or "None.",
        lineage=_lineage_table(manifest),
    )


def _lineage_table(manifest: Manifest) -> str:
    rows = [
        (version.version, version.digest[:12], version.created or "-", version.change)
        for version in reversed(manifest.history)
    ]
    return _table(("version", "digest", "created", "change"), rows)


def _key_value_table(value: Mapping[str, Any] | None) -> str:
    return _table(("key", "value"), flat_record(value).items()) if value else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_one_line, line)) + " |" for line in lines)


def _one_line(value: object) -> str:
    """A value on one line, with pipes escaped, so that it stays in its cell."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
