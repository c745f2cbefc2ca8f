"""Templates of a user: a file in the form of those in `sidtool/model/prompt/templates`, with slots
for the fields of a split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sidtool.base.documents import parse_json, read_document
from sidtool.base.errors import DataError, UsageError
from sidtool.data.fields.fields import FieldTypes
from sidtool.model.prompt.frames import HISTORY_SLOT, Templates
from sidtool.model.prompt.template_slots import Slot, opening, slots

SPLIT_HINT = "sidtool split records fields: --feedback, --context, --users, --times"


def read_template_file(path: Path) -> Templates:
    """The templates of a JSON file {"prompts": [...], "separator": "", "items": [...]}, where
    `separator` and `items` may be missing. Raises DataError if it is no such file."""
    try:
        value = parse_json(read_document(path))
    except OSError as error:
        raise DataError(f"cannot read templates {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict) or not value.keys() <= {"prompts", "separator", "items"}:
        raise DataError(f"{path} is no JSON object of prompts, separator and items")
    prompts = _texts(path, value, "prompts")
    items = _texts(path, value, "items") if "items" in value else ()
    separator = value.get("separator", "")
    if not isinstance(separator, str):
        raise DataError(f"{path}: separator is {separator!r:.60}, not a text")
    if items and len(items) != len(prompts):
        raise DataError(f"{path} has {len(items)} items for {len(prompts)} prompts")
    return Templates(prompts, separator, items)


def _texts(path: Path, value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = value.get(key)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise DataError(f"{path}: {key} is {texts!r:.60}, not a list of texts")
    return tuple(texts)


def check_templates(
    task: str,
    history_as: Literal["sid", "title"],
    templates: Templates,
    types: FieldTypes,
    shown_feedback: str = "",
) -> None:
    """Raise UsageError unless the templates fit a task and a split with these fields: every slot is
    known before the target of an example, but `shown_feedback`, which a prompt may show."""
    for number, prompt in enumerate(templates.prompts):
        if prompt.count(HISTORY_SLOT) != 1:
            raise UsageError(f"template {prompt!r:.80} must contain {HISTORY_SLOT} exactly once")
        for slot in slots(prompt):
            _check_frame_slot(slot, types, shown_feedback)
        form = templates.item(number)
        history_slot = Slot(history_as)
        if form and [slot for slot in slots(form) if slot.part in ("sid", "title")] != [
            history_slot
        ]:
            raise UsageError(
                f"item {form!r:.80} of task {task} must contain {history_slot} exactly once"
            )
        for slot in slots(form):
            _check_item_slot(slot, types)
        if task == "sequence":
            _check_sequence(prompt, form, types)


def _check_frame_slot(slot: Slot, types: FieldTypes, shown_feedback: str) -> None:
    if slot.part == "feedback" and slot.field != shown_feedback:
        raise UsageError(
            f"{slot} is known only after the event that is to be predicted",
            hint=f"the task next-item-by-{slot.field} shows it",
        )
    if slot.part not in ("user", "context", "feedback", "gap"):
        raise UsageError(f"{slot} belongs into the form of an item, not into a prompt")
    recorded = {"user": types.user, "context": types.context, "feedback": types.feedback}
    _check_recorded(slot, recorded, types)


def _check_item_slot(slot: Slot, types: FieldTypes) -> None:
    if slot.part in ("user", "context", "feedback"):
        raise UsageError(
            f"{slot} belongs into a prompt, not into the form of an item",
            hint=f"{{event.{slot.field}}} is that of an item's own event",
        )
    _check_recorded(slot, {"event": types.event}, types)


def _check_recorded(
    slot: Slot, recorded: Mapping[str, Mapping[str, str]], types: FieldTypes
) -> None:
    if slot.field and slot.field not in recorded[slot.part]:
        names = ", ".join(recorded[slot.part]) or "none"
        raise UsageError(
            f"{slot} is no field of the split, whose {slot.part} fields are: {names}",
            hint=SPLIT_HINT,
        )
    if slot.part in ("gap", "ago") and not types.times:
        raise UsageError(f"{slot} needs the times of events", hint="sidtool split --times")


def _check_sequence(prompt: str, form: str, types: FieldTypes) -> None:
    """Every item of a sequence is a target: what stands before it must be known before it, and
    nothing is known of one target alone."""
    before, _, after = prompt.partition(HISTORY_SLOT)
    if after:
        raise UsageError(f"a sequence ends with its history, not with {after!r:.60}")
    for slot in slots(before):
        if slot.part != "user":
            raise UsageError(f"{slot} differs from item to item of a sequence: put it into items")
    for slot in slots(form):
        if slot.part == "ago":
            raise UsageError("{ago} needs a single target, a sequence has many: use {gap}")
    for slot in slots(opening(form)):
        if slot.field and slot.field not in types.context:
            raise UsageError(
                f"{slot} stands before the item, but is known only after its event",
                hint=f"put it behind {{sid}}, or record it with --context {slot.field}",
            )
