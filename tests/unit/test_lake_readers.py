"""An extract by several readers is the extract by one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from metarisk import lake
from metarisk.domain import DataError
from tests.unit.lake_examples import AS_OF, PORTFOLIO, extracted, good


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
