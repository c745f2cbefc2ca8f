"""Checks of the files in a model folder, before any library reads them.

Without `trust_remote_code`, a library may read only regular files inside of the folder, and weights
only from safetensors or GGUF files, whose headers are consistent."""

import os
import re
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sidtool.base.digests import file_digest
from sidtool.base.documents import parse_json, read_document
from sidtool.base.errors import DataError, RefusedError, first_line, raised_as

TRUST = "--trust-remote-code allows it; the checkpoint can then run any code on this machine"

CONFIG = "config.json"
EMBEDDED = "sidtool"
"""The key of a config.json under which sidtool stores the contract of a model."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
ADAPTER = "adapter_model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
"""Files of pickled weights that the libraries load."""

MAX_JSON = 1 << 24
"""Bytes of a configuration, an index or a header; the largest known tokenizer_config.json has 4
MB."""
MAX_TOKEN_ID = 1 << 24
"""Ids of a tokenizer.json are less; the largest known vocabularies have 2^18 tokens."""
_LONG_NUMBER = re.compile(rb":\s*[0-9]{8}")
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
TEMPLATES = "additional_chat_templates/*.jinja"
LOADED = (
    *(CONFIG, WEIGHTS, INDEX, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "generation_config.json", "chat_template.jinja"),
    TEMPLATES,
)
"""Patterns of files that libraries read wherever they are there."""
_SETTINGS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_NOT_READ = ("sid.json", "trainer_state.json", "run.json", INDEX)


@dataclass(frozen=True)
class StoredWeights:
    """How much a folder's weight files have: the bound of what its configuration may claim."""

    tensors: int = 0
    weights: int = 0
    """numbers at most; those of quantized tensors are counted as bits"""

    def __add__(self, other: "StoredWeights") -> "StoredWeights":
        return StoredWeights(self.tensors + other.tensors, self.weights + other.weights)


def check_folder(
    folder: Path, parts: Sequence[str] = ("",), *, trust_remote_code: bool = False
) -> StoredWeights:
    """Check the files directly in a model folder, or in these parts of it; returns what their
    weight files have. Raises DataError for a file that is not regular and for damaged weights,
    RefusedError for what leads outside and for weights that are only pickled. With
    `trust_remote_code` only what would block a reader is refused."""
    stored = StoredWeights()
    for part in dict.fromkeys((*parts, *_nested_templates(folder, parts))):
        for path in _files(folder / part):
            check_file(path, folder, trust_remote_code=trust_remote_code)
        if not trust_remote_code:
            stored += _check_weights(folder / part)
            _check_token_ids(folder / part / TOKENIZER)
    return stored


def check_file(path: Path, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise DataError unless a file of a model folder is regular, RefusedError if it is a link to a
    file outside of the folder; with `trust_remote_code`, links may lead anywhere."""
    try:
        mode = path.stat().st_mode
        target = path.resolve(strict=True)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file")
    resolved = folder.resolve()
    roots = [resolved]  # links may also lead to the blobs of the hub's cache
    for snapshots in (resolved.parent, resolved.parent.parent):  # of a folder of a repository
        if snapshots.name == "snapshots":
            roots.append(snapshots.parent / "blobs")
            break
    if trust_remote_code or any(target.is_relative_to(root) for root in roots):
        return
    raise RefusedError(f"{path} is a link to {target}, outside of the model's folder", hint=TRUST)


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises DataError if it is too large, damaged or missing."""
    try:
        return parse_json(read_document(path, MAX_JSON))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {first_line(error)}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; as `read_json`, and DataError if it has another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} has a JSON {type(value).__name__}, not an object")
    return value


def weight_digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each weight file of a model folder, by name."""
    patterns = ("*.safetensors", "*.bin")
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return {path.name: file_digest(path) for path in files}


def settings_digests(folder: Path, parts: Sequence[str] = ("",)) -> dict[str, str]:
    """SHA-256 (hex) of each file besides the weights that determines what a model computes:
    configuration, tokenizer, chat template, modules. By path in the folder."""
    files = [path for part in parts for path in _files(folder / part)]
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(files)
        if path.suffix in _SETTINGS and path.name not in _NOT_READ
    }


def model_digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file of a model folder that libraries read: weights, configuration,
    tokenizer, chat templates and code; by path in the folder."""
    parts = ("", *_nested_templates(folder, ("",)))
    more = [*folder.glob(INDEX), *sorted(folder.glob("*.py"))]
    digests = weight_digests(folder) | settings_digests(folder, parts)
    return digests | {path.name: file_digest(path) for path in more}


def unlisted_files(names: Iterable[str], listed: Container[str]) -> list[str]:
    """Those names of files of a model folder that no contract lists, but libraries read."""
    return sorted(
        name
        for name in names
        if name not in listed and any(fnmatchcase(name, pattern) for pattern in LOADED)
    )


