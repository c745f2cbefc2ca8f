"""Write docs/schema/NAME.json, the JSON Schema (draft 2020-12) of every stored record, from the
dataclasses that read them; `--check` fails if one is stale."""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sidtool.base.options import Option, meanings, options_of
from sidtool.base.records import ReadAs, Rule, is_required
from sidtool.data.split.record import SplitManifest
from sidtool.evaluation.results import StoredEvaluation
from sidtool.evaluation.verdicts import EvaluationVerdict
from sidtool.examples.lineage import LINEAGE_FORMAT, Lineage
from sidtool.memory.manifest import MemoryManifest
from sidtool.model.contract.contract import FORMAT as CONTRACT_FORMAT
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.stage_record import PARAMS, StageRecord
from sidtool.registry.records import Pointer, VersionRecord
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.quantize.codebook import QuantizerParams

FOLDER = Path(__file__).with_name("schema")


def _format(newest: int) -> Any:
    return Annotated[int, Rule("a known format", minimum=1, maximum=newest)]


RECORDS: dict[str, type] = {
    "bundle": Manifest,
    "split": SplitManifest,
    "lineage": Lineage,
    "contract": Contract,
    "memory": MemoryManifest,
    "registry-version": VersionRecord,
    "registry-pointer": Pointer,
    "evaluation": StoredEvaluation,
}
ADDED: dict[str, dict[str, Any]] = {
    "contract": {"format": _format(CONTRACT_FORMAT)},
    "lineage": {"format": _format(LINEAGE_FORMAT)},
    "evaluation": {"verdict": EvaluationVerdict},
}
"""Keys that are stored beside the fields of a record."""
NOT_STORED = {QuantizerParams: "fit"}
"""A field that collects unknown keys."""
SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}


def schema_of(name: str, record: type) -> dict[str, Any]:
    """The schema of a record and of all records within it."""
    defined: dict[str, Any] = {}
    schema = _object(record, defined)
    for key, hint in ADDED.get(name, {}).items():
        schema["properties"][key] = _schema(hint, defined)
        schema["required"].append(key)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"sidtool {name}"}
    return head | schema | {"$defs": {key: defined[key] for key in sorted(defined)}}


def _record(record: type, defined: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of a record, which is added to those that are defined."""
    if record.__name__ not in defined:
        defined[record.__name__] = {}  # it may contain itself
        make = _stage if record is StageRecord else _object
        defined[record.__name__] = make(record, defined)
    return {"$ref": f"#/$defs/{record.__name__}"}


def _stage(record: type, defined: dict[str, Any]) -> dict[str, Any]:
    """A stage, whose name says which record its `params` are; others are those of later
    versions."""
    by_name = [
        {
            "if": {"properties": {"stage": {"const": name}}},
            "then": {"properties": {"params": _record(kind, defined)}, "required": ["params"]},
        }
        for name, kind in PARAMS.items()
    ]
    name = {"stage": {"type": "string", "description": meanings(record)["stage"]}}
    return {"type": "object", "properties": name, "required": ["stage"], "allOf": by_name}


def _object(record: Any, defined: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(record, include_extras=True)
    texts = meanings(record)
    bounds = {entry.name: declared for entry, declared in options_of(record)}
    properties = {}
    required = []
    for field in fields(record):
        if NOT_STORED.get(record) == field.name:
            continue
        schema = _schema(hints[field.name], defined)
        schema |= _bounds(bounds.get(field.name))
        if field.name in texts:
            schema["description"] = texts[field.name]
        properties[field.name] = schema
        if is_required(record, field):
            required.append(field.name)
    value = {"type": "object", "description": " ".join(record.__doc__.split())}
    return value | {"properties": properties, "required": required}


def _bounds(declared: Option | None) -> dict[str, Any]:
    if declared is None:
        return {}
    bounds = {
        "minimum": declared.minimum,
        "maximum": declared.maximum,
        "exclusiveMinimum": declared.above,
        "exclusiveMaximum": declared.below,
    }
    return {key: bound for key, bound in bounds.items() if bound is not None}


def _schema(hint: Any, defined: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type."""
    origin = get_origin(hint)
    inner = get_args(hint)
    if hint is Any:
        return {}
    if hint in SCALARS:
        return {"type": SCALARS[hint]}
    if origin is Annotated:
        return _annotated(inner[0], hint.__metadata__[0], defined)
    if origin in (Union, UnionType):
        return _union([kind for kind in inner if kind is not NoneType], NoneType in inner, defined)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return _array(inner, defined)
    if origin is not None and issubclass(origin, Mapping):
        value = {"type": "object", "additionalProperties": _schema(inner[1], defined)}
        keys = _schema(inner[0], defined)
        return value if keys == {"type": "string"} else value | {"propertyNames": keys}
    return _record(hint, defined)


def _array(members: tuple[Any, ...], defined: dict[str, Any]) -> dict[str, Any]:
    if members[-1] is Ellipsis:
        return {"type": "array", "items": _schema(members[0], defined)}
    items = [_schema(member, defined) for member in members]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _union(kinds: list[Any], has_null: bool, defined: dict[str, Any]) -> dict[str, Any]:
    choices = [_schema(kind, defined) for kind in kinds]
    if len(kinds) > 1:
        # the readers choose a record by its kind, which has a default elsewhere
        choices = [choice | {"required": ["kind"]} for choice in choices]
    return {"anyOf": [*choices, {"type": "null"}]} if has_null else {"anyOf": choices}


def _annotated(hint: Any, rule: Rule | ReadAs, defined: dict[str, Any]) -> dict[str, Any]:
    if isinstance(rule, ReadAs):
        record = _record(rule.record, defined)
        return (
            {"anyOf": [record, {"type": "object", "maxProperties": 0}]} if rule.or_empty else record
        )
    keys: dict[str, Any] = {"minimum": rule.minimum, "maximum": rule.maximum}
    if rule.pattern is not None:
        keys["pattern"] = f"^(?:{rule.pattern})$"
    limits = {key: value for key, value in keys.items() if value is not None}
    return _schema(hint, defined) | limits


def files() -> dict[Path, str]:
    """The text of each schema by its file."""
    return {
        FOLDER / f"{name}.json": json.dumps(schema_of(name, record), indent=1) + "\n"
        for name, record in RECORDS.items()
    }


if __name__ == "__main__":
    texts = files()
    if "--check" in sys.argv:
        stored = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
        sys.exit("docs/schema is stale: run `make docs`" if stored != texts else 0)
    FOLDER.mkdir(exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
