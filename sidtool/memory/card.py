"""The card of a published memory, as Markdown with metadata for the Hugging Face hub."""

from importlib.resources import files
from string import Template
from typing import Any

from sidtool.base.checkpoint import is_hub_repository
from sidtool.base.markdown import front_matter, key_value_table, literal, shell_word
from sidtool.memory.manifest import MemoryManifest
from sidtool.tokenizer.bundle import flat_record


def memory_card(manifest: MemoryManifest, reference: str, license: str | None) -> str:
    """The card of a memory that is published as `reference`: URL/NAME@VERSION or a repository of
    the hub."""
    name, _, version = reference.rpartition("/")[2].partition("@")
    on_hub = is_hub_repository(reference)
    settings: dict[str, Any] = {"split": str(manifest.split), **manifest.settings.to_json()}
    if manifest.content is not None:
        settings["content"] = manifest.content.to_json()
    pull = f"sidtool pull {shell_word(reference)} -o {shell_word(f'{name}.zarr')}"
    template = files("sidtool.memory").joinpath("card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        front=front_matter(license=license, base_model=None),
        name=literal(name),
        version=version,
        license=literal(license or "unknown"),
        items=manifest.items,
        bundle=manifest.bundle.digest,
        events=manifest.train_events,
        digest=manifest.digest,
        created=literal(manifest.created or "unknown"),
        extra="hub" if on_hub else "s3",
        reference=shell_word(reference),
        command=f"sidtool verify {shell_word(reference)}" if on_hub else pull,
        settings=key_value_table(flat_record(settings)),
    )
