import copy
import json
import random
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from docs.build_schema import FOLDER, files
from sidtool.base.errors import SidtoolError
from sidtool.data.split import SplitManifest
from sidtool.examples import Lineage
from sidtool.examples.lineage import LINEAGE_FORMAT
from sidtool.memory import MemoryManifest
from sidtool.model.contract import Contract
from sidtool.registry.records import Pointer, VersionRecord
from sidtool.tokenizer.bundle import Manifest

GOLDEN = Path(__file__).with_name("golden")
DIGEST = "ab" * 32


def read_lineage(value: Any) -> None:
    """As `sidtool.examples.lineage.read_lineage`, without the files beside it."""
    if not isinstance(value, dict) or value.get("format") != LINEAGE_FORMAT:
        raise TypeError("no lineage of this format")
    Lineage.from_json(value)


READERS: dict[str, Callable[[Any], Any]] = {
    "bundle": Manifest.from_json,
    "memory": MemoryManifest.from_json,
    "split": SplitManifest.from_json,
    "contract": Contract.from_json,
    "lineage": read_lineage,
    "registry-version": VersionRecord.from_json,
    "registry-pointer": Pointer.from_json,
}


def golden_records() -> Iterator[tuple[str, str, Any]]:
    """The name of the schema, the file and the value of every golden record."""
    for name, pattern in (("contract", "model*/sid.json"), ("split", "split*/split.json")):
        for path in sorted(GOLDEN.glob(pattern)):
            yield name, path.parent.name, json.loads(path.read_text(encoding="utf-8"))
    for name, path in (
        ("bundle", GOLDEN / "bundle.zarr.zip"),
        ("bundle", GOLDEN / "bundle-2.zarr.zip"),
        ("memory", GOLDEN / "memory.zarr.zip"),
    ):
        root = json.loads(zipfile.ZipFile(path).read("zarr.json"))
        yield name, path.name, root["attributes"]["sidtool"]
    lineage = GOLDEN / "examples" / "train.jsonl.meta.json"
    yield "lineage", lineage.name, json.loads(lineage.read_text(encoding="utf-8"))
    version = VersionRecord("1.2", DIGEST, DIGEST, license="MIT", kind="model")
    yield "registry-version", "record", version.to_json()
    yield "registry-pointer", "refs.json", Pointer("1.2", {"prod": "1.1"}).to_json()


RECORDS = list(golden_records())


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(files()[FOLDER / f"{name}.json"]))


def test_every_schema_is_one_of_draft_2020_12() -> None:
    for text in files().values():
        jsonschema.Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize(("name", "file", "value"), RECORDS, ids=lambda value: str(value)[:20])
def test_golden_records_are_accepted(name: str, file: str, value: Any) -> None:
    READERS[name](value)
    validator(name).validate(value)


WRONG = (None, True, 0, -1, 1.0, -1.5, 10**12, "", "?", [], [[]], {}, {"?": 1})
"""Values that replace others."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a record."""
    keys: Iterable[Any] = value if isinstance(value, Mapping) else ()
    for key in range(len(value)) if isinstance(value, list) else keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def places_by_shape(value: Any) -> list[list[tuple[Any, ...]]]:
    """The same, grouped by their keys: a list of many numbers counts no more than one of two."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for path in places(value):
        shape = tuple("" if isinstance(key, int) else key for key in path)
        groups.setdefault(shape, []).append(path)
    return list(groups.values())


def mutated(value: Any, path: tuple[Any, ...], rng: random.Random) -> Any:
    """The record with one value removed, replaced, misspelled or repeated."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    here = inner[path[-1]]
    kind = rng.choice(["remove", "replace", "replace", "misspell"])
    if kind == "remove":
        del inner[path[-1]]
    elif kind == "misspell" and isinstance(here, str):
        at = rng.randrange(len(here) + 1)
        inner[path[-1]] = here[:at] + rng.choice("?A ") + here[at + 1 :]
    elif kind == "misspell" and isinstance(here, list):
        here.extend(here[:1])
    else:
        inner[path[-1]] = copy.deepcopy(rng.choice(WRONG))
    return changed


def rejection(name: str, value: Any) -> str | None:
    """What a reader says, None if it accepts the record."""
    try:
        READERS[name](value)
    except (SidtoolError, TypeError, ValueError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


DISAGREEMENTS = {
    "JSON Schema has 1.0 for a whole number": r"(is|format) 1\.0",
    "values that must agree with each other": r"that of the three parts|token_stop in its contract"
    r"|the space|token_start i|begin and end token|codebook levels|quantizer is missing|parent is"
    r"|one number per level|capacity is|give either --session|split has no sessions"
    r"|the fields (None|FieldTypes)|the labels of|its values",
    "the length of a list": r"of the \d+ features has \d+|it has no stage|1 to 26 levels"
    r"|a level has no token",
    "the spelling of a token or a template": r"must contain|bytes, not 1 to 64|has no id",
    "bounds that the code has beside its own types": r"a level has 1 to|not from 1 to|more than 64"
    r"|two SID tokens have one id|ids \d+ to|a token has id|is (from|above) 0|is at least|is larger"
    r"|base64|bytes, not \d+ bytes",
}
"""Why a schema accepts what a reader rejects, and what the reader says then."""


@pytest.mark.parametrize("mutations", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_schema_rejects_what_a_reader_rejects(mutations: int) -> None:
    rng = random.Random(0)
    paths = {file: places_by_shape(value) for _, file, value in RECORDS}
    rejected = 0
    kinds: Counter[str] = Counter()
    while rejected < mutations:
        name, file, value = rng.choice(RECORDS)
        path = rng.choice(rng.choice(paths[file]))
        changed = mutated(value, path, rng)
        reason = rejection(name, changed)
        accepted = validator(name).is_valid(changed)
        rejected += reason is not None
        if reason is None:
            # manifests before 0.2 do not say what they changed: the items were built
            assert accepted or path == ("change",), (name, path)
        elif accepted:
            kind = next((why for why, said in DISAGREEMENTS.items() if re.search(said, reason)), "")
            assert kind, (name, path, reason)
            kinds[kind] += 1
    assert mutations < 10_000 or kinds.keys() == DISAGREEMENTS.keys()
    assert kinds.total() < mutations / 10
