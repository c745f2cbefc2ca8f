"""make-sft: a split and a catalog become the files that training and evaluation read, with their
lineage.

Knows the files, their names and what the sidecar records; what a row says is rows.py's, what is
held out the split's."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sidtool.bundle.bundle import Bundle
from sidtool.data.digests import file_digest
from sidtool.data.examples import write_examples
from sidtool.data.items import Items
from sidtool.data.queries import Query
from sidtool.data.splits import Event, Split, count_leaks
from sidtool.errors import CompatibilityError, DataError, RefusedError
from sidtool.model.split_check import check_bundle_split
from sidtool.output import partial_path, refuse_existing, remove
from sidtool.sft.example_file import example_json
from sidtool.sft.task_mix import token_budgets
from sidtool.sft.training_examples import ExampleMaker, SftOptions
from sidtool.sid import SidSpace

LINEAGE_FORMAT = 0


def side_files(train: Path) -> dict[str, Path]:
    """Where the files beside the training examples lie: valid (the validation users) and meta (the
    lineage).

    The name of the first has "valid" where the stem has "train", or else before the suffix.
    """
    if "train" in train.stem:
        valid = train.with_name(train.stem.replace("train", "valid") + train.suffix)
    else:
        valid = train.with_name(f"{train.stem}.valid{train.suffix}")
    return {"valid": valid, "meta": train.with_name(train.name + ".meta.json")}


def make_sft(
    bundle: Bundle,
    items: Items,
    split: Split,
    out: Path,
    options: SftOptions,
    *,
    tokenizer: Any | None = None,
    queries: Sequence[Query] = (),
    dry_run: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write training examples, validation users and their lineage; returns the lineage.

    With a tokenizer every row is measured against `max_length`. A dry run writes nothing and
    returns the same. Query tasks ask with `queries`; those that must not be asked are left out and
    counted (`dropped_queries`). Training events whose items the bundle does not know are left out
    and counted (`dropped_events`); validation users name items and are kept as they are, so that
    every bundle is scored on the same users.

    Raises UsageError if the output or a file beside it exists, RefusedError if a held-out event is
    found in a training example, CompatibilityError if the bundle's codebook was built from another
    split, and what ExampleMaker raises."""
    check_bundle_split(bundle, "the split of the training examples", split.reference)
    maker = ExampleMaker(bundle, items, options, tokenizer, queries)
    if dry_run:
        return _lineage(
            bundle,
            items,
            split,
            maker,
            options,
            _rows(maker, split, bundle.space, None, progress),
            {},
        )
    names = side_files(out)
    if (
        names["meta"].exists() or not partial_path(out).exists()
    ):  # else a run was killed, and left files of its own
        for path in (out, *names.values()):
            refuse_existing(path, force)
    with _staged(out, names["meta"]) as stage:
        counted = _rows(maker, split, bundle.space, stage / out.name, progress)
        write_examples(stage / names["valid"].name, split.valid)
        digests = {path.name: file_digest(path) for path in sorted(stage.iterdir())}
        lineage = _lineage(bundle, items, split, maker, options, counted, digests)
        text = json.dumps(lineage, indent=1, ensure_ascii=False) + "\n"
        (stage / names["meta"].name).write_text(text, encoding="utf-8")
    return lineage


def read_lineage(train: Path) -> dict[str, Any]:
    """The lineage of a rows file, checked against the rows.

    Raises DataError if there is none, it is newer than this version reads, or the rows changed
    since."""
    path = side_files(train)["meta"]
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the lineage {path} of {train}", hint="sidtool make-sft writes it"
        ) from error
    if not isinstance(value, dict) or value.get("format", LINEAGE_FORMAT + 1) > LINEAGE_FORMAT:
        raise DataError(
            f"{path} is no lineage of format {LINEAGE_FORMAT}",
            hint="make the rows again, or upgrade",
        )
    if train.name not in value["files"]:
        raise DataError(
            f"{path} is the lineage of {', '.join(value['files'])}, not of {train.name}",
            hint="rename it back",
        )
    recorded, found = value["files"][train.name], file_digest(train)
    if recorded != found:
        raise DataError(
            f"{train} has digest {found[:12]}, its lineage says {recorded[:12]}",
            hint="make the rows again",
        )
    return value


