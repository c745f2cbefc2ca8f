"""Small files from outside, read within a bound; JSON and YAML text, parsed strictly; and JSON
documents with their own digest.

Python's parsers take the last of two equal keys, read NaN, and end with errors of many classes on
deep nesting, long numbers and wrong encodings. Here all of that is one ValueError of one line."""

import errno
import hashlib
import json
import os
import select
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

MAX_BYTES = 1 << 22
"""Bytes of a document that a person writes."""
PIPE_SECONDS = 10.0
"""How long a named pipe may have no writer; one that writes may take any time."""
MAX_JSON_DEPTH = 64
"""Objects and lists inside each other in a JSON document."""
MAX_YAML_CHARACTERS = 1 << 17
"""PyYAML reads some hundred thousand characters per second."""
MAX_YAML_DEPTH = 64
TYPED_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp")}
MAX_YAML_NODES = 100_000
"""Values of a YAML document, each counted as often as aliases repeat it."""

T = TypeVar("T")

SEAL = "sha256"
"""The key of the digest that a stored document has of its other keys."""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. Refuses NaN and
    infinities."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sealed_text(value: Mapping[str, Any]) -> str:
    """A JSON object as a stored document with its own digest."""
    sealed = {**value, SEAL: hashlib.sha256(canonical(value)).hexdigest()}
    return json.dumps(sealed, indent=1, ensure_ascii=False) + "\n"


def check_seal(value: Mapping[str, Any]) -> None:
    """Raise ValueError if a document differs from its own digest; those of earlier versions have
    none."""
    unsealed = {key: member for key, member in value.items() if key != SEAL}
    digest = hashlib.sha256(canonical(unsealed)).hexdigest()
    if value.get(SEAL, digest) != digest:
        raise ValueError("it differs from its own SHA-256")


def read_document(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a small file, device or pipe, such as `<(...)` of a shell. Raises OSError also
    for more than `most` bytes, and for a named pipe that nothing writes to."""
    # opening a named pipe waits for a writer; a pipe without a name has or had one
    is_named = path.is_fifo() and path.resolve().exists()
    wait = os.O_NONBLOCK if is_named else 0
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | wait)) as stream:
        is_ready = True
        if is_named:
            is_ready = bool(select.select([stream], [], [], PIPE_SECONDS)[0])
            os.set_blocking(stream.fileno(), True)
        content = stream.read(most + 1)
    if not (content or is_ready):
        raise OSError(errno.EPIPE, "nothing writes to this pipe", str(path))
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document; bytes are UTF-8, with or without a byte order mark. Raises
    ValueError (a JSONDecodeError for a syntax error) also for a key that occurs twice in an object,
    NaN and infinities, numbers beyond float64 or of thousands of digits, nesting that is too deep,
    and lone surrogates."""
    value = parse_json_row(text, parse_number=None)
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if data.count(b"[") + data.count(b"{") > MAX_JSON_DEPTH:
        # too deep for functions that call themselves for the members of a value
        containers = [value]
        for _ in range(MAX_JSON_DEPTH):
            groups = (
                container.values() if isinstance(container, dict) else container
                for container in containers
            )
            containers = [
                member for group in groups for member in group if isinstance(member, dict | list)
            ]
        if containers:
            raise ValueError("the nesting is too deep")
    if b"\\ud" in data or b"\\uD" in data or (isinstance(text, str) and not text.isascii()):
        check_strings(value)
    return value


def parse_json_row(text: str | bytes, *, parse_number: Callable[[str], Any] | None) -> Any:
    """As `parse_json`, for rows of which not every value is used: NaN and lone surrogates pass.
    `parse_number` makes a value of the digits of a number; numbers are int and float if it is
    None."""
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        return _decoder(parse_number).decode(decoded)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except RecursionError as error:
        raise ValueError("the nesting is too deep") from error
    except ValueError as error:
        if "integer string conversion" in str(error):  # advice on Python's settings
            raise ValueError("a number has too many digits") from error
        raise


def check_strings(value: Any) -> None:
    """Raise ValueError if a JSON value has a text with a lone surrogate, which UTF-8 cannot
    express."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError as error:
        spelled = ascii(text[error.start])[1:-1]
        raise ValueError(f"a text has the lone surrogate {spelled}") from error


def parse_yaml(text: str, *, text_levels: int = 0) -> Any:
    """The value of a YAML document of plain types.

    Scalars in so many outer `text_levels`, the document's own one included, are texts as they are
    written, except null: YAML reads 00123 as 83, and `on` as true.

    Raises ValueError also for a key that occurs twice in a mapping, for aliases that repeat values
    more than MAX_YAML_NODES times or contain themselves, and for a tag that makes Python objects.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(f"{len(text)} characters, more than {MAX_YAML_CHARACTERS}")
    try:
        loader = _yaml_loader()(text)
        root = loader.get_single_node()
        _count_nodes(root, {})
        _keep_texts(root, text_levels)
        return None if root is None else loader.construct_document(root)
    except RecursionError as error:
        raise ValueError("the nesting is too deep, or a value contains itself") from error
    except Exception as error:  # PyYAML raises IndexError, KeyError ... for malformed scalars
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


@cache
def _yaml_loader() -> Any:
    """PyYAML's safe loader that ends early on deep nesting, which takes it quadratic time."""
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > MAX_YAML_DEPTH:
                raise RecursionError
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    return Loader


@cache
def _decoder(parse_number: Callable[[str], Any] | None) -> json.JSONDecoder:
    """Refuses keys that repeat, and NaN and infinities unless there is a `parse_number`, which gets
    the digits of a number and is as in `parse_json_row`."""
    return json.JSONDecoder(
        object_pairs_hook=_without_repeats,
        parse_float=parse_number or _finite,
        parse_int=parse_number,
        parse_constant=None if parse_number else _refuse,
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(
            f"the key {_repeated(key for key, _ in pairs)!r:.80} occurs twice in one object"
        )
    return value


def _repeated(keys: Iterable[T]) -> T:
    """The first of some keys that occurs again; quick for many, which a caller may have chosen."""
    return next(key for key, count in Counter(keys).items() if count > 1)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:40]} is beyond the range of numbers")
    return number


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _keep_texts(node: Any, levels: int) -> None:
    """Make the scalars in the outer levels of a YAML node texts, except null."""
    if node is None or levels <= 0:
        return
    if isinstance(node.value, str):
        if node.tag in TYPED_SCALARS:
            node.tag = "tag:yaml.org,2002:str"
        return
    for member in node.value:
        for part in member if isinstance(member, tuple) else (member,):
            _keep_texts(part, levels - 1)


def _count_nodes(node: Any, sizes: dict[int, int]) -> int:
    """Number of values below a YAML node, repeated ones counted each time."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) in sizes:
        return sizes[id(node)]
    members = node.value
    if members and isinstance(members[0], tuple):
        keys = [(key.tag, key.value) for key, _ in members if isinstance(key.value, str)]
        if len(set(keys)) != len(keys):
            raise ValueError(f"the key {_repeated(keys)[1]!r:.80} occurs twice in one mapping")
        members = [member for pair in members for member in pair]
    size = 1 + sum(_count_nodes(member, sizes) for member in members)
    if size > MAX_YAML_NODES:
        raise ValueError(f"more than {MAX_YAML_NODES} values")
    sizes[id(node)] = size
    return size
