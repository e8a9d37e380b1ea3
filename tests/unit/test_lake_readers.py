"""An extract by several readers is the extract by one; and what an earlier one tells of where to cut."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarisk import lake
from metarisk.domain import DataError, KeyRanges, Portfolio
from tests.unit.lake_examples import AS_OF, PORTFOLIO, extracted, good

SPLIT = replace(PORTFOLIO, source=replace(PORTFOLIO.source, partitions=4))


def by(readers: Sequence[pa.RecordBatchReader], root: Path, told: list[tuple[int, int, str]] | None = None) -> str:
    """The hash of the extract that the readers give together."""
    seen = [] if told is None else told

    def progress(done: int, total: int, note: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append((done, total, note))

    done = lake.extract(readers, PORTFOLIO, AS_OF, root, "q" * 64, memory_mb=256, threads=1, progress=progress)
    return done.extract_hash


def parts(table: pa.Table, bounds: Sequence[int]) -> list[pa.RecordBatchReader]:
    """Readers of the rows between the bounds, in small batches."""
    return [
        pa.RecordBatchReader.from_batches(table.schema, table.slice(low, high - low).to_batches(100))
        for low, high in itertools.pairwise(bounds)
    ]


def test_several_readers_give_the_extract_of_one_to_the_bit(tmp_path: Path) -> None:
    rows = good(2_000)
    nan = [float("nan") if number % 400 == 0 else float(number) for number in range(2_000)]
    regions = [None if number % 300 == 0 else "north" for number in range(2_000)]
    table = pa.table(rows | {"income": pa.array(nan), "region": pa.array(regions)})
    plain = extracted(table, tmp_path)
    assert (plain.not_finite, plain.missing_segment) == ({"income": 5}, {"region": 7})
    told: list[tuple[int, int, str]] = []
    # One of them has no rows at all.
    assert by(parts(table, [0, 700, 700, 1_950, 2_000]), tmp_path / "parts", told) == plain.extract_hash
    read = [done for done, total, note in told if (total, note) == (0, "extracting")]
    assert read == sorted(read)
    assert read[-1] == 2_000


def test_bad_rows_are_told_of_all_readers_together(tmp_path: Path) -> None:
    table = pa.table(good(900))
    ids = table["id"].to_pylist()
    for number, value, said in (
        (0, None, "1 of 900 rows have no value"),
        (899, ids[0], f"more than once for {ids[0]}"),
    ):
        changed = table.set_column(0, "id", pa.array([*ids[:number], value, *ids[number + 1 :]]))
        with pytest.raises(DataError, match=said):
            by(parts(changed, [0, 300, 600, 900]), tmp_path)
    assert list((tmp_path / "book" / "2025-06-30").iterdir()) == []


def test_the_first_error_stops_the_other_readers_and_is_the_one_told(tmp_path: Path) -> None:
    table = pa.table(good(200))
    begun, given = threading.Event(), itertools.count()

    def endless() -> Iterator[pa.RecordBatch]:
        while True:
            next(given)
            begun.set()
            yield table.to_batches()[0]

    def broken() -> Iterator[pa.RecordBatch]:
        begun.wait()
        yield table.to_batches()[0]
        raise OSError("the source went away")

    readers = [pa.RecordBatchReader.from_batches(table.schema, rows()) for rows in (endless, broken, endless)]
    with pytest.raises(OSError, match="the source went away"):
        by(readers, tmp_path)
    assert list((tmp_path / "book" / "2025-06-30").iterdir()) == []
    stopped = next(given)
    assert next(given) == stopped + 1


# where to cut


def extract_of(keys: Sequence[str], root: Path, as_of: date = AS_OF) -> lake.Extract:
    table = pa.table(good(len(keys)) | {"id": pa.array(keys)})
    return lake.extract(
        [table.to_reader()], PORTFOLIO, as_of, root, "q" * 64, memory_mb=256, threads=1, progress=lambda *_: None
    )


def test_the_newest_extract_that_can_be_read_says_where_to_cut(tmp_path: Path) -> None:
    assert lake.key_ranges(SPLIT, tmp_path) == KeyRanges("id", 4)
    made = [extract_of([f"{name}{n}" for n in range(9)], tmp_path, day) for name, day in DAYS]
    newest_first = [tuple(f"{name}{n}" for n in range(9)) for name, _ in reversed(DAYS)]
    for found, keys in zip(reversed(made), newest_first, strict=True):
        assert lake.key_ranges(SPLIT, tmp_path) == KeyRanges("id", 4, keys)
        damage(found.directory)
    assert lake.key_ranges(SPLIT, tmp_path) == KeyRanges("id", 4)


DAYS = [("e", date(2024, 12, 31)), ("d", date(2025, 1, 2)), ("c", date(2025, 3, 31)), ("b", date(2025, 4, 1))]
DAMAGES = itertools.cycle(["no manifest", "no file", "cut", "no column"])


def damage(folder: Path) -> None:
    """Make a folder unreadable, each time in another way."""
    how, part = next(DAMAGES), folder / "part-00000.parquet"
    if how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "no file":
        part.unlink()
    elif how == "cut":
        part.write_bytes(part.read_bytes()[:-100])
    else:
        pq.write_table(pq.read_table(part).drop_columns(["id"]), part)


def test_one_reader_needs_no_sample(tmp_path: Path) -> None:
    extract_of(["a", "b"], tmp_path)
    assert lake.key_ranges(PORTFOLIO, tmp_path) == KeyRanges("id", 1)
    shutil.rmtree(tmp_path / "book")
    assert lake.key_ranges(SPLIT, tmp_path) == KeyRanges("id", 4)


def test_a_sample_is_small_and_evenly_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarisk.lake.extracts._GROUP_ROWS", 50)
    monkeypatch.setattr("metarisk.lake.extracts._PART_GROUPS", 4)
    monkeypatch.setattr("metarisk.lake.sampling._GROUPS", 8)
    monkeypatch.setattr("metarisk.lake.sampling._VALUES", 40)
    keys = [f"{number:05}" for number in range(1_530)]
    assert len(extract_of(keys, tmp_path).paths) == 8  # 31 groups, of which every fourth is read
    sample = lake.key_ranges(SPLIT, tmp_path).sample
    assert len(sample) == 40
    assert {int(key) // 50 for key in sample} == set(range(0, 31, 4))
    assert all(abs(int(sample[place]) - 1_530 * place / 40) < 200 for place in range(40))


def test_of_an_entity_that_comes_often_the_sample_holds_more(tmp_path: Path) -> None:
    columns = replace(PORTFOLIO.columns, event_date=None, exit_date=None, value="income")
    portfolio: Portfolio = replace(SPLIT, columns=columns, features={"channel": PORTFOLIO.features["channel"]})
    extracted(pa.table(good(100) | {"id": pa.array(["a"] * 90 + ["b"] * 10)}), tmp_path, portfolio)
    assert lake.key_ranges(portfolio, tmp_path).sample == ("a",) * 90 + ("b",) * 10
