"""What becomes of each column: its SQL, its type, and what is told of it; of Parquet by its own types."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from metarisk.domain import ConfigError, did_you_mean
from metarisk.loading.deciding import Decided, decide
from metarisk.loading.model import Options, Understood, Wanted, counted
from metarisk.loading.naming import column_names
from metarisk.loading.readings import TEXT
from metarisk.loading.scratch import one_row
from metarisk.loading.typed import WHOLE, TypedColumn, read_parquet


@dataclass
class Planned:
    """A column as it will be loaded."""

    name: str
    value: str
    type: str
    raw: str
    """SQL of what the file holds."""
    conversion: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What of `conversion` is told as a note, too."""
    unfit: str | None = None
    """SQL of whether a row's value cannot be of the wanted type."""
    unfit_rows: int = 0
    seen: Decided | None = None


def planned(column: Decided) -> Planned:
    """A column of cells as it was decided."""
    assert column.reading is not None  # noqa: S101
    reading, wanted = column.reading, column.wanted
    # DECIMAL alone is of the scale that its values have.
    kind = wanted.type if wanted is not None and wanted.type != "DECIMAL" else reading.type
    value = column.value if kind == reading.type else f"CAST({column.value} AS {kind})"
    unfit = column.is_unfit if column.unfit else None
    means = [] if reading is TEXT and column.present else [reading.means or "no value"]
    told = [*means, *column.notes, *column.warnings]
    return Planned(column.name, value, kind, column.cell, told, column.warnings, unfit, column.unfit, column)


def typed_plan(
    connection: duckdb.DuckDBPyConnection, files: list[Path], root: Path, options: Options, found: Understood
) -> tuple[str, int, list[Planned]]:
    """Parquet as a relation, its rows, and its columns. Raises ConfigError for types of columns that it lacks."""
    typed = read_parquet(connection, files, root, flatten=options.flatten)
    found.left_out |= typed.left_out
    names, notes = column_names([column.raw_name for column in typed.columns])
    found.notes += notes
    check_names(options, names)
    read = {
        at
        for at, column in enumerate(typed.columns)
        if column.is_cell or (column.type == "VARCHAR" and names[at] in options.wanted)
    }
    # What is text there and was asked to be something else is read as cells are.
    cells = ", ".join(
        f"{column.value} AS c{at}" if at in read else f"NULL::VARCHAR AS c{at}"
        for at, column in enumerate(typed.columns)
    )
    relation = f"(SELECT {cells} FROM {typed.relation})"  # noqa: S608
    rows, decided = decide(connection, relation, names, sorted(read), options.wanted, point=True)
    by_position = {column.position: column for column in decided}
    columns = []
    for at, column in enumerate(typed.columns):
        if at not in by_position:
            columns.append(_typed_column(connection, typed.relation, names[at], column, options))
            continue
        cell = planned(by_position[at])
        # There a cell has the name of its place; here it is what the file holds there.
        cell.value, cell.raw = re.sub(rf"\bc{at}\b", column.value, cell.value), column.raw
        cell.unfit = re.sub(rf"\bc{at}\b", column.value, cell.unfit) if cell.unfit else None
        columns.append(cell)
    return typed.relation, rows, columns


def _typed_column(
    connection: duckdb.DuckDBPyConnection, relation: str, name: str, column: TypedColumn, options: Options
) -> Planned:
    value, kind, notes = column.value, column.type, list[str]()
    warnings = ["nanoseconds in the file, of which whole microseconds are read"] if column.is_fine else []
    wanted = options.wanted.get(name)
    if wanted is not None and wanted.type == "DECIMAL":
        own = column.written.startswith("DECIMAL")
        wanted = Wanted(
            column.written if own else "DECIMAL(38, 10)" if "DOUBLE" in kind or "FLOAT" in kind else "DECIMAL(38, 0)"
        )
    if wanted is not None:
        cast = f"TRY_CAST({value} AS {wanted.type})"
        back = f"TRY_CAST({cast} AS {column.written})"
        unfit = f"({value} IS NOT NULL AND ({cast} IS NULL OR {back} IS DISTINCT FROM {value}))"
        (count,) = one_row(connection, f"SELECT count(*) FILTER (WHERE {unfit}) FROM {relation}")  # noqa: S608
        told = [f"{column.written}, as asked", *warnings]
        return Planned(name, cast, wanted.type, column.raw, told, warnings, unfit if count else None, count)
    if kind == WHOLE:
        fitting = f"count({value}) = count(TRY_CAST({value} AS BIGINT))"
        (fits,) = one_row(connection, f"SELECT {fitting} FROM {relation}")  # noqa: S608
        kind = "BIGINT" if fits else "VARCHAR"
        value = f"CAST({value} AS {kind})"
        notes = [column.written if fits else f"{column.written}: beyond 64 bits, kept digit by digit"]
    elif column.written == "TIMESTAMP_NS":
        finer = f"count(*) FILTER (WHERE epoch_ns({column.raw}) % 1000 <> 0)"
        (lost,) = one_row(connection, f"SELECT {finer} FROM {relation}")  # noqa: S608
        warnings = [f"{counted(lost, 'time')} finer than a microsecond, cut there"] if lost else []
    elif kind != column.written:
        notes = [column.written.lower()]
    return Planned(name, value, kind, column.raw, [*notes, *warnings], warnings)


def check_names(options: Options, names: Sequence[str]) -> None:
    """Raises ConfigError where a type is asked for a column that is not there."""
    for name in options.types:
        if name not in names:
            raise ConfigError(
                f"there is no column {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}",
                remedy="correct --types",
            )
