"""The card of a published version, as Markdown: what it is, how it was made, how to load it."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from sidtool.bundle.manifest import Manifest, flat_record
from sidtool.memory.manifest import MemoryManifest
from sidtool.registry.references import split_reference

_MARKUP = re.compile(r"[\\`<>|\[\]]")
"""Characters that begin code, HTML, a link or a cell."""


def write_card(manifest: Manifest | MemoryManifest, reference: str, license: str) -> str:
    """The card of a version; `reference` is URL/NAME@VERSION."""
    if isinstance(manifest, MemoryManifest):
        return _memory_card(manifest, reference, license)
    output = f"{manifest.name}.zarr"
    return _template("card.md").substitute(
        name=_one_line(manifest.name),
        version=manifest.version,
        license=_one_line(license),
        items=manifest.items,
        sizes=manifest.space.spelled_sizes,
        example=manifest.space.spell([0] * manifest.space.levels),
        policy=manifest.collisions.policy,
        digest=manifest.identity.digest,
        created=_one_line(manifest.created or "unknown"),
        # the name and the URL are in code that readers copy: they must stay one string each
        command=f"sidtool pull {_shell_word(reference)} -o {_shell_word(output)}",
        reference=json.dumps(reference),
        recipe=_key_value_table(manifest.recipe) or "None: a map without a codebook.",
        report=_key_value_table(manifest.report) or "None.",
        lineage=_lineage_table(manifest),
    )


def _memory_card(manifest: MemoryManifest, reference: str, license: str) -> str:
    base, version = split_reference(reference)
    name = base.rpartition("/")[2]
    settings: dict[str, Any] = {"split": str(manifest.split), **manifest.settings.to_json()}
    if manifest.content is not None:
        settings["content"] = manifest.content.to_json()
    output = _shell_word(f"{name}.zarr")
    return _template("memory_card.md").substitute(
        name=_one_line(name),
        version=version,
        license=_one_line(license),
        items=manifest.items,
        bundle=manifest.bundle.digest,
        events=manifest.train_events,
        digest=manifest.digest,
        created=_one_line(manifest.created or "unknown"),
        reference=_shell_word(reference),
        command=f"sidtool pull {_shell_word(reference)} -o {output}",
        settings=_key_value_table(settings),
    )


def _template(name: str) -> Template:
    return Template(files("sidtool.registry").joinpath(name).read_text(encoding="utf-8"))


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
    """A value as literal Markdown text on one line, so that it stays in its cell."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _MARKUP.sub(r"\\\g<0>", _visible(text))


def _shell_word(text: str) -> str:
    return shlex.quote(_visible(text))


def _visible(text: str) -> str:
    """A text on one line without control characters."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
