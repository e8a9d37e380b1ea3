"""Files as relations of text columns, and delimited text as the first of them; others are in `records`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from metarisk.domain import DataError
from metarisk.loading.dialects import Dialect, found_dialect, head
from metarisk.loading.exact import NORMAL, read_exactly
from metarisk.loading.model import Options, counted
from metarisk.loading.rejects import Rejects
from metarisk.loading.scratch import one_row
from metarisk.loading.texts import Text, open_text


@dataclass
class Cells:
    """One file as a relation of text columns c0, c1, ... in SQL."""

    kind: str
    raw_names: list[str | None]
    relation: str
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    positions: list[int] | None = None
    """The columns that are loaded; None: all."""
    point: bool = True
    """Whether a decimal comma is out of the question."""


@dataclass
class TextFile:
    """A file of delimited text: read by DuckDB while nothing speaks against it, else row by row."""

    text: Text
    dialect: Dialect
    names: list[str | None]
    scratch: Path
    exactly: bool = False

    @classmethod
    def open(
        cls, connection: duckdb.DuckDBPyConnection, path: Path, options: Options, scratch: Path, *, whole: bool = False
    ) -> TextFile:
        """Find encoding, dialect and names, by all lines if `whole`. Raises DataError for an empty file."""
        text = open_text(path, options.encoding, scratch.with_suffix(".txt"))
        dialect = found_dialect(connection, text.plain, path.name, options, whole=whole or not text.clean)
        lines = dialect.rows(head(text.plain)[dialect.skip :])
        first = next((row for row in lines if any(cell.strip() for cell in row)), None)
        if first is None:
            raise DataError(f"{path.name} is empty", remedy="load a file with a header and rows")
        names: list[str | None] = list(first) if dialect.header else [None] * len(first)
        # Of a file of one column DuckDB takes blank lines for rows.
        return cls(
            text, dialect, names, scratch.with_suffix(".csv"), exactly=whole or not text.clean or len(names) == 1
        )

    def cells(self, rejects: Rejects) -> Cells:
        """The file as a relation; rows that are none are rejected if it is read exactly."""
        kind = f"{self.text.encoding_name}, {self.dialect}"
        notes = [] if self.dialect.header else ["there is no header, so columns are numbered"]
        if self.dialect.skip:
            above = "".join(head(self.text.plain)[: self.dialect.skip])
            notes.append(
                f"not in the table: {counted(self.dialect.skip, 'line')} above the header, {above.strip()[:80]!r}"
            )
        if len(self.names) == 1:
            notes.append("every line is one cell; --delimiter says otherwise")
        if self.text.encoding == "cp1252":
            notes.append("bytes that are no UTF-8 are read as Windows-1252; --encoding says otherwise")
        if self.exactly:
            good, rows = read_exactly(self.text, self.dialect, len(self.names), self.scratch, rejects)
            if rows and not good:
                raise DataError(
                    f"no row of {self.text.path.name} has {counted(len(self.names), 'cell')}, as its header has "
                    f"({kind}; {rejects.first[0].place} has {rejects.first[0].why})",
                    remedy="correct the header, or say --delimiter, --quote or --header",
                )
            relation = NORMAL.relation(self.scratch, len(self.names))
        else:
            relation = self.dialect.relation(self.text.plain, len(self.names))
        return Cells(kind, self.names, relation, notes, point=self.dialect.delimiter == ",")

    def holds(self, connection: duckdb.DuckDBPyConnection, rows: int | None) -> bool:
        """Whether the rows (None: as DuckDB counts them), their header and the breaks in cells are all of the lines."""
        if self.exactly:
            return True
        relation = self.dialect.relation(self.text.plain, len(self.names))
        outside = self.text.breaks - self.dialect.header - self.dialect.skip
        if rows == outside:
            return True
        columns = range(len(self.names))
        breaks = " + ".join(f"coalesce(length(c{n}) - length(replace(c{n}, chr(10), '')), 0)" for n in columns)
        (inside,) = one_row(connection, f"SELECT count(*) + sum({breaks}) FROM {relation}")  # noqa: S608
        return bool(inside == outside)
