"""The card of a bundle that is published."""

import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from sidtool.base import markdown
from sidtool.base.hub import HUB_PREFIX, is_hub_repository
from sidtool.base.storage import package
from sidtool.tokenizer.bundle.manifest import Manifest, flat_record


def bundle_card(manifest: Manifest, reference: str, license: str | None) -> str:
    """The card of a bundle that is published as `reference`: URL/NAME@VERSION or a repository of
    the hub. What is not known is left out of the metadata."""
    template = files("sidtool.tokenizer.bundle").joinpath("card.md").read_text(encoding="utf-8")
    name = manifest.name
    on_hub = is_hub_repository(reference)
    # the name and the URL are in code that readers copy: they must stay one string each
    pull = f"sidtool pull {markdown.shell_word(reference)} -o {markdown.shell_word(f'{name}.zarr')}"
    repository = json.dumps(reference.removeprefix(HUB_PREFIX))
    lineage = [
        (version.version, version.digest[:12], version.created or "-", version.change)
        for version in reversed(manifest.history)
    ]
    metrics: list[tuple[str, float]] = []
    if report := manifest.codebook_report:
        metrics = [
            ("reassigned", report.reassigned),
            ("residual_variance", report.residual_variance_assigned),
            *(
                (f"perplexity of level {number}", level.perplexity)
                for number, level in enumerate(report.levels, 1)
            ),
        ]
    return Template(template).substitute(
        front=markdown.front_matter(
            license=license,
            base_model=manifest.made_by.encoder.model,
            measured=markdown.model_index(name, "feature-extraction", metrics),
        ),
        name=markdown.literal(name),
        version=manifest.version,
        license=markdown.literal(license or "unknown"),
        items=manifest.items,
        sizes=manifest.space.spelled_sizes,
        example=markdown.literal(manifest.space.spell([0] * manifest.space.levels)),
        policy=manifest.collisions.policy,
        digest=manifest.identity.digest,
        created=markdown.literal(manifest.created or "unknown"),
        package=package(reference),
        command=f"sidtool verify {markdown.shell_word(reference)}" if on_hub else pull,
        door="Bundle" if on_hub else "open_bundle",
        opening=f"Bundle.from_pretrained({repository})"
        if on_hub
        else f"open_bundle({json.dumps(reference)})",
        recipe=_record_table(manifest.recipe),
        report=_record_table(manifest.report),
        lineage=markdown.table(("version", "digest", "created", "change"), lineage),
    )


def _record_table(record: Mapping[str, Any] | None) -> str:
    return markdown.key_value_table(flat_record(record)) if record else "None."
