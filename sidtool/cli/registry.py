"""The commands for published bundles, memories and models: log, push, pull, tag, policy."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from sidtool import registry as registries
from sidtool.base.inputs import keeps_inputs
from sidtool.base.signatures import Signer
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table
from sidtool.cli.terminal.pace import progress

Reference = Annotated[
    str,
    typer.Argument(
        metavar="URL/NAME[@VERSION|@TAG]",
        help="A published bundle, memory or model; by default the latest version.",
        autocompletion=options.complete_reference,
    ),
]

NEXT_STEPS: Mapping["registries.Kind", str] = {
    "bundle": "sidtool inspect {out}",
    "memory": "sidtool verify {out}",
    "model": "sidtool recommend {out} --history ITEM,ITEM -k 10",
}
"""What a user does with an artifact that was pulled."""


def log(artifact: options.Artifact, json: options.Json = False) -> None:
    """List the versions of a bundle, memory or model, what each changed, and the tags of a
    published one."""
    history = registries.log(artifact)
    if json:
        for entry in history.versions:
            names = {"published": list(entry.published)} if history.in_registry else {}
            say_json(entry.version.to_json() | names)
        return
    columns = ["version", "created", "name", "digest", "change"]
    columns += ["published as"] if history.in_registry else []
    rows = []
    for entry in history.versions:
        version = entry.version
        row = [version.version, version.created or "-", version.name, version.digest[:12]]
        published = [", ".join(entry.published) or "-"] if history.in_registry else []
        rows.append([*row, str(version.change), *published])
    say_table(columns, rows)
    if history.other_versions:
        note(f"other published versions, not in this lineage: {', '.join(history.other_versions)}")


def push(
    artifact: options.Artifact,
    target: Annotated[
        str,
        "A folder of versions: a path, s3://, gs://. hf://ORG/NAME is a hub repository.",
        "URL/NAME",
    ],
    tag: Annotated[str | None, "A tag to point at this version."] = None,
    license: Annotated[
        str | None, "License, for the card. Default: the model's, or unknown."
    ] = None,
    dataset: Annotated[
        str | None, "Data set that it was made from, for the card.", "ORG/NAME"
    ] = None,
    sign: Annotated[
        str | None,
        "Sign with this private key in PEM, and certificates; keyless: by an identity.",
        "KEY",
    ] = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Publish a bundle, memory or model as an immutable version, or as the files of a hub
    repository; an interrupted push leaves nothing visible."""
    if dry_run and sign is not None:
        Signer.of(sign)  # raises for one that cannot sign, as the push does
    on_hub = registries.is_flat_repository(target)
    if dry_run and on_hub:
        checked = registries.check_source(artifact, license)
        return options.Writing(json=json).plan(
            f"would push {checked.n_objects} objects to {target}",
            target=target,
            digest=checked.manifest.digest,
            objects=checked.n_objects,
        )
    if dry_run:
        plan = registries.plan_push(
            artifact, target, tag=tag, license=license, dataset=dataset, sign=sign
        )
        version, n_objects = plan.record.version, plan.source.n_objects
        return options.Writing(json=json).plan(
            f"would push {n_objects} objects as version {version} of {target}",
            target=target,
            version=version,
            digest=plan.record.digest,
            objects=n_objects,
        )
    with progress("push") as report:
        pushed = registries.push(
            artifact,
            target,
            tag=tag,
            license=license,
            dataset=dataset,
            sign=sign,
            progress=report.get("push"),
        )
    version = f"{target.partition('@')[0] if on_hub else target}@{pushed.version}"
    if json:
        say_json(asdict(pushed))
    else:
        say(f"{version}: {_push_outcome(pushed, is_signed=sign is not None)}, {pushed.digest}")
    if on_hub:
        return next_step("sidtool verify {version}", version=version)
    return next_step("sidtool pull {version} -o DIR", version=f"{target}@{tag or pushed.version}")


@keeps_inputs()
def pull(
    reference: Reference, out: options.Out, writing: options.Writing = options.Writing()
) -> None:
    """Copy a published bundle, memory or model to disk, byte for byte, and verify it."""
    if writing.dry_run:
        registry, record = registries.plan_pull(reference, out, force=writing.force)
        _, _, sizes = registries.published(registry.folder(record.group), record)
        size = sum(sizes.values())
        return writing.plan(
            f"would pull {record.kind} {reference}, version {record.version}, {len(sizes) + 1} "
            f"objects of {size / 1e6:.1f} MB to {out}",
            out=str(out),
            kind=record.kind,
            version=record.version,
            digest=record.digest,
            license=record.license,
            objects=len(sizes) + 1,
            bytes=size,
        )
    with progress("pull") as report:
        record = registries.pull(reference, out, force=writing.force, progress=report.get("pull"))
    if writing.json:
        fields = {"version": record.version, "digest": record.digest, "license": record.license}
        say_json({record.kind: str(out), **fields})
    else:
        say(f"{out}: version {record.version}, {record.digest}, license {record.license}")
    return next_step(NEXT_STEPS[record.kind], out=out)


def tag(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="URL/NAME@VERSION",
            help="A published version.",
            autocompletion=options.complete_reference,
        ),
    ],
    name: Annotated[str, "A tag; it moves if it exists already.", "TAG"],
    json: options.Json = False,
) -> None:
    """Point a tag at a published version."""
    record = registries.tag(reference, name)
    if json:
        return say_json({"tag": name, "version": record.version, "digest": record.digest})
    say(f"{reference.rpartition('@')[0]}@{name} is now version {record.version}")
    return None


def policy(
    registry: Annotated[str, "A folder of versions of a registry.", "URL/NAME"],
    signed_by: Annotated[
        str | None,
        "Public keys or certificates in PEM, or keyless:IDENTITY@ISSUER; one must sign.",
        "SIGNERS",
    ] = None,
    allow_unsigned: Annotated[bool, "Require no signature any more."] = False,
    json: options.Json = False,
) -> None:
    """Show or set who must have signed the versions of a registry; others are refused (exit 3)."""
    signers = registries.policy(registry, signed_by, allow_unsigned=allow_unsigned)
    if json:
        return say_json({"registry": registry, "signed_by": signers})
    if signers is None:
        return say(f"{registry}: versions need no signature")
    say(f"{registry}: versions are signed by one of:")
    for line in signers.splitlines():
        say(line)
    return None


def _push_outcome(pushed: "registries.Pushed", *, is_signed: bool) -> str:
    """What a push did."""
    if pushed.new:
        return f"pushed {pushed.sent} objects"
    sent = [f"{pushed.sent} missing or damaged objects were sent"] if pushed.sent else []
    sent += ["it is signed"] if is_signed else []
    return f"already published, {' and '.join(sent) or 'nothing was sent'}"
