"""Zips of bundles: equal objects give equal bytes, and each object is one byte range."""

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.storage.zips import write_zip, zip_directory

names = st.text("ab/é", min_size=1, max_size=6).filter(lambda name: "//" not in name)


@given(st.dictionaries(names, st.binary(max_size=50), min_size=1), st.data())
def test_the_directory_locates_every_object(objects: dict[str, bytes], data: st.DataObject) -> None:
    last = data.draw(st.sampled_from(sorted(objects)))
    packed = []
    for _ in range(2):
        stream = io.BytesIO()
        write_zip(stream, sorted(objects.items()), last=last)
        packed.append(stream.getvalue())
    assert packed[0] == packed[1]
    spans = zip_directory(io.BytesIO(packed[0]))
    assert {name: packed[0][start:stop] for name, (start, stop) in spans.items()} == objects
    assert list(spans)[-1] == last


def test_a_compressed_zip_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 1000)
    with pytest.raises(ValueError, match="layout"):
        zip_directory(stream)
