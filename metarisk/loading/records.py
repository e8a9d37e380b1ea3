"""Newline-delimited JSON and Excel as relations of text columns: row by row, spooled to Parquet."""

import json
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metarisk.domain import ConfigError, DataError, did_you_mean
from metarisk.loading.cells import Cells
from metarisk.loading.model import Options, counted
from metarisk.loading.rejects import Rejects
from metarisk.loading.texts import open_text, unusable

_BATCH_ROWS = 50_000  # rows held at a time as Python objects


class _Spool:
    """Rows of text cells on their way to Parquet; columns appear as rows name them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._rows, self._files = folder, list[dict[Any, str]](), 0
        self.positions: dict[Any, int] = {}

    def add(self, row: dict[Any, str]) -> None:
        """One row, by the key of each of its columns."""
        for key in row:
            self.positions.setdefault(key, len(self.positions))
        self._rows.append(row)
        if len(self._rows) == _BATCH_ROWS:
            self._write()

    def relation(self) -> str:
        """All rows as a relation c0, c1, ... in SQL."""
        self._write()
        columns = ", ".join(f"c{at}" for at in self.positions.values()) or "NULL AS c0"
        files = str(self._folder / "*.parquet").replace("'", "''")
        return f"(SELECT {columns} FROM read_parquet('{files}', union_by_name = true))"  # noqa: S608

    def _write(self) -> None:
        columns = {
            f"c{at}": pa.array([row.get(key) for row in self._rows], pa.string()) for key, at in self.positions.items()
        }
        table = pa.table(columns or {"c0": pa.nulls(len(self._rows), pa.string())})
        pq.write_table(table, self._folder / f"{self._files:06}.parquet")
        self._rows, self._files = [], self._files + 1


class _Wrong(Exception):
    """Why a line is no row."""


def read_json_lines(path: Path, options: Options, scratch: Path, rejects: Rejects) -> Cells:
    """One JSON object a line; numbers keep their digits.

    Raises:
        DataError: the file is empty, or one JSON document of several lines.
    """
    text = open_text(path, options.encoding, scratch.with_suffix(".txt"))
    spool, nested, rows = _Spool(scratch.with_suffix(".cells")), dict[str, int](), 0
    with text.lines() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _object(line)
            except _Wrong as error:
                if not rows:
                    _no_document(path, line)
                rejects.add(path.name, f"line {number}", str(error), line)
                continue
            rows += 1
            spool.add(dict(_cells_of(row, "", options.flatten, nested)))
    if not rows and not rejects.count:
        raise DataError(f"{path.name} is empty", remedy="load a file with rows")
    relation = spool.relation()
    left_out = {name: f"nested in {counted(count, 'row')}; --flatten loads it" for name, count in nested.items()}
    names = list(spool.positions)
    positions = [at for at, name in enumerate(names) if name not in nested]
    return Cells(f"JSON lines, {text.encoding_name}", list(names), relation, [], left_out, positions)


def _no_document(path: Path, line: str) -> None:
    if line.strip() in ("[", "{") or line.lstrip().startswith("["):
        raise DataError(
            f"{path.name} is one JSON document, not one object a line",
            remedy=f"write its objects a line each, as `jq -c '.[]' {path.name}` does",
        )


def _object(line: str) -> dict[str, Any]:
    if unusable(line):
        raise _Wrong("a NUL, or bytes that the encoding does not know")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(found)
        if len(row) != len(found):
            raise _Wrong("a key comes twice")
        return row

    try:
        row = json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=str, object_pairs_hook=pairs)
    except RecursionError:
        raise _Wrong("nested too deeply") from None
    except ValueError as error:
        raise _Wrong(f"no JSON ({error})") from None
    if not isinstance(row, dict):
        raise _Wrong("no JSON object")
    return row


class _Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


def _cells_of(row: dict[str, Any], prefix: str, flatten: bool, nested: dict[str, int]) -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and flatten:
            yield from _cells_of(value, f"{name}_", flatten, nested)
        elif isinstance(value, dict | list) and not flatten:
            nested[name] = nested.get(name, 0) + 1
            yield name, ""
        elif isinstance(value, dict | list):
            yield name, _written(value)
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif value is not None:
            yield name, _storable(value)
        else:
            yield name, ""


def _storable(value: str) -> str:
    if unusable(value):
        raise _Wrong("a NUL or half a character pair")
    return value


def _written(value: Any) -> str:
    """JSON text with numbers as they came."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return str(value) if isinstance(value, _Number) else json.dumps(value)


