import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base import documents
from sidtool.base.documents import (
    MAX_YAML_CHARACTERS,
    check_seal,
    parse_json,
    parse_json_row,
    parse_yaml,
    read_document,
    sealed_text,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda members: st.lists(members) | st.dictionaries(st.text(), members),
    max_leaves=10,
)


@given(json_values, st.booleans(), st.booleans())
def test_json_is_read_as_written(value: object, ascii_only: bool, marked: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text.encode("utf-8-sig" if marked else "utf-8")) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "'a' occurs twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b"1e999", "1e999 is beyond"),
        (b"9" * 5000, "too many digits"),
        (b"[-" + b"9" * 5000 + b"]", "too many digits"),
        (b"[" * 100_000 + b"]" * 100_000, "too deep"),
        (b'{"a":' * 100_000, "too deep"),
        (b'{"a":[' * 32 + b"[]" + b"]}" * 32, "too deep"),
        (b"[" * 65 + b"]" * 65, "too deep"),
        (b'"\xff"', "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        ("{}".encode("utf-16-le"), "Expecting|Extra"),
        (b'{"\\ud800": 1}', r"lone surrogate \\ud800"),
        ('["\ud83d"]', r"lone surrogate \\ud83d"),
        (b"{}\x00", "Extra data"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_python_reads_otherwise_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_repeated_key_behind_many_others_is_found_about_as_fast_as_they_are_read() -> None:
    members = [f'"k{n}": 0' for n in range(4000)]

    def seconds(text: str) -> float:
        start = time.process_time()
        with suppress(ValueError):
            parse_json(text)
        return time.process_time() - start

    unique = min(seconds(f"{{{', '.join(members)}}}") for _ in range(5))
    repeated = min(seconds(f"{{{', '.join([*members, members[-1]])}}}") for _ in range(2))
    assert repeated < 30 * unique  # hundreds of times where each key is counted among all


def test_many_values_side_by_side_are_not_deep() -> None:
    assert parse_json(f"[{', '.join(['[]'] * 1000)}]") == [[]] * 1000
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json('"' + "[" * 1000 + '"') == "[" * 1000


def test_numbers_of_a_row_may_keep_their_digits() -> None:
    digits = "1234567890" * 500
    row = parse_json_row(f'{{"a": {digits}, "b": 1.50, "c": 1}}', parse_number=str)
    assert row == {"a": digits, "b": "1.50", "c": "1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' occurs twice"),
        ("a: [{b: 1, b: 1}]", "'b' occurs twice"),
        ("&a [*a]", "contains itself"),
        ("[" * 5000, "too deep"),
        ("[" * 100 + "]" * 100, "too deep"),
        ("x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 60)),
         "more than 100000 values"),
        ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("!!int ''", "."),
        ("!!timestamp x", "."),
        ("2021-13-45", "month"),
        ("9" * 5000, "digits"),
        ("? [a]\n: 1", "unhashable"),
        ("a: b: c", "not allowed"),
        ("--- 1\n--- 2", "single document"),
        ("\x00", "unacceptable"),
        ("a" * (MAX_YAML_CHARACTERS + 1), "characters, more than"),
    ],
)  # fmt: skip
def test_yaml_that_is_malformed_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_yaml_may_use_aliases_and_merge_keys() -> None:
    expected = {"a": {"p": 1}, "b": {"p": 1, "q": 2}, "c": [{"p": 1}, {"p": 1}]}
    assert parse_yaml("a: &x {p: 1}\nb: {<<: *x, q: 2}\nc: [*x, *x]") == expected
    assert parse_yaml("") is None


def test_outer_scalars_of_yaml_stay_as_they_are_written() -> None:
    text = "on: 005\nuser: [00123, yes, ~]\nset: {rate: 1e-3, sizes: [1, 2]}\n"
    tree = {"on": "005", "user": ["00123", "yes", None], "set": {"rate": "1e-3", "sizes": [1, 2]}}
    assert parse_yaml(text, text_levels=3) == tree
    assert parse_yaml("on: 005") == {True: 5}


def test_a_document_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it has more than 4194304 bytes"):
        read_document(Path("/dev/zero"))
    (tmp_path / "x").write_bytes(bytes(11))
    assert read_document(tmp_path / "x", 11) == bytes(11)
    with pytest.raises(OSError, match="it has more than 10 bytes"):
        read_document(tmp_path / "x", 10)
    assert read_document(Path("/dev/null")) == b""


def test_a_pipe_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(documents, "PIPE_SECONDS", 1e-9)
    with pytest.raises(OSError, match="nothing writes to this pipe"):
        read_document(tmp_path / "pipe")
    monkeypatch.undo()
    release = threading.Event()

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as stream:
            stream.write(b"a")
            release.wait()
            stream.write(b"b" * 100_000)

    writer = threading.Thread(target=write)
    writer.start()
    threading.Timer(0.05, release.set).start()
    assert read_document(tmp_path / "pipe") == b"a" + b"b" * 100_000
    writer.join()


def test_the_output_of_a_command_is_a_document() -> None:
    program = (
        "import sys; from pathlib import Path; from sidtool.base.documents import read_document\n"
        "print([read_document(Path(each)) for each in sys.argv[1:]])"
    )
    script = '"$0" -c "$1" <(sleep 0.2; echo x) <(true) /dev/stdin <<< y'
    words = ["bash", "-c", script, sys.executable, program]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == "[b'x\\n', b'', b'y\\n']\n", done.stderr


def test_a_document_says_whether_its_values_changed() -> None:
    value = {"b": [1, 1.5, {"é": None}], "a": "x"}
    text = sealed_text(value)
    stored = json.loads(text)
    spelled = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert stored == value | {"sha256": hashlib.sha256(spelled.encode()).hexdigest()}
    check_seal(stored)
    check_seal(dict(sorted(stored.items())))
    check_seal(value)  # of an earlier version
    for changed in ({"a": "y"}, {"c": 1}, {"sha256": "0" * 64}, {"sha256": None}):
        with pytest.raises(ValueError, match="its own SHA-256"):
            check_seal(stored | changed)
