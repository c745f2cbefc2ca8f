"""The split folder: train, valid and test as Parquet files (`write_parts`), and the manifest
`split.json`, which is written last. Formats 1 to 3 are read too: they have JSON Lines (`examples`)
in place of Parquet, and under `given` a fourth file of the training windows."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.artifact import describe
from sidtool.base.digests import file_digest
from sidtool.base.documents import check_seal, parse_json, read_document, sealed_text
from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.locations import given_path
from sidtool.base.options import options_from
from sidtool.base.output import folder_beside, new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.base.threads import (
    arrow_thread_count,
    arrow_threads,
    release_arrow_memory,
    run_in_threads,
    thread_count,
)
from sidtool.data.columns import EventColumns
from sidtool.data.event_sort import Spill
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.split.consistency import check_parts
from sidtool.data.split.digests import COLUMN_FORMAT
from sidtool.data.split.examples import read_events, read_examples
from sidtool.data.split.extension import extended
from sidtool.data.split.logs import PARTS, user_logs
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.packing import PackedParts, pack_parts
from sidtool.data.split.read_parts import read_logs, read_windows
from sidtool.data.split.record import SplitManifest
from sidtool.data.split.split import Split, SplitOrigin
from sidtool.data.split.write_parts import file_name, folder_name, write_logs, write_windows
from sidtool.data.tables.opening import PARQUET, parquet_files

MANIFEST = "split.json"
WINDOWS = "windows"
"""The name of the training windows in formats 1 to 3."""
TRAIN_FILE = file_name("train")
"""The training events in format 4: a row per user."""
History = tuple[tuple[str, ...], Fields]
"""Item ids, oldest first, and the fields of these events and their user."""


@keeps_inputs("a split")
def split_events(
    events: str | Path,
    out: str | Path,
    options: SplitOptions | None = None,
    *,
    memory_limit: int | None = None,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    **given: Any,
) -> SplitManifest:
    """Split a file of events and write the split folder `out`. Returns its manifest. The options
    may also be given as keywords.

    With `memory_limit`, a number of bytes, events are sorted within it, in files beside the output;
    the split is the same, byte for byte, for any number of `threads` (default: one per core), too.
    Ids come on top (`Spill`).

    A dry run writes nothing; the manifest then lists no files. Raises UsageError if the output
    exists or options contradict each other, DataError for malformed events or an empty part,
    CompatibilityError if the split does not extend those that `options.extends` names.

    Examples:
        >>> manifest = sidtool.split_events("events.csv", "parts")
        >>> manifest.protocol, manifest.counts.users, manifest.counts.test
        ('leave-one-out', 40, 40)
    """
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    options = options_from(SplitOptions, options, given)
    if memory_limit is not None and options.protocol == "given":
        raise UsageError("a memory budget is for events: windows are held in memory")
    n_threads = thread_count(threads)
    beside = nullcontext() if memory_limit is None else folder_beside(out)
    with beside as folder, arrow_threads(n_threads):
        spill = None if folder is None or memory_limit is None else Spill(folder, memory_limit)
        earlier = []
        for number, path in enumerate(options.extends):
            aside = None
            if spill is not None:  # the files of one split's events are not those of another's
                aside = Spill(spill.folder / f"earlier-{number}", spill.budget)
                aside.folder.mkdir()
            earlier.append(open_split(path, spill=aside))
        recorded = earlier[0].origin.columns if earlier else None
        split = make_split(
            given_path(events),
            options,
            recorded=recorded,
            spill=spill,
            threads=n_threads,
            earlier=earlier,
        )
        for earlier_split in earlier:
            split = extended(split, earlier_split)
        if dry_run:
            return split.manifest({})
        return write_split(split, out, force=force, threads=n_threads)


def write_split(split: Split, out: Path, *, force: bool = False, threads: int = 1) -> SplitManifest:
    """Write the folder of a split, whole or not at all. Raises IntegrityError if no protocol could
    have made its parts."""
    logs = check_parts(split)
    with new_dir(out, force=force) as folder:

        def write() -> None:
            if logs is not None:
                write_logs(folder, split, logs, threads)
            elif split.windows is not None:
                write_windows(folder, (split.windows, split.valid, split.test))

        # the digests of the values are computed meanwhile
        run_in_threads([write, lambda: split.reference], threads)
        digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        manifest = split.manifest(digests)
        (folder / MANIFEST).write_text(sealed_text(manifest.to_json()), encoding="utf-8")
    return manifest


def read_manifest(folder: Path, only: str | None = None) -> SplitManifest:
    """The manifest of a split folder, with the digest of every file checked, or of the files in the
    folder `only`.

    Raises DataError if the folder holds no split, IntegrityError if a file is missing or changed,
    CompatibilityError for a newer format."""
    manifest = stored_manifest(folder)
    if manifest.format >= COLUMN_FORMAT:
        prefixes = [""]
        if manifest.parts > 1:
            ranges = {folder_name(number) for number in range(manifest.parts)}
            prefixes = [f"{folder}/" for folder in manifest.folders if folder in ranges]
        expected = {f"{prefix}{file_name(part)}" for prefix in prefixes for part in PARTS}
    else:
        parts = [*PARTS, WINDOWS] if manifest.protocol == "given" else PARTS
        expected = {f"{part}.jsonl" for part in parts}
    if manifest.files.keys() != expected:
        raise IntegrityError(
            f"{folder / MANIFEST} lists the files {sorted(manifest.files)}, a split of protocol "
            f"{manifest.protocol} has {sorted(expected)}"
        )
    for name, recorded in manifest.files.items():
        if only not in (None, name.rpartition("/")[0]):
            continue
        if not (folder / name).is_file():
            raise IntegrityError(f"{folder / name} is missing, {MANIFEST} lists it")
        actual = file_digest(folder / name)
        if actual != recorded:
            raise IntegrityError(
                f"{folder / name} has digest {actual[:12]}, {MANIFEST} says {recorded[:12]}",
                hint="make the split again",
            )
    return manifest


def stored_manifest(folder: Path) -> SplitManifest:
    """The manifest of a split folder, without a look at its files. Raises as `read_manifest`."""
    path = folder / MANIFEST
    try:
        value = parse_json(read_document(path))
        manifest = SplitManifest.from_json(value)
        check_seal(value)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is {describe(folder) or 'a folder'}, not a split: it has no {MANIFEST}",
            hint="`sidtool split EVENTS -o FOLDER` writes one",
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error
    return manifest


def read_split(folder: Path, only: str | None = None) -> Split:
    """Read a split folder, or the users whose files are in the folder `only` of it, one of
    `SplitManifest.folders`. What is made of these refers to the whole split.

    Raises as `read_manifest` does, DataError for a malformed line, and IntegrityError for parts
    that contradict the manifest or the protocol."""
    manifest = read_manifest(folder, only)
    parts = _read_parts(folder, manifest, manifest.folders if only is None else [only])
    release_arrow_memory()
    split = Split(
        manifest.protocol,
        train=parts.train,
        valid=parts.valid,
        test=parts.test,
        windows=parts.windows,
        origin=SplitOrigin(
            manifest.events_digest,
            manifest.columns,
            manifest.cuts,
            manifest.counts.left_out,
            manifest.counts.repeated_targets,
            manifest.counts.tied_targets,
            manifest.extends,
            manifest.fields,
            manifest.sessions,
            manifest.drops_events,
            manifest.format,
            None if only is None else manifest.reference,
        ),
    )

    def check() -> None:
        try:
            check_parts(split, is_whole=only is None)
        except IntegrityError as error:
            raise IntegrityError(f"{folder}: {error}", hint="make the split again") from error

    if only is not None:
        check()
        return split
    # the digests of the values are computed meanwhile
    steps = [lambda: _check_manifest(folder, split, manifest), check]
    run_in_threads(steps, arrow_thread_count())
    return split


def _check_manifest(folder: Path, split: Split, manifest: SplitManifest) -> None:
    """Raise IntegrityError unless the manifest is that of a split that was read: the files may be
    intact and still belong to another one."""
    stored = manifest.to_json()
    for key, value in split.manifest({}).to_json().items():  # which has no `parts`
        if key != "files" and value != stored[key]:
            message = f"{folder} holds a split with {key} {value}, {MANIFEST} says {stored[key]}"
            raise IntegrityError(message, hint="make the split again")


def _read_parts(folder: Path, manifest: SplitManifest, folders: Sequence[str]) -> PackedParts:
    is_given = manifest.protocol == "given"
    if manifest.format >= COLUMN_FORMAT:
        if is_given:
            return read_windows(folder)
        return read_logs([folder / name for name in folders], manifest)
    train, valid, test = (folder / f"{part}.jsonl" for part in PARTS)
    windows = read_examples(folder / f"{WINDOWS}.jsonl") if is_given else None
    parts = (read_events(train), read_examples(valid), read_examples(test), windows)
    try:
        return pack_parts(*parts, manifest.fields)
    except IntegrityError as error:
        raise IntegrityError(f"{folder}: {error}", hint="make the split again") from error


def folder_manifest(path: Path) -> SplitManifest | None:
    """The manifest of a split folder, without a look at its files; None for a table of events.
    Raises as `read_manifest`."""
    return stored_manifest(path) if is_split_folder(path) else None


def is_split_folder(path: Path) -> bool:
    """Whether a path is a folder that must hold a split, and no table."""
    if not path.is_dir() or path.name.lower().endswith(PARQUET):
        return False
    if (path / MANIFEST).exists() or all((path / file_name(part)).exists() for part in PARTS):
        return True
    return not parquet_files(path)


def open_split(
    path: str | Path, *, recorded: EventColumns | None = None, spill: Spill | None = None
) -> Split:
    """The split of a folder that `sidtool split` wrote, or of a file of events.

    A file of events is split by leave-one-out with `recorded` or guessed columns, which gives the
    same digest as `sidtool split FILE` without options. With `spill` a table is sorted within a
    memory budget. Raises as `read_split` or `make_split` does."""
    path = given_path(path)
    if is_split_folder(path):
        return read_split(path)
    return make_split(path, recorded=recorded, spill=spill)


def user_histories(
    source: Path, users: Iterable[str] | None = None, *, recorded: EventColumns | None = None
) -> dict[str, History]:
    """User -> all events, of `users` at least, by default of all: of a split folder, held-out
    events included but none behind a user's last target (`SplitCounts.left_out`), or of a file of
    events with `recorded` or guessed columns, which has no fields.

    Order and duplicates are those of `sidtool split`. Raises as `read_split` or `make_split`."""
    if is_split_folder(source):
        split = read_split(source)
    else:
        # all events are in its parts, also where no user has enough of them to be held out
        split = make_split(source, recorded=recorded, is_subset=True)
    if split.windows is not None:
        return _histories_of_windows(split)
    # also events of no part: a first one that is held out, and those that are no targets
    logs, named = user_logs(split), None if users is None else set(users)
    store = logs.store
    histories = {}
    for code, (user, count) in enumerate(zip(store.users, logs.totals, strict=True)):
        if count and (named is None or user in named):
            events, _ = logs.events(np.array([code]), np.array([0]), np.array([count]))
            items = tuple(store.names[store.items[events]].tolist())
            histories[user] = items, store.of_events(code, events)
    return histories


def _histories_of_windows(split: Split) -> dict[str, History]:
    """Windows may show events that no window has as its target."""
    events: dict[str, dict[int, str]] = {}  # user -> position -> item
    for sequence in split.train:
        events[sequence.user] = dict(zip(sequence.positions, sequence.items, strict=True))
    for example in (*split.valid, *split.test):
        user_events = events.setdefault(example.user, {})
        user_events.update(enumerate(example.history, example.position - len(example.history)))
        user_events[example.position] = example.item
    return {
        user: (tuple(item for _, item in sorted(user_events.items())), NO_FIELDS)
        for user, user_events in events.items()
    }
