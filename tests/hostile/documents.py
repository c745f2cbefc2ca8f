"""Damaged JSON documents, as an attacker or a broken disk makes them from a valid one."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

NESTED = 100_000
"""Levels of nesting that no parser follows."""

STRANGE = [
    *("", ".", "..", "../../x", "/etc/passwd", "C:\\x", "a/b", "a\x00b", "a\nb"),
    *("\x1b[31mred\x1b[0m", "\u202eabc", "１.０", "١.٠", "1.0\n", " 1.0", "01.0", "1.00", "1_0.0"),
    *("+1.0", "1.-0", "1." + "9" * 5000, "latest", "A" * 100_000, "[/bold]", "é", "e\u0301"),
    *("\ufeff1.0", "../outside", "w.bin", "model.safetensors", "evil.Evil", "org/name"),
    *("torch.hub.load", "sentence_transformers.models.Router"),
]
versions = st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)
texts = st.one_of(st.sampled_from(STRANGE), st.text(max_size=20), versions)
"""Texts that may stand where a name, a version or a digest is expected."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from((7, 255, 2**16, 10**9, 2**31, 2**40, 2**63, 2**64, -(2**63) - 1, 10**400)),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
"""JSON values of any type."""


BY_VALUE = ("replace", "replace", "remove", "add", "repeat", "other")
BY_BYTES = ("flip", "cut", "insert", "twice", "encoding", "deep", "digits", "surrogate", "tail")


def changed(value: Any, choose: Callable[[Any], Any], kind: str | None = None) -> Any:
    """A JSON value with one member, at any depth, replaced, removed, added or repeated, or another
    value; `choose` draws from a strategy."""
    kind = kind or choose(st.sampled_from(BY_VALUE))
    value = copy.deepcopy(value)
    containers = list(_containers(value))
    if kind == "other" or not containers:
        return choose(values)
    container = choose(st.sampled_from(containers))
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    key = choose(st.sampled_from(keys)) if keys else None
    if kind == "remove" and keys:
        del container[key]
    elif kind == "replace" and keys:
        container[key] = choose(values)
    else:
        member = container[key] if kind == "repeat" and keys else choose(values)
        if isinstance(container, dict):
            container[choose(texts)] = member
        else:
            container.append(member)
    return value


def _containers(value: Any) -> Iterator[Any]:
    """The objects and lists of a value."""
    if isinstance(value, dict | list):
        yield value
        for member in value.values() if isinstance(value, dict) else value:
            yield from _containers(member)


def sparse(path: Path) -> None:
    """A file of 4 TB that takes no room."""
    with path.open("wb") as stream:
        stream.truncate(1 << 42)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "folder": Path.mkdir,
    "sparse": sparse,
    "empty": Path.touch,
    "missing": lambda path: None,
    "longer": lambda path: path.write_bytes(b"x" * 100_000),
}
"""What makes something else in the place of a file, by its kind."""


@contextmanager
def replaced(path: Path, data: bytes) -> Iterator[bytes]:
    """A file with other bytes in this block, which gets those before."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield before
    finally:
        path.write_bytes(before)


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> bytes:
    """The bytes of an object, or a list with one, in which one thing is wrong."""
    kind = draw(st.sampled_from((*BY_VALUE, *BY_BYTES)))
    if kind in BY_VALUE:
        return _spell(changed(document, draw, kind))
    data = _spell(document)
    place = draw(st.integers(0, len(data) - 1))
    if kind == "flip":
        flipped = bytes([data[place] ^ 1 << draw(st.integers(0, 7))])
        return data[:place] + flipped + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=4)) + data[place:]
    if kind == "tail":
        return data + draw(st.sampled_from((b"{}", b"\x00", b"x", b"\xff", b" " * 100)))
    if kind == "encoding":
        name = draw(st.sampled_from(("utf-8-sig", "utf-16", "utf-32", "utf-7")))
        return data.decode().encode(name)
    # one of the keys is written a second time, in front of the others
    before, _, members = data.partition(b"{")
    key = draw(st.sampled_from(sorted(document[0] if before else document)))
    return before + b"{" + json.dumps(key).encode() + b": " + _MEMBERS[kind](draw) + b"," + members


_MEMBERS = {
    "twice": lambda draw: _spell(draw(values)),
    "deep": lambda draw: draw(st.sampled_from((b"[", b'{"a":'))) * NESTED,
    "digits": lambda draw: draw(st.sampled_from((b"9" * 5000, b"1e999", b"-Infinity", b"NaN"))),
    "surrogate": lambda draw: b'"a\\ud800b"',
}


def _spell(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
