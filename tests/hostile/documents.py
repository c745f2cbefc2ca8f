"""Damaged JSON documents, as an attacker or a broken disk makes them from a valid one."""

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

NESTED = 100_000
"""Levels of nesting that no parser follows."""

texts = st.one_of(
    st.sampled_from(
        (
            "",
            ".",
            "..",
            "../../x",
            "/etc/passwd",
            "C:\\x",
            "a/b",
            "a\x00b",
            "a\nb",
            "\x1b[31mred\x1b[0m",
            "\u202eabc",
            "１.０",
            "١.٠",
            "1.0\n",
            " 1.0",
            "01.0",
            "1.00",
            "1_0.0",
            "+1.0",
            "1.-0",
            "1." + "9" * 5000,
            "latest",
            "A" * 100_000,
            "[/bold]",
            "é",
            "e\u0301",
            "\ufeff1.0",
        )
    ),
    st.text(max_size=20),
    st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True),
)
"""Texts that may stand where a name, a version or a digest is expected."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from((2**31, 2**63, 2**64, -(2**63) - 1, 10**400)),
    st.floats(),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
"""JSON values of any type."""


@st.composite
def damaged_json(draw: st.DrawFn, document: Mapping[str, Any]) -> bytes:
    """The bytes of a document in which one thing is wrong."""
    kind = draw(st.sampled_from((*_BY_VALUE, *_BY_BYTES)))
    changed = dict(document)
    key = draw(st.sampled_from(sorted(document)))
    if kind == "value":
        changed[key] = draw(values)
    elif kind == "member" and isinstance(changed[key], Mapping):
        changed[key] = {**changed[key], draw(texts): draw(values)}
    elif kind == "missing":
        del changed[key]
    elif kind == "other":
        return _spell(draw(values))
    data = _spell(changed)
    return _damaged_bytes(draw, kind, data, key) if kind in _BY_BYTES else data


_BY_VALUE = ("value", "member", "missing", "other")
_BY_BYTES = ("flip", "cut", "insert", "repeat", "encoding", "deep", "digits", "surrogate", "tail")


def _damaged_bytes(draw: st.DrawFn, kind: str, data: bytes, key: str) -> bytes:
    place = draw(st.integers(0, len(data) - 1))
    if kind == "flip":
        return (
            data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]
        )
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=4)) + data[place:]
    if kind == "tail":
        return data + draw(st.sampled_from((b"{}", b"\x00", b"x", b"\xff", b" " * 100)))
    if kind == "encoding":
        name = draw(st.sampled_from(("utf-8-sig", "utf-16", "utf-32", "utf-7")))
        return data.decode().encode(name)
    return _with_member(data, key, _MEMBERS[kind](draw))


_MEMBERS = {
    "repeat": lambda draw: _spell(draw(values)),
    "deep": lambda draw: draw(st.sampled_from((b"[", b'{"a":'))) * NESTED,
    "digits": lambda draw: draw(st.sampled_from((b"9" * 5000, b"1e999", b"-Infinity", b"NaN"))),
    "surrogate": lambda draw: b'"a\\ud800b"',
}
"""The value of a key that is written a second time, in front of the others."""


def _with_member(data: bytes, key: str, value: bytes) -> bytes:
    """An object with one more member, whose key may be a repeated one."""
    return b"{" + json.dumps(key).encode() + b": " + value + b"," + data.lstrip()[1:]


def _spell(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
