"""The commands for published bundles: log, push, pull, tag."""

from dataclasses import asdict
from typing import Annotated

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, progress, say, say_json, say_table

Reference = Annotated[
    str,
    typer.Argument(
        metavar="URL/NAME[@VERSION|@TAG]", help="A published bundle; the latest, if none is named."
    ),
]


def log(
    bundle: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="A path or URL of a bundle, or URL/NAME[@VERSION]."),
    ],
    json: options.Json = False,
) -> None:
    """List the versions of a bundle, newest first, with what each changed; for URL/NAME also what
    means each."""
    from sidtool.bundle.lineage import history, spell_change
    from sidtool.registry.publish import published
    from sidtool.registry.references import open_bundle

    versions, names = history(open_bundle(bundle).manifest)[::-1], published(bundle)
    keys = [(version["version"], version["digest"]) for version in versions]
    if json:
        for key, version in zip(keys, versions, strict=True):
            say_json(version | ({"published": names.get(key, [])} if names else {}))
        return
    columns = ["version", "created", "name", "digest", "change"]
    rows = [
        [
            each["version"],
            each["created"] or "-",
            each["name"],
            each["digest"][:12],
            spell_change(each["change"]),
        ]
        for each in versions
    ]
    if names:
        columns.append("published as")
        for row, key in zip(rows, keys, strict=True):
            row.append(", ".join(names.get(key, ["-"])))
    say_table(columns, rows)
    others = [version for version, digest in names if (version, digest) not in keys]
    if others:
        note(f"published too, and not of this lineage: {', '.join(others)}")


def push(
    bundle: options.Bundle,
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL/NAME", help="A folder of versions: a path, s3://, gs://, hf://."
        ),
    ],
    tag: Annotated[
        str | None, typer.Option(help="A tag that means this version from now on.")
    ] = None,
    license: Annotated[str, typer.Option(help="License of the bundle, for its card.")] = "unknown",
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Publish a bundle as an immutable version, with a card; after a kill nothing is visible, and
    push goes on."""
    from sidtool.registry.publish import check_push
    from sidtool.registry.publish import push as publish

    if dry_run:
        _, record, manifest = check_push(bundle, target)
        return note(
            f"would push {len(manifest.objects) + 1} objects as version {record.version} of "
            f"{target}"
        )
    with progress("push") as report:
        pushed = publish(bundle, target, tag=tag, license=license, progress=report.get("push"))
    if json:
        say_json(asdict(pushed))
    elif pushed.new:
        say(f"{target}@{pushed.version}: pushed {pushed.sent} objects, {pushed.digest}")
    else:
        say(f"{target}@{pushed.version}: there already, nothing was pushed, {pushed.digest}")
    return next_step(f"sidtool pull {target}@{tag or pushed.version} -o DIR")


def pull(
    reference: Reference,
    out: options.Out,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Copy a published bundle here, byte for byte; it is verified before it appears."""
    from sidtool.registry.publish import pull as fetch

    with progress("pull") as report:
        record = fetch(reference, out, force=force, progress=report.get("pull"))
    if json:
        say_json(
            {
                "bundle": str(out),
                "version": record.version,
                "digest": record.digest,
                "license": record.license,
            }
        )
    else:
        say(f"{out}: version {record.version}, {record.digest}, license {record.license}")
    next_step(f"sidtool inspect {out}")


def tag(
    reference: Annotated[
        str, typer.Argument(metavar="URL/NAME@VERSION", help="A published version.")
    ],
    name: Annotated[
        str, typer.Argument(metavar="TAG", help="A tag; it is moved if it meant another version.")
    ],
    json: options.Json = False,
) -> None:
    """Let a tag mean a published version."""
    from sidtool.registry.publish import tag as point
    from sidtool.registry.references import split

    record = point(reference, name)
    if json:
        return say_json({"tag": name, "version": record.version, "digest": record.digest})
    say(f"{split(reference)[0]}@{name} is version {record.version} now")
    return None
