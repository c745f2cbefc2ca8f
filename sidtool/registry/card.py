"""The card of a published version, as Markdown: what it is, how it was made, how to load it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from string import Template
from typing import Any

from sidtool.base.markdown import key_value_table, literal, shell_word, table
from sidtool.memory import MemoryManifest
from sidtool.model.contract import BUNDLE_COPY, model_card
from sidtool.registry.records import UNKNOWN_LICENSE
from sidtool.registry.references import split_reference
from sidtool.registry.stored_model import read_stored_model
from sidtool.tokenizer.bundle import Bundle, Manifest, flat_record


def write_card(manifest: Manifest | MemoryManifest, reference: str, license: str) -> str:
    """The card of a version; `reference` is URL/NAME@VERSION."""
    if isinstance(manifest, MemoryManifest):
        return _memory_card(manifest, reference, license)
    output = f"{manifest.name}.zarr"
    return _template("card.md").substitute(
        name=literal(manifest.name),
        version=manifest.version,
        license=literal(license),
        items=manifest.items,
        sizes=manifest.space.spelled_sizes,
        example=manifest.space.spell([0] * manifest.space.levels),
        policy=manifest.collisions.policy,
        digest=manifest.identity.digest,
        created=literal(manifest.created or "unknown"),
        # the name and the URL are in code that readers copy: they must stay one string each
        command=f"sidtool pull {shell_word(reference)} -o {shell_word(output)}",
        reference=json.dumps(reference),
        recipe=_record_table(manifest.recipe) or "None: a map without a codebook.",
        report=_record_table(manifest.report) or "None.",
        lineage=_lineage_table(manifest),
    )


def _memory_card(manifest: MemoryManifest, reference: str, license: str) -> str:
    base, version = split_reference(reference)
    name = base.rpartition("/")[2]
    settings: dict[str, Any] = {"split": str(manifest.split), **manifest.settings.to_json()}
    if manifest.content is not None:
        settings["content"] = manifest.content.to_json()
    output = shell_word(f"{name}.zarr")
    return _template("memory_card.md").substitute(
        name=literal(name),
        version=version,
        license=literal(license),
        items=manifest.items,
        bundle=manifest.bundle.digest,
        events=manifest.train_events,
        digest=manifest.digest,
        created=literal(manifest.created or "unknown"),
        reference=shell_word(reference),
        command=f"sidtool pull {shell_word(reference)} -o {output}",
        settings=_record_table(settings),
    )


def published_model_card(location: str, license: str, reference: str | None = None) -> str:
    """The card of the model folder at `location` under this license; with the `reference` under
    which it is published, it says how to pull it."""
    contract = read_stored_model(location).contract
    recorded = None if license == UNKNOWN_LICENSE else license
    bundle = Bundle.open(f"{location}/{BUNDLE_COPY}")
    return model_card(replace(contract, license=recorded), bundle, reference=reference)


def _template(name: str) -> Template:
    return Template(files("sidtool.registry").joinpath(name).read_text(encoding="utf-8"))


def _lineage_table(manifest: Manifest) -> str:
    rows = [
        (version.version, version.digest[:12], version.created or "-", version.change)
        for version in reversed(manifest.history)
    ]
    return table(("version", "digest", "created", "change"), rows)


def _record_table(record: Mapping[str, Any] | None) -> str:
    return key_value_table(flat_record(record)) if record else ""
