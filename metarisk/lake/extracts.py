"""The extract of a run: streams become sorted, canonical, hashed Parquet in memory that rows do not grow.

Raw batches go to disk first, so that the source is let go of before the sort; DuckDB then sorts and spills.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metarisk.domain import DataError, Portfolio, Progress, quoted
from metarisk.folders import scratch, settle, verify, write_manifest
from metarisk.lake.columns import LONGEST_TEXT, Kind, Notes, canonical, canonical_schema, check_schema, key_columns

_GROUP_ROWS = 65_536
_PART_GROUPS = 16
_COUNTS = ("not_finite", "shortened", "missing_segment")


@dataclass(frozen=True)
class Extract:
    """A whole extract on disk: `directory/part-*.parquet`, sorted by key, with its manifest."""

    directory: Path
    extract_hash: str
    """Hash of the manifest, so of content, schema and query: the same rows in any order give the same hash."""
    portfolio: str
    as_of: date
    query_hash: str
    rows: int
    columns: Mapping[str, str]
    """Canonical type of each column: string, date32[day] or double."""
    ignored: tuple[str, ...]
    """Columns of the SELECT that the portfolio does not declare; they are not kept."""
    files: Mapping[str, str]
    """SHA-256 of each file, by name."""
    not_finite: Mapping[str, int]
    """NaN and infinities that became null, by column."""
    shortened: Mapping[str, int]
    missing_segment: Mapping[str, int]

    @property
    def paths(self) -> list[Path]:
        """Parquet files, in the order of their rows."""
        return [self.directory / name for name in sorted(self.files)]

    @property
    def warnings(self) -> list[str]:
        """Sentences for the report on what had to be changed."""
        texts = {
            "not_finite": "NaN or infinite values became null",
            "shortened": f"texts of more than {LONGEST_TEXT} characters were cut",
            "missing_segment": "null segment values became a segment of their own",
        }
        changed = [
            f"column {column}: {count:,} {text}"
            for name, text in texts.items()
            for column, count in getattr(self, name).items()
        ]
        spare = [f"not declared in the TOML, so not kept: {', '.join(self.ignored)}"] if self.ignored else []
        return changed + spare


def extract(
    readers: Sequence[pa.RecordBatchReader],
    portfolio: Portfolio,
    as_of: date,
    root: Path,
    query_hash: str,
    *,
    memory_mb: int,
    threads: int,
    progress: Progress,
) -> Extract:
    """Write streams to `root/<portfolio>/<as_of>/<extract_hash>/extract/part-*.parquet`.

    Rows are sorted by key in binary order, so neither their order in the source nor how many readers bring them changes
    a bit of the result. The folder appears whole or not at all, and doing it again is a no-op.

    Args:
        readers: one or more of the same columns, each read in a thread of its own, that together are the result of the
            portfolio's extract SQL. The first error stops the others.
        portfolio: declares columns and kinds; other columns are not kept.
        as_of: date of the run.
        root: the lake.
        query_hash: SHA-256 of the SQL text, for the manifest.
        memory_mb: ceiling of the sort's memory in MiB; more spills to disk.
        threads: threads of the sort.
        progress: told (rows done, rows in all or 0 while unknown, note).

    Raises:
        DataError: a missing, doubled or retyped column, no rows, null or duplicate keys, a key of more than 1,024
            characters, a column without any value, or a full disk.
    """
    kinds = check_schema(readers[0].schema, portfolio, as_of)
    try:
        with scratch(root / portfolio.name / as_of.isoformat()) as private:
            raw = [private / f"raw-{number}.parquet" for number in range(len(readers))]
            notes = _write_raw(readers, raw, kinds, portfolio, progress)
            _check_notes(notes, portfolio, as_of)
            folder = private / "extract"
            folder.mkdir()
            with _sorted(raw, key_columns(portfolio), memory_mb, threads) as rows:
                _write_parts(_distinct(rows, portfolio, as_of), folder, notes.rows, progress)
            content = {
                "portfolio": portfolio.name,
                "as_of": as_of.isoformat(),
                "query_hash": query_hash,
                "rows": notes.rows,
                "columns": {field.name: str(field.type) for field in canonical_schema(kinds)},
                "ignored": [name for name in readers[0].schema.names if name not in kinds],
                **{name: dict(getattr(notes, name)) for name in _COUNTS},
            }
            final = private.parent / write_manifest(folder, content)[:16] / "extract"
            settle(folder, final)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"the disk of {root} is full", remedy="free space there, then run again", portfolio=portfolio.name, on=as_of
        ) from error
    return read_extract(final)


def read_extract(directory: Path) -> Extract:
    """Open an extract and hash every file of it again. Raises DataError when it is missing, truncated or damaged."""
    manifest = verify(directory)
    return Extract(
        directory=directory,
        extract_hash=directory.parent.name,
        portfolio=manifest["portfolio"],
        as_of=date.fromisoformat(manifest["as_of"]),
        query_hash=manifest["query_hash"],
        rows=manifest["rows"],
        columns=manifest["columns"],
        ignored=tuple(manifest["ignored"]),
        files=manifest["files"],
        **{name: manifest[name] for name in _COUNTS},
    )


def _write_raw(
    readers: Sequence[pa.RecordBatchReader],
    paths: Sequence[Path],
    kinds: Mapping[str, Kind],
    portfolio: Portfolio,
    progress: Progress,
) -> Notes:
    """Write each reader to a file of its own, and count what was changed in all of them."""
    # Threads tell rows and how they ended, the caller's own the progress: Prefect knows a run by its thread.
    told: SimpleQueue[int | Future[Notes]] = SimpleQueue()
    stop = threading.Event()

    def write(reader: pa.RecordBatchReader, path: Path) -> Notes:
        notes = Notes()
        with pq.ParquetWriter(path, canonical_schema(kinds), compression="lz4") as writer:
            for batch in reader:
                writer.write_batch(canonical(batch, kinds, portfolio, notes))
                told.put(batch.num_rows)
                if stop.is_set():
                    break
        return notes

    notes, done = Notes(), 0
    with ThreadPoolExecutor(len(readers)) as pool:
        running = {pool.submit(write, reader, path) for reader, path in zip(readers, paths, strict=True)}
        for future in running:
            future.add_done_callback(told.put)
        try:
            while running:
                news = told.get()
                if isinstance(news, Future):
                    notes.add(news.result())
                    running.remove(news)
                else:
                    done += news
                    progress(done, 0, "extracting")
        finally:
            stop.set()
    return notes


def _check_notes(notes: Notes, portfolio: Portfolio, as_of: date) -> None:
    columns, sql = portfolio.columns, portfolio.source.extract

    def fail(what: str, remedy: str, column: str | None = None) -> None:
        raise DataError(what, remedy=remedy, portfolio=portfolio.name, column=column, on=as_of)

    if not notes.rows:
        fail("the extract is empty", f"check the source tables and the WHERE of {sql}; is the date right?")
    for column in key_columns(portfolio):
        if nulls := notes.rows - notes.present[column]:
            fail(f"{nulls:,} of {notes.rows:,} rows have no value in this key", f"correct the source or {sql}", column)
    if cut := notes.shortened[columns.entity]:
        fail(f"{cut:,} entities are longer than {LONGEST_TEXT} characters", "correct the source's keys", columns.entity)
    for column in dict.fromkeys((columns.opened_on, *columns.segments, *portfolio.features)):
        if not notes.present[column]:
            bad = f" ({notes.not_finite[column]:,} were NaN or infinite)" if notes.not_finite[column] else ""
            fail(f"none of {notes.rows:,} rows has a value{bad}", f"correct the source or {sql}", column)


@contextmanager
def _sorted(raw: Sequence[Path], key: list[str], memory_mb: int, threads: int) -> Iterator[pa.RecordBatchReader]:
    spill = raw[0].with_name("spill")
    config: dict[str, Any] = {
        "memory_limit": f"{memory_mb}MiB",
        "threads": threads,
        "temp_directory": str(spill),
    }
    order = ", ".join(quoted(column) for column in key)
    with duckdb.connect(config=config) as connection:
        connection.execute("SET enable_progress_bar = false")
        files = {"raw": [str(path) for path in raw]}
        connection.execute(f"SELECT * FROM read_parquet($raw) ORDER BY {order}", files)  # noqa: S608
        yield connection.to_arrow_reader(_GROUP_ROWS)


def _distinct(rows: pa.RecordBatchReader, portfolio: Portfolio, as_of: date) -> Iterator[pa.RecordBatch]:
    """Pass sorted rows on. Raises DataError at the first batch that holds a key twice."""
    key = key_columns(portfolio)
    last: list[pa.Array] | None = None
    for batch in rows:
        keys = [batch.column(column) for column in key]
        if last is not None:
            keys = [pa.concat_arrays([before, now]) for before, now in zip(last, keys, strict=True)]
        same = pa.array([True] * (len(keys[0]) - 1), pa.bool_())  # of a single row there is none, and no type
        for values in keys:
            same = pc.and_(same, pc.fill_null(pc.equal(values[1:], values[:-1]), False))
        if same.true_count:
            names = keys[0][1:].filter(same).unique()[:5].to_pylist()
            raise DataError(
                f"{' and '.join(key)} must tell rows apart, and comes more than once for {', '.join(names)}",
                remedy=f"remove the duplicates in the source, or group by the key in {portfolio.source.extract}",
                portfolio=portfolio.name,
                column=portfolio.columns.entity,
                on=as_of,
            )
        last = [values[-1:] for values in keys]
        yield batch


def _write_parts(rows: Iterator[pa.RecordBatch], folder: Path, total: int, progress: Progress) -> None:
    # Groups and parts have fixed sizes: the bytes depend on the rows alone, not on how DuckDB cut its batches.
    groups, done = _groups(rows), 0
    for number, first in enumerate(groups):
        path = folder / f"part-{number:05}.parquet"
        with pq.ParquetWriter(path, first.schema, compression="zstd", compression_level=1) as writer:
            for group in chain([first], islice(groups, _PART_GROUPS - 1)):
                writer.write_table(group, row_group_size=_GROUP_ROWS)
                done += group.num_rows
                progress(done, total, "sorting")


def _groups(rows: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in rows:
        waiting.append(batch)
        count += batch.num_rows
        while count >= _GROUP_ROWS:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, _GROUP_ROWS).combine_chunks()
            waiting = table.slice(_GROUP_ROWS).to_batches()
            count -= _GROUP_ROWS
    if count:
        yield pa.Table.from_batches(waiting).combine_chunks()