def read_header(path: Path) -> StoredWeights:
    """Check the header of a safetensors file against its size: known types, and tensors that fill
    the data without gap or overlap. Raises DataError."""
    try:
        with path.open("rb") as stream:
            _, entries = read_entries(stream)
        floats = all(entry["dtype"][0] in "FB" for entry in entries.values())
        n_bytes = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        return StoredWeights(len(entries), n_bytes if floats else 8 * n_bytes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} does not load: {first_line(error)}") from error


def read_gguf_size(path: Path) -> StoredWeights:
    """What a GGUF file has, by the tensor count of its header and the size of the file."""
    with path.open("rb") as stream:
        start = stream.read(16)
    size = path.stat().st_size
    if len(start) < 16 or start[:4] != b"GGUF":
        raise DataError(f"{path} is not a GGUF file")
    # an entry of the list of tensors takes at least 24 bytes
    tensors = min(int.from_bytes(start[8:16], "little"), size // 24)
    return StoredWeights(tensors, 8 * size)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _nested_templates(folder: Path, parts: Sequence[str]) -> Iterator[str]:
    """The one folder inside of a model folder that tokenizers read."""
    for part in parts:
        name = str(PurePosixPath(part) / "additional_chat_templates")
        if (folder / name).is_dir():
            yield name


def _check_weights(folder: Path) -> StoredWeights:
    names = {path.name for path in _files(folder)}
    shards = _shards(folder / INDEX) if INDEX in names else ()
    read = sorted({WEIGHTS, ADAPTER, *shards} & names)
    pickles = [name for name in PICKLES if name in names]
    if pickles and not read and not any(name.endswith(".gguf") for name in names):
        raise RefusedError(f"{folder} has only pickled weights ({pickles[0]})", hint=TRUST)
    return sum((read_header(folder / name) for name in read), StoredWeights())


def _check_token_ids(path: Path) -> None:
    """Refuse a tokenizer.json with ids that no vocabulary has: the library makes a table of as many
    entries as the largest."""
    if not path.is_file() or not _LONG_NUMBER.search(content := path.read_bytes()):
        return
    with raised_as(DataError, f"{path} is not valid JSON", errors=(ValueError,)):
        value = parse_json(content)
    value = value if isinstance(value, dict) else {}
    model = value.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = value.get("added_tokens")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added or () if isinstance(token, dict)]
    largest = max((number for number in ids if type(number) is int), default=0)
    if largest >= MAX_TOKEN_ID:
        raise DataError(f"{path} has the token id {largest}, the limit is {MAX_TOKEN_ID}")


def _shards(index: Path) -> list[str]:
    """The weight files that an index names: safetensors files beside it."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DataError(f"{index} has no weight_map")
    names = set()
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or "\0" in name:
            raise RefusedError(f"{index} reads {tensor} from {name!r}, outside of its folder")
        if not name.endswith(".safetensors"):
            raise RefusedError(f"{index} reads {tensor} from {name!r}, not a safetensors file")
        if not (index.parent / name).is_file():
            raise DataError(f"{index} reads {tensor} from {name!r}, which does not exist")
        names.add(name)
    return sorted(names)


def read_entries(stream: BinaryIO) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """The bytes of a safetensors file up to its data, and the entries of its header in the order of
    their data. Raises ValueError, TypeError, KeyError, AttributeError or RecursionError as
    `read_header` raises DataError."""
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(8)
    header_size = int.from_bytes(start, "little")
    if size < 8 or header_size > size - 8:
        raise ValueError(f"a header of {header_size} bytes in a file of {size}")
    start += stream.read(header_size)
    header = parse_json(start[8:].decode())  # the library takes no byte order mark
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is not text")
    spans = sorted(_span(name, entry) for name, entry in header.items())
    position = 0
    for begin, stop, name in spans:
        if begin != position:
            raise ValueError(f"{name!r} starts at byte {begin}, expected {position}")
        position = stop
    if position != size - 8 - header_size:
        raise ValueError(f"{size - 8 - header_size} bytes of data, the header has {position}")
    return start, {name: header[name] for _, _, name in spans}


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    """First byte of a tensor, the one behind its last, and its name."""
    start, stop = entry["data_offsets"]
    n_elements = 1
    for length in entry["shape"]:
        if type(length) is not int or not 0 <= length < 1 << 48:
            raise ValueError(f"{name!r} has the shape {entry['shape']}")
        n_elements *= length
    n_bits = n_elements * _DTYPE_BITS[entry["dtype"]]
    if type(start) is not int or type(stop) is not int or (stop - start) * 8 != n_bits:
        raise ValueError(f"{name!r} has {n_bits // 8} bytes at {entry['data_offsets']}")
    return start, stop, name
