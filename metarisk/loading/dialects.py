"""Delimiter, quotes and header of a text file, by DuckDB's sniffer."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from metarisk.domain import ConfigError, DataError
from metarisk.loading.model import Options

_DELIMITERS = {",": "comma", ";": ";", "\t": "tab", "|": "|"}
_WORDS = {"comma": ",", "tab": "\t", "\\t": "\t", "pipe": "|", "semicolon": ";", "space": " "}
_HEAD_LINES = 100
_FIRST_ROWS = 20_480
LONGEST_ROW = 2**20
"""Characters; a longer row is taken for a quote that never closes."""
_LINE_BYTES = 5 * LONGEST_ROW
"""A character has four bytes at most; a cell in quotes has some more. DuckDB's buffers follow from it."""


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file are cells."""

    delimiter: str
    quote: str
    """Empty: nothing is quoted."""
    escape: str
    """What makes a quote inside quotes: the quote again, or a backslash."""
    header: bool
    skip: int
    """Lines above the header, or above the first row."""

    def __str__(self) -> str:
        quoted = (
            f", quoted by {self.quote}" if self.quote not in ('"', "") else ", nothing quoted" if not self.quote else ""
        )
        return f"separated by {_DELIMITERS.get(self.delimiter, repr(self.delimiter))}{quoted}"

    def rows(self, lines: Sequence[str]) -> list[list[str]]:
        """Lines as cells, leniently."""
        if self.escape == "\\" and self.quote:
            lines = [line.replace(f"\\{self.quote}", self.quote * 2) for line in lines]
        return list(self.reader(lines))

    def reader(self, lines: Iterable[str], *, strict: bool = False) -> Iterator[list[str]]:
        """Cells of each row of lines; quotes escaped by a backslash have to be doubled before."""
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote or None, quoting=quoting, strict=strict)

    def relation(self, path: Path, columns: int) -> str:
        """SQL of a relation of text columns c0, c1, ... that raises an error at a line that does not fit."""
        kinds = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(columns))
        return (
            f"read_csv({literal(str(path))}, auto_detect = false, delim = {literal(self.delimiter)}, "
            f"quote = {literal(self.quote)}, escape = {literal(self.escape)}, header = {str(self.header).lower()}, "
            f"skip = {self.skip}, columns = {{{kinds}}}, comment = '', strict_mode = true, "
            f"max_line_size = {_LINE_BYTES}, buffer_size = {2 * _LINE_BYTES})"
        )


def found_dialect(
    connection: duckdb.DuckDBPyConnection, path: Path, name: str, options: Options, *, whole: bool
) -> Dialect:
    """The dialect of a UTF-8 file, by all of its lines if `whole`, else by the first ones; the rest must prove it.

    Raises:
        ConfigError: a delimiter or quote of more than one character.
        DataError: a file in which nothing separates the columns of its header.
    """
    given = _given(options)
    best = None
    # A file without any fault; one whose faulty lines are told later; one with lines above its header.
    for attempt in ("skip = 0", "skip = 0, ignore_errors = true", "ignore_errors = false"):
        settings = ", ".join(
            [attempt, "comment = ''", f"sample_size = {-1 if whole else _FIRST_ROWS}", "all_varchar = true", *given]
        )
        try:
            found = connection.execute(
                "SELECT Delimiter, Quote, Escape, HasHeader, SkipRows, len(Columns) "  # noqa: S608
                f"FROM sniff_csv({literal(str(path))}, {settings})"
            ).fetchone()
        except duckdb.Error:
            continue
        assert found is not None  # noqa: S101
        best = best or found
        if found[5] > 1:
            best = found
            break
    if best is None:
        best = (",", '"', '"', True, 0, 1)
    delimiter, quote, escape, header, skip, columns = best
    quote = '"' if quote in ("(empty)", "") else quote
    quote = quote if options.quote is None else "" if options.quote == "none" else options.quote
    dialect = Dialect(delimiter, quote, quote if escape in ("(empty)", "") else escape, bool(header), int(skip))
    if columns == 1 and options.delimiter is None:
        _ask(dialect, path, name)
    return dialect


def head(path: Path) -> list[str]:
    """The first lines of a UTF-8 file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [line for line, _ in zip(iter(lambda: file.readline(LONGEST_ROW), ""), range(_HEAD_LINES), strict=False)]


def _given(options: Options) -> list[str]:
    given = []
    if options.delimiter is not None:
        delimiter = _WORDS.get(options.delimiter.lower(), options.delimiter)
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise ConfigError(f"{options.delimiter!r} cannot separate cells", remedy="use one character, or tab")
        given.append(f"delim = {literal(delimiter)}")
    if options.quote not in (None, "none") and len(options.quote or "") != 1:
        raise ConfigError(f"{options.quote!r} cannot quote cells", remedy="use one character, or none")
    if options.header is not None:
        given.append(f"header = {str(options.header).lower()}")
    return given


def _ask(dialect: Dialect, path: Path, name: str) -> None:
    """A file of one column is rare, and one whose only name holds a delimiter is none."""
    first = next((line for line in head(path)[dialect.skip :] if line.strip()), "").strip("\r\n")
    inside = [mark for mark in _DELIMITERS if mark in first]
    if inside:
        mark = _DELIMITERS[inside[0]]
        raise DataError(
            f"{name} reads as one column named {first[:80]!r}: is it separated by {mark}?",
            remedy=f"say so with --delimiter '{mark}', or correct lines of another number of cells",
        )


def literal(text: str) -> str:
    """The text as an SQL literal of DuckDB."""
    return "'" + text.replace("'", "''") + "'"
