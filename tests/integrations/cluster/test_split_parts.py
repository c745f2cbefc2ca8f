from pathlib import Path

import boto3
import pytest

from sidtool.base.errors import DataError, SidtoolError, UsageError
from sidtool.data.split import SplitOptions
from sidtool.data.split.parts import user_parts
from sidtool.integrations.cluster import PartOptions, split_in_parts, split_parts
from sidtool.integrations.cluster.shards import (
    TEXT_ROW,
    count_events,
    open_store,
    part_count,
    table_urls,
)
from tests.cli.road import tree
from tests.data.split.test_user_parts import N_EVENTS, write_events
from tests.integrations.cluster.jobs import failing_at_the_third
from tests.s3 import BUCKET, Wire


def divide(events: Path | str, out: Path, **run: object) -> dict[str, bytes]:
    split_in_parts(events, out, run=PartOptions(parts=5, **run))  # type: ignore[arg-type]
    return tree(out)


def test_a_run_continues_with_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, out = write_events(tmp_path / "events"), tmp_path / "split"
    expected = divide(events, tmp_path / "one")
    split_one = user_parts.split_part
    monkeypatch.setattr(split_parts, "split_part", failing_at_the_third(split_one, []))
    with pytest.raises(DataError, match="the disk is full"):
        divide(events, out)
    monkeypatch.setattr(split_parts, "split_part", split_one)
    monkeypatch.setattr(split_parts, "group_rows", None)  # all are grouped
    with pytest.raises(UsageError, match="different parts"):
        split_in_parts(str(events), out, run=PartOptions(parts=4, resume=True))
    options = SplitOptions("temporal", valid_from=1, test_from=2)
    with pytest.raises(UsageError, match="different options"):
        split_in_parts(events, out, options, run=PartOptions(parts=5, resume=True))
    assert divide(events, out, resume=True) == expected
    with pytest.raises(UsageError, match="exists already"):
        divide(events, out)
    with pytest.raises(UsageError, match="--dry-run counts in one process"):
        divide(events, tmp_path / "plan", dry_run=True)
    with pytest.raises(UsageError, match=r"ends with \.csv, but a folder is written"):
        divide(events, tmp_path / "split.csv")


def test_events_at_a_url(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events")
    expected = divide(events, tmp_path / "one")
    assert divide(f"file://{events}", tmp_path / "two") == expected
    (tmp_path / ".own").mkdir()
    hidden = events.rename(tmp_path / ".own" / "events")
    assert divide(f"{hidden}/*.parquet", tmp_path / "three") == expected
    named = (hidden / "0.parquet").rename(hidden / "[0].parquet")  # a name, not a pattern
    assert table_urls(str(named)) == [str(named)]


def test_parts_follow_from_the_events(tmp_path: Path) -> None:
    urls = table_urls(str(write_events(tmp_path / "events")))
    assert count_events(urls) == N_EVENTS
    (tmp_path / "more.csv").write_bytes(bytes(TEXT_ROW * 7))
    assert count_events([*urls, str(tmp_path / "more.csv")]) == N_EVENTS + 7
    assert [part_count(events) for events in (0, 1 << 23, 1 << 40)] == [8, 16, 1024]


def test_a_store_without_its_client_is_named() -> None:
    with pytest.raises(SidtoolError, match="adlfs"):
        open_store("abfs://container/events")


def test_tables_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n")
    with pytest.raises(DataError, match="holds no events"):
        divide(tmp_path / "events.csv", tmp_path / "split")


def test_events_at_a_url_that_were_replaced(tmp_path: Path, s3: Wire) -> None:
    url, store = f"s3://{BUCKET}/replaced/events", boto3.client("s3")
    for n_files in (2, 3):
        events = write_events(tmp_path / f"events-{n_files}", n_files)
        for file in events.iterdir():
            key = f"replaced/events/{file.name}"
            store.upload_file(str(file), BUCKET, key)  # fsspec does not know of it
        expected = divide(events, tmp_path / f"local-{n_files}")
        source = url if n_files == 2 else Path(url)  # which loses a slash
        assert divide(source, tmp_path / f"remote-{n_files}") == expected
    # what is known of each file is in the list of all
    heads = [path for path in s3.paths("HEAD") if path.startswith(f"/{BUCKET}/replaced/")]
    assert not [path for path in heads if path.endswith(".parquet")]
