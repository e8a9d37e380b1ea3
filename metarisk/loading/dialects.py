"""Delimiter, quotes and header of a text file, by DuckDB's sniffer."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import duckdb

from metarisk.domain import ConfigError, DataError
from metarisk.loading.model import Options
from metarisk.loading.scratch import FAILED

_DELIMITERS = {",": "comma", ";": ";", "\t": "tab", "|": "|"}
_WORDS = {"comma": ",", "tab": "\t", "\\t": "\t", "pipe": "|", "semicolon": ";", "space": " "}
_HEAD_LINES = 100  # far more than any title above a header
_SPREAD_LINES = 200  # from all over the file: a second delimiter hardly cuts all of them alike by chance
_BLOCK = 2**20  # bytes of a read: 1 MiB keeps memory small and reads few
_FIRST_ROWS = 20_480  # what DuckDB's sniffer reads by default
LONGEST_ROW = 2**20
"""Characters; a longer row is taken for a quote that never closes."""
_LINE_BYTES = 5 * LONGEST_ROW
"""A character has four bytes at most; a cell in quotes has some more. DuckDB's buffers follow from it."""


@contextmanager
def long_cells() -> Iterator[None]:
    """Python's reader, which takes 131,072 characters of a cell at most, takes those of a longest row."""
    limit = csv.field_size_limit(2 * LONGEST_ROW)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


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
        with long_cells():
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
    """The dialect of a UTF-8 file, by all lines if `whole`, or if another quote comes late, else by the first ones.

    What fits all lines fits the first ones, so that more lines can only refute what these show, which reading does, or
    show another quote.

    Raises:
        ConfigError: a delimiter or quote of more than one character.
        DataError: a file in which nothing, or more than one character, separates the columns of its header.
    """
    delimiter, quote, escape, header, skip, columns = _sniffed(connection, path, options, whole=whole)
    if not whole and options.quote is None and _quoted_otherwise(path, delimiter, quote):
        delimiter, quote, escape, header, skip, columns = _sniffed(connection, path, options, whole=True)
    quote = '"' if quote in ("(empty)", "") else quote
    quote = quote if options.quote is None else "" if options.quote == "none" else options.quote
    # What is said holds, too, where the sniffer finds nothing with it.
    delimiter, header = _delimiter(options) or delimiter, header if options.header is None else options.header
    dialect = Dialect(delimiter, quote, quote if escape in ("(empty)", "") else escape, bool(header), int(skip))
    if options.delimiter is None:
        ask = _ask if columns == 1 else _ask_which
        ask(dialect, path, name)
    return dialect


def _sniffed(connection: duckdb.DuckDBPyConnection, path: Path, options: Options, *, whole: bool) -> tuple[Any, ...]:
    """Delimiter, quote, escape, header, lines above it and columns, as DuckDB finds them."""
    given, best = _given(options), None
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
        except FAILED:
            continue
        assert found is not None  # noqa: S101
        best = best or found
        if found[5] > 1:
            best = found
            break
    return best or (",", '"', '"', True, 0, 1)


def _quoted_otherwise(path: Path, delimiter: str, quote: str) -> bool:
    """Whether cells begin with the quote that the first lines did not show; double quotes are no surprise."""
    other = ('"' if quote == "'" else "'").encode()
    before, last = (delimiter.encode() + other, b"\n" + other), b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if last + block[:1] in before or any(mark in block for mark in before):
                return True
            last = block[-1:]
    return False


def head(path: Path) -> list[str]:
    """The first lines of a UTF-8 file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [line for line, _ in zip(iter(lambda: file.readline(LONGEST_ROW), ""), range(_HEAD_LINES), strict=False)]


def _spread(path: Path) -> Iterator[str]:
    """Lines from all over a UTF-8 file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for part in range(1, _SPREAD_LINES):
            file.seek(size * part // _SPREAD_LINES)
            file.readline(LONGEST_ROW)  # the end of one
            if line := file.readline(LONGEST_ROW):
                yield line.decode(errors="replace").partition("\r")[0]


def _delimiter(options: Options) -> str | None:
    if options.delimiter is None:
        return None
    delimiter = _WORDS.get(options.delimiter.lower(), options.delimiter)
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ConfigError(f"{options.delimiter!r} cannot separate cells", remedy="use one character, or tab")
    return delimiter


def _given(options: Options) -> list[str]:
    given = []
    if delimiter := _delimiter(options):
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


def _ask_which(dialect: Dialect, path: Path, name: str) -> None:
    """Where two characters cut every line, that of the header too, into one number of cells, a person is asked."""
    lines = [line for line in [*head(path)[dialect.skip :], *_spread(path)] if line.strip()]
    for mark, shown in _DELIMITERS.items():
        counts = {len(row) for row in replace(dialect, delimiter=mark).rows(lines)}
        if mark != dialect.delimiter and len(counts) == 1 and counts != {1}:
            asked = [_DELIMITERS.get(dialect.delimiter, dialect.delimiter), shown]
            raise DataError(
                f"{name} may be separated by {' or by '.join(asked)}: every line has cells by both",
                remedy=f"say --delimiter '{asked[0]}' or --delimiter '{asked[1]}'",
            )


def literal(text: str) -> str:
    """The text as an SQL literal of DuckDB."""
    return "'" + text.replace("'", "''") + "'"
