"""The versions of a bundle: which came before, what each changed, and what the next one is called."""

import datetime
from collections.abc import Mapping
from typing import Any

from sidtool.bundle.manifest import Manifest


def history(manifest: Manifest) -> tuple[dict[str, Any], ...]:
    """The versions up to this one, oldest first: version, digest, name, created and change of each."""
    own = {
        "version": manifest.version,
        "digest": manifest.identity.digest,
        "name": manifest.name,
        "created": manifest.created,
        "change": dict(manifest.change) or {"kind": "build", "items": manifest.items},
    }
    return (*map(dict, manifest.lineage), own)


def spell_change(change: Mapping[str, Any]) -> str:
    """What a version changed, in words."""
    if change.get("kind") == "build":
        return f"built with {change['items']} items"
    if change.get("kind") == "align":
        return f"aligned {change['of'][:12]}: {change['after'][-1]} of {change['common']} SIDs preserved"
    names = ("added", "restored", "retitled", "retired")
    return ", ".join(f"{change[name]} {name}" for name in names if change.get(name))


def successor(
    parent: Manifest, change: Mapping[str, Any], *, new_codebook: bool = False
) -> dict[str, Any]:
    """The fields of a manifest that a version after `parent` gets from it.

    Another codebook counts the major version up ("1.4" -> "2.0"), other items the minor one ("1.4"
    -> "1.5")."""
    major, _, minor = parent.version.partition(".")
    return {
        "name": parent.name,
        "version": f"{int(major) + 1}.0" if new_codebook else f"{major}.{int(minor or 0) + 1}",
        "parent": parent.identity.digest,
        "lineage": history(parent),
        "change": change,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