def check_spelling(lineage: Mapping[str, Any], bundle: Bundle, rows: Path) -> None:
    """Rows spell SIDs: raises CompatibilityError unless they are those of the bundle that a model
    is trained with."""
    for part in ("space", "codebook", "items"):
        made, meant = lineage["bundle"][part][:12], getattr(bundle.identity, part)[:12]
        if made != meant:
            raise CompatibilityError(
                f"{rows} was made with a bundle whose {part} digest is {made}, the model's is "
                f"{meant}",
                hint="make the rows with the model's bundle, or give the bundle that the rows "
                "were made with",
            )


@contextmanager
def _staged(out: Path, meta: Path) -> Iterator[Path]:
    """A folder to write the files in; they move beside `out` when the block ends well, the lineage
    last."""
    stage = partial_path(out)
    remove(stage)
    stage.mkdir(parents=True)
    try:
        yield stage
        meta.unlink(missing_ok=True)  # from here on an old output is no longer whole
        last = [out.name, meta.name]
        for path in sorted(
            stage.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1
        ):
            path.replace(out.with_name(path.name))
    finally:
        remove(stage)


def _rows(
    maker: ExampleMaker,
    split: Split,
    space: SidSpace,
    path: Path | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Make the rows, write them where a path is given, count them, and scan their events for
    held-out ones."""
    tasks: dict[str, dict[str, Any]] = {}

    def events(stream: Any) -> Iterator[Event]:
        for row in maker.examples(split, progress):
            if stream:
                stream.write(json.dumps(example_json(space, row), ensure_ascii=False) + "\n")
            length = maker.length(row.segments) or 0
            seen = tasks.setdefault(row.task, {"rows": 0, "tokens": 0, "longest": 0})
            longest = max(seen["longest"], length)
            seen.update(rows=seen["rows"] + 1, tokens=seen["tokens"] + length, longest=longest)
            yield from row.events

    with path.open("w", encoding="utf-8") if path else nullcontext() as stream:
        held_out = count_leaks(split, events(stream))
    if held_out:
        raise RefusedError(
            f"{held_out} held-out events stand in training rows, 0 may", hint="report this split"
        )
    total = max(1, sum(seen["tokens"] for seen in tasks.values()))
    for seen in tasks.values():
        seen["share"] = seen["tokens"] / total
    dropped = {
        "dropped_events": maker.count_dropped_events(split),
        "dropped_queries": maker.count_dropped_queries(split),
    }
    return {"tasks": tasks, "held_out_events": held_out, **dropped}


def _lineage(
    bundle: Bundle,
    items: Items,
    split: Split,
    maker: ExampleMaker,
    options: SftOptions,
    counted: Mapping[str, Any],
    files: Mapping[str, str],
) -> dict[str, Any]:
    history_prompt, text_prompt = maker.history_prompt, maker.text_prompt
    return {
        "format": LINEAGE_FORMAT,
        "bundle": asdict(bundle.identity),
        "catalog": items.digest,
        "split": split.reference.to_json(),
        "weights": dict(options.tasks),
        "tokens": options.max_tokens,
        "budgets": token_budgets(options.tasks, options.max_tokens, options.max_task_tokens),
        "row_format": options.format,
        "max_length": options.max_length,
        "history_length": options.history_length,
        "held_out_items": len(options.hide_text_of),
        "seed": options.seed,
        "templates": maker.templates,
        "history_prompt": history_prompt.to_json() if history_prompt else None,
        "text_prompt": text_prompt.to_json() if text_prompt else None,
        **counted,
        "valid": len(split.valid),
        "files": dict(files),
    }
