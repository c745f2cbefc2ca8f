"""Slots of a template for fields, and what is put into them.

Around a history a template may have `{user.FIELD}`, `{context.FIELD}` (of what comes next),
`{gap}` (the time since the last event) and, in tasks that are given it, `{feedback.FIELD}`. Beside
an item it may have `{event.FIELD}`, `{gap}` (the time between the event before it and this one) and
`{ago}` (the time from this event until now). Values are catalog text, so none of them can become a
SID or a special token. `{user.FIELD:token}`, `{gap:token}` ... show a value by the token that the
model has for it (`field_tokens`)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Fields, Value
from sidtool.model.prompt.item_text import item_text
from sidtool.model.prompt.segments import Segment, catalog, template
from sidtool.model.vocabulary.tokens import TIMES, FieldTokenLookup, FieldValues, value_of_token

SLOT = re.compile(
    r"\{(?:(?:(user|context|feedback|event)\.([^{}]+?)|(gap|ago))(:token)?|(sid|title))\}"
)
SPLIT_HINT = "sidtool split records fields: --feedback --context --users --times"
UNKNOWN = "unknown"
"""What stands for a value that is missing."""
SPANS = (
    (60, "seconds"),
    (3600, "minutes"),
    (86_400, "hours"),
    (7 * 86_400, "days"),
    (30 * 86_400, "weeks"),
    (365 * 86_400, "months"),
)
"""Spans of time by the number of seconds that they are shorter than."""
LONGEST_SPAN = "years"
NO_TOKENS = FieldTokenLookup({})


@dataclass(frozen=True)
class Slot:
    """A slot: `part` is user, context, feedback, event, gap, ago, sid or title, `field` a name for
    the first four."""

    part: str
    field: str = ""
    as_token: bool = False
    """Whether it shows a value by a token of its own."""

    @property
    def name(self) -> str:
        """The part with its field."""
        return f"{self.part}.{self.field}" if self.field else self.part

    def __str__(self) -> str:
        return f"{{{self.name}{':token' if self.as_token else ''}}}"


@lru_cache(4096)
def parse(text: str) -> tuple[str | Slot, ...]:
    """Literal text and slots of a template, in order."""
    pieces: list[str | Slot] = []
    position = 0
    for match in SLOT.finditer(text):
        if match.start() > position:
            pieces.append(text[position : match.start()])
        part = match[1] or match[3] or match[5]
        pieces.append(Slot(part, match[2] or "", match[4] is not None))
        position = match.end()
    if position < len(text):
        pieces.append(text[position:])
    return tuple(pieces)


def slots(text: str) -> list[Slot]:
    """The slots of a template."""
    return [piece for piece in parse(text) if isinstance(piece, Slot)]


def span(seconds: float) -> str:
    """A span of time in words. Events out of order are a span of 0."""
    return next((name for limit, name in SPANS if seconds < limit), LONGEST_SPAN)


def value_text(value: Value | None) -> str:
    """A value on one line, UNKNOWN for none; 4 and 4.0 are spelled alike."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = "" if value is None else item_text(str(value))
    return text or UNKNOWN


def parse_field_tokens(texts: list[str]) -> FieldValues:
    """Field -> the values that get a token, of "FIELD=VALUE,VALUE" texts, and of "gap" and "ago",
    whose values are spans of time; numbers as prompts show them, so "4.0" is "4". Raises UsageError
    for another text or a repeated field."""
    values: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        has_values = bool(equals)
        if has_values == (name in TIMES):  # a time has no values of its own, any other field does
            raise UsageError(
                f"{text!r} is no field with its values",
                hint="--field-token user.FIELD=VALUE,VALUE, or --field-token gap",
            )
        if name in values:
            raise UsageError(f"the tokens of {name} are given twice")
        if has_values:
            values[name] = tuple(value_of_token(value.strip()) for value in listed.split(","))
        else:
            values[name] = (*(span_name for _, span_name in SPANS), LONGEST_SPAN)
    return values


def as_shown(fields: FieldValues) -> FieldValues:
    """Fields with their values as prompts show them, so that a prompt finds their tokens."""
    return {
        name: tuple(value_of_token(value_text(value)) for value in values)
        for name, values in fields.items()
    }


def frame_segments(
    text: str, fields: Fields, tokens: FieldTokenLookup = NO_TOKENS
) -> list[Segment]:
    """The text around a history, or before the next item of a sequence, with the fields in its
    slots. Raises DataError for a field that there is not; a missing value is fine."""

    def value(slot: Slot) -> Value | None:
        if not slot.field:  # the time since the last event
            if fields.times is None or fields.time is None:
                raise _lacks(slot, fields)
            return span(fields.time - fields.times[-1]) if fields.times else None
        if slot.part == "event":  # what stands before the next item is its context
            slot = Slot("context", slot.field)
        parts = {"user": fields.user, "context": fields.context, "feedback": fields.feedback}
        if slot.field not in parts[slot.part]:
            raise _lacks(slot, fields)
        return parts[slot.part][slot.field]

    return _filled(text, value, tokens)


def item_segments(
    form: str, shown: Segment, fields: Fields, place: int, tokens: FieldTokenLookup = NO_TOKENS
) -> list[Segment]:
    """An item, shown as `shown`, in a form with slots; `place` counts the events of `fields` from
    the end, so the last one is -1. Raises as `frame_segments`."""

    def value(slot: Slot) -> Value | None:
        if slot.part == "event":
            values = fields.event.get(slot.field, ())
            # fields of no history, which are those of every request, have no events
            if len(values) < -place:
                raise _lacks(slot, fields)
            return values[place]
        times = fields.times
        if times is None or len(times) < -place or (slot.part == "ago" and fields.time is None):
            raise _lacks(slot, fields)
        if slot.part == "ago" and fields.time is not None:
            return span(fields.time - times[place])
        return span(times[place] - times[place - 1]) if len(times) > -place else None

    return _filled(form, value, tokens, shown)


def opening(form: str) -> str:
    """What stands before the item in its form."""
    return re.split(r"\{(?:sid|title)\}", form)[0]


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """The segments with neighboring template texts as one, which is how a file of training examples
    stores them: tokenized apart, they could have other tokens."""
    result: list[Segment] = []
    for segment in segments:
        if not (segment.text or segment.sid_tokens):
            continue
        if result and segment.kind == result[-1].kind == "template":
            result[-1] = template(result[-1].text + segment.text)
        else:
            result.append(segment)
    return result


def _lacks(slot: Slot, fields: Fields) -> DataError:
    example = '{"time": now}' if fields.times else '{"times": [one per item], "time": now}'
    if slot.field:
        value = "[one per item]" if slot.part == "event" else "..."
        example = f'{{"{slot.part}": {{"{slot.field}": {value}}}}}'
    return DataError(
        f"the model's prompt shows {slot}, which the request lacks",
        hint=f'"fields": {example}, where null stands for an unknown value; {SPLIT_HINT}',
    )


def _filled(
    text: str,
    value: Callable[[Slot], Value | None],
    tokens: FieldTokenLookup,
    shown: Segment | None = None,
) -> list[Segment]:
    """The text with the value of each slot, and the item, as `shown`, in its slot."""
    segments: list[Segment] = []
    for piece in parse(text):
        if isinstance(piece, str):
            segments.append(template(piece))
        elif piece.part in ("sid", "title"):
            assert shown is not None
            segments.append(shown)
        elif piece.as_token:  # a text of the template, which the value only chooses
            segments.append(template(tokens.text(piece.name, value_text(value(piece)))))
        else:
            segments.append(catalog(value_text(value(piece))))
    return segments