def read_sheet(path: Path, options: Options, scratch: Path, rejects: Rejects) -> Cells:
    """A sheet of an Excel workbook: the first that has rows, or `options.sheet`.

    Raises:
        ConfigError: no such sheet.
        DataError: no workbook that can be read, or one without rows.
    """
    import openpyxl

    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which no cell needs
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            sheet, rows = _sheet(book, path, options, notes)
            spool, names = _spooled(rows, path, options, scratch, rejects, notes)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{path.name} is no workbook that can be read ({error})", remedy="save it as .xlsx, without a password"
        ) from None
    relation = spool.relation()
    filled = [position for position in range(len(names)) if names[position] is not None or position in spool.positions]
    columns = ", ".join(
        f"c{spool.positions[at]} AS c{at}" if at in spool.positions else f"NULL::VARCHAR AS c{at}"
        for at in range(len(names))
    )
    return Cells(f"Excel, sheet {sheet}", names, f"(SELECT {columns} FROM {relation})", notes, positions=filled)  # noqa: S608


Row = tuple[int, list[str]]


def _sheet(book: Any, path: Path, options: Options, notes: list[str]) -> tuple[str, Iterator[Row]]:
    names = [sheet.title for sheet in book.worksheets]
    if options.sheet is not None and options.sheet not in names:
        raise ConfigError(
            f"{path.name} has no sheet {options.sheet!r}{did_you_mean(options.sheet, names)}",
            remedy=f"use one of {', '.join(names)}",
        )
    chosen = names if options.sheet is None else [options.sheet]
    for name in chosen:
        rows = _filled(book[name].iter_rows(values_only=True))
        if (first := next(rows, None)) is not None:
            if options.sheet is None and len(names) > 1:
                notes.append(f"of the sheets {', '.join(names)} only {name} is loaded; --sheet names another")
            return name, chain([first], rows)
    raise DataError(f"{path.name} has no rows", remedy="load a workbook with a header and rows")


def _filled(rows: Iterable[tuple[Any, ...]]) -> Iterator[Row]:
    """Rows with anything in them, with their numbers, without the empty cells at their end."""
    for number, row in enumerate(rows, start=1):
        cells = [_cell(value) for value in row]
        while cells and not cells[-1].strip():
            cells.pop()
        if cells:
            yield number, cells


def _spooled(
    rows: Iterator[Row], path: Path, options: Options, scratch: Path, rejects: Rejects, notes: list[str]
) -> tuple[_Spool, list[str | None]]:
    ahead = [row for row, _ in zip(rows, range(100), strict=False)]
    width = max(len(cells) for _, cells in ahead)
    # Titles above a table fill a cell or two.
    start = next(at for at, (_, cells) in enumerate(ahead) if 2 * sum(map(bool, cells)) >= width)
    if start:
        notes.append(f"not in the table: {counted(start, 'row')} above the header, {' '.join(ahead[0][1])[:80]!r}")
    ahead = ahead[start:]
    headed = options.header is not False
    names: list[str | None] = [name or None for name in ahead[0][1]] if headed else []
    names += [None] * (max(len(cells) for _, cells in ahead) - len(names))
    spool = _Spool(scratch.with_suffix(".cells"))
    for number, cells in chain(ahead[headed:], rows):
        _spool_row(spool, number, cells, len(names), path, rejects)
    return spool, names


def _spool_row(spool: _Spool, number: int, cells: list[str], width: int, path: Path, rejects: Rejects) -> None:
    if len(cells) > width:
        rejects.add(
            path.name, f"line {number}", f"{counted(len(cells), 'cell')} where the header has {width}", ",".join(cells)
        )
    elif any(map(unusable, cells)):
        rejects.add(path.name, f"line {number}", "a character that cannot be stored", ",".join(cells))
    else:
        spool.add({at: cell for at, cell in enumerate(cells) if cell})


def _cell(value: Any) -> str:
    """A cell as text that reads back as what it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    return str(value)
