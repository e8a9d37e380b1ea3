"""Files as a table that can be loaded: what is in them, decided over all rows, and a stream of typed batches."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from metarisk.domain import DataError, quoted
from metarisk.loading.cells import Cells, TextFile
from metarisk.loading.deciding import decide
from metarisk.loading.dialects import literal
from metarisk.loading.model import Column, Limits, Options, Understood, counted
from metarisk.loading.naming import column_names
from metarisk.loading.places import files_of, kind_of
from metarisk.loading.planning import Planned, check_names, planned, typed_plan
from metarisk.loading.records import read_json_lines, read_sheet
from metarisk.loading.rejects import Rejects
from metarisk.loading.scratch import FAILED, explained, one_row, scratch_connection
from metarisk.loading.typed import folder_values

_EXACT_DISTINCT = 100_000
"""Rows up to which distinct values are counted one by one; above, they are estimated."""
_LONGEST_EXAMPLE = 30  # characters that leave the table of columns readable


@dataclass
class Table:
    """What was understood of files, and their rows as batches."""

    understood: Understood
    rejects: Rejects
    _connection: duckdb.DuckDBPyConnection
    _relation: str
    _columns: Sequence[Planned]

    def reader(self) -> pa.RecordBatchReader:
        """The rows that are loaded, in the order of the files."""
        kept = f" WHERE NOT ({_unfit(self._columns)})" if any(column.unfit for column in self._columns) else ""
        return self._connection.execute(
            f"SELECT {_selected(self._columns)} FROM {self._relation}{kept}"  # noqa: S608
        ).to_arrow_reader(65_536)


@contextmanager
def open_table(places: Sequence[str], options: Options, limits: Limits) -> Iterator[Table]:
    """Read files, folders or patterns of files as one table.

    Args:
        places: paths; a folder stands for the files in it, a pattern (`*`, `?`, `**`) for those that it names.
        options: what somebody says about them.
        limits: threads, memory, and a folder for what is decoded; nothing is left in it.

    Yields:
        The table; its reader works while the context is open.

    Raises:
        ConfigError: no such file, files of several kinds, or an option that fits nothing.
        DataError: a file that cannot be read, cells that can be read in several ways, cells that are not of a wanted
            type, or, unless rejects are kept, rows that cannot be read.
    """
    files, root = files_of(places)
    limits.scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(dir=limits.scratch))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        connection = stack.enter_context(scratch_connection(limits, scratch))
        rejects = stack.enter_context(Rejects(scratch / "rejects.csv"))
        try:
            table = _understand(connection, files, root, options, scratch, rejects)
            _refuse(table, options)
            yield table
        except FAILED as error:
            raise explained(error, files) from None


def _understand(
    connection: duckdb.DuckDBPyConnection,
    files: list[Path],
    root: Path,
    options: Options,
    scratch: Path,
    rejects: Rejects,
) -> Table:
    kind = kind_of(files)
    found = Understood([str(file) for file in files], kind)
    if kind == "parquet":
        relation, rows, columns = typed_plan(connection, files, root, options, found)
        found.kind = "Parquet"
    else:
        relation, rows, columns = _cells_plan(connection, files, root, kind, options, scratch, rejects, found)
    if not columns:
        raise DataError("there is no column to load", remedy="give the file a header, or say --flatten")
    found.rows = rows
    found.notes += [f"column {column.name}: {warning}" for column in columns for warning in column.warnings]
    _set_aside(connection, relation, columns, rejects, found, options)
    found.rejected, found.rejects = rejects.count, rejects.first
    found.columns = _described(connection, relation, columns, rows, found.rows)
    return Table(found, rejects, connection, relation, columns)


def _cells_plan(
    connection: duckdb.DuckDBPyConnection,
    files: list[Path],
    root: Path,
    kind: str,
    options: Options,
    scratch: Path,
    rejects: Rejects,
    found: Understood,
) -> tuple[str, int, list[Planned]]:
    """Delimited text is read by DuckDB; where that fails, or misses a line, it is read again row by row."""
    texts: list[TextFile] = []
    others: list[Cells] = []
    for number, file in enumerate(files):
        own = scratch / f"file-{number}"
        if kind == "text":
            texts.append(TextFile.open(connection, file, options, own))
        else:
            others.append((read_json_lines if kind == "json" else read_sheet)(file, options, own, rejects))
    while True:
        cells = [text.cells(rejects) for text in texts] if texts else others
        relation, names, positions = _together(cells, files, root)
        check_names(options, names)
        point = all(one.point for one in cells)
        try:
            rows, decided = decide(connection, relation, names, positions, options.wanted, point=point)
            if all(text.holds(connection, rows if len(texts) == 1 else None) for text in texts):
                break
        except FAILED:
            if all(text.exactly for text in texts):
                raise
        again = zip(files, range(len(files)), strict=True)
        texts = [TextFile.open(connection, file, options, scratch / f"again-{at}", whole=True) for file, at in again]
    found.kind = "; ".join(dict.fromkeys(one.kind for one in cells))
    found.notes += [note for one in cells for note in one.notes]
    found.notes += column_names(cells[0].raw_names)[1]
    for one in cells:
        found.left_out |= one.left_out
    return relation, rows, [planned(column) for column in decided]


def _together(cells: Sequence[Cells], files: Sequence[Path], root: Path) -> tuple[str, list[str], list[int]]:
    """One relation of the files' rows, its names, and the columns that are loaded; folders (`region=north/`) give some.

    Raises DataError where files name other columns.
    """
    first, folders = cells[0], [folder_values(file, root) for file in files]
    for one, file, values in zip(cells[1:], files[1:], folders[1:], strict=True):
        if one.raw_names != first.raw_names or list(values) != list(folders[0]):
            raise DataError(
                f"{files[0].name} has the columns {', '.join(map(str, [*first.raw_names, *folders[0]]))}, "
                f"{file.name} has {', '.join(map(str, [*one.raw_names, *values]))}",
                remedy="load files of the same columns in the same order at a time",
            )
        if one.positions != first.positions:
            raise DataError(
                f"{files[0].name} and {file.name} leave out other columns",
                remedy="say --flatten, or load them one by one",
            )
    width, parts = len(first.raw_names), []
    for one, values in zip(cells, folders, strict=True):
        more = "".join(f", {literal(value)} AS c{width + at}" for at, value in enumerate(values.values()))
        parts.append(f"SELECT *{more} FROM {one.relation}")  # noqa: S608
    relation = f"({' UNION ALL '.join(parts)})" if len(parts) > 1 or folders[0] else first.relation
    positions = list(range(width)) if first.positions is None else first.positions
    names = column_names([*first.raw_names, *folders[0]])[0]
    return relation, names, [*positions, *range(width, len(names))]


def _set_aside(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    columns: Sequence[Planned],
    rejects: Rejects,
    found: Understood,
    options: Options,
) -> None:
    """Rows with a value that is not of a wanted type go to the rejects; unless they are kept, the first ones only."""
    unfit = [column for column in columns if column.unfit]
    if not unfit:
        return
    if not options.keep_rejects:
        worst = max(unfit, key=lambda column: column.unfit_rows)
        rows = connection.execute(
            f"SELECT row, {worst.raw} FROM (SELECT row_number() OVER () AS row, * FROM {relation}) "  # noqa: S608
            f"WHERE {worst.unfit} LIMIT 3"
        ).fetchall()
        raise DataError(
            f"no {worst.type} in {worst.unfit_rows:,} of {counted(found.rows, 'row')}: "
            + ", ".join(f"{value!r} (row {row})" for row, value in rows),
            column=worst.name,
            remedy="correct them, leave the type out, or say --rejects FILE to set their rows aside",
        )
    flags = ", ".join(str(column.unfit) for column in unfit)
    raw = ", ".join(f"CAST({column.raw} AS VARCHAR)" for column in columns)
    reader = connection.cursor().execute(
        f"SELECT row, [{flags}], [{raw}] FROM (SELECT row_number() OVER () AS row, * FROM {relation}) "  # noqa: S608
        f"WHERE {_unfit(columns)}"
    )
    name = Path(found.files[0]).name if len(found.files) == 1 else f"{len(found.files)} files"
    while block := reader.fetchmany(10_000):
        for row, wrong, cells in block:
            about = ", ".join(column.name for column, bad in zip(unfit, wrong, strict=True) if bad)
            rejects.add(name, f"row {row}", f"not of the type asked: {about}", ",".join(cell or "" for cell in cells))
            found.rows -= 1


def _described(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[Planned], rows: int, kept_rows: int
) -> list[Column]:
    """The table of what was understood; of large files with what was seen of their cells on the way."""
    exact = rows <= _EXACT_DISTINCT
    aside = any(column.unfit for column in columns)
    asked = [column for column in columns if exact or aside or column.seen is None]
    distinct = "count(DISTINCT {})" if exact else "approx_count_distinct({})"
    counted: dict[str, tuple[int, int, object]] = {
        column.name: (seen.present - seen.missing, seen.distinct, next(iter(seen.seen), None))
        for column in columns
        if (seen := column.seen) is not None
    }
    if asked:
        wanted = [
            f"count({name}), {distinct.format(name)}, any_value({name})" for name in (quoted(c.name) for c in asked)
        ]
        kept = f" WHERE NOT ({_unfit(columns)})" if aside else ""
        selected = f"SELECT {_selected(asked)} FROM {relation}{kept}"  # noqa: S608
        told = one_row(connection, f"SELECT {', '.join(wanted)} FROM ({selected})")  # noqa: S608
        for at, column in enumerate(asked):
            counted[column.name] = (told[3 * at], told[3 * at + 1], told[3 * at + 2])
    described = []
    for column in columns:
        present, different, example = counted[column.name]
        shown = "" if example is None else str(example).replace("\n", " ")
        short = shown if len(shown) <= _LONGEST_EXAMPLE else shown[: _LONGEST_EXAMPLE - 1] + "…"
        about = "; ".join(column.conversion)
        described.append(Column(column.name, column.type, kept_rows - present, different, exact, short, about))
    return described


def _refuse(table: Table, options: Options) -> None:
    rejects = table.rejects
    if rejects.count and not options.keep_rejects:
        first = "; ".join(f"{one.place}: {one.why}" for one in rejects.first)
        raise DataError(
            f"{counted(rejects.count, 'row')} of {', '.join(dict.fromkeys(one.file for one in rejects.first))} "
            f"cannot be read, {table.understood.rows:,} can ({table.understood.kind}): {first}",
            remedy="correct them, or say --rejects FILE to load the others and have these in FILE",
        )
    if not table.understood.rows:
        raise DataError(f"{table.understood.files[0]} has no rows", remedy="load a file with rows")


def _selected(columns: Sequence[Planned]) -> str:
    return ", ".join(f"{column.value} AS {quoted(column.name)}" for column in columns)


def _unfit(columns: Sequence[Planned]) -> str:
    return " OR ".join(column.unfit for column in columns if column.unfit) or "FALSE"
