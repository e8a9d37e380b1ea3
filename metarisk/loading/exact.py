"""The exact reader of text files: row by row, and what is no row is rejected with its line.

Slower than DuckDB, and used where DuckDB refuses a file or counts other rows than it has lines: it writes the good rows
anew, so that what is read afterwards has no fault.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from metarisk.domain import DataError
from metarisk.loading.dialects import LONGEST_ROW, Dialect, long_cells
from metarisk.loading.model import counted
from metarisk.loading.rejects import Rejects
from metarisk.loading.texts import Text, unusable

NORMAL = Dialect(",", '"', '"', header=False, skip=0)
"""How the good rows are written."""
_MOST_UNCLOSED = 1_000  # typing errors are few: so many mean that nothing is quoted


class _TooLong(Exception):
    """A row does not end."""


class _Lines:
    """Lines with their numbers, of which some may be given back."""

    def __init__(self, lines: Iterator[str], dialect: Dialect) -> None:
        self._lines, self._dialect = lines, dialect
        self._back: deque[str] = deque()
        self.number = 0
        """Of the last line that was taken."""
        self.taken: list[str] = []
        self._length = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._length > LONGEST_ROW:
            raise _TooLong
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        self._length += len(line)
        self.taken.append(line)
        if self._dialect.escape == "\\" and self._dialect.quote:
            return line.replace(f"\\{self._dialect.quote}", self._dialect.quote * 2)
        return line

    def start(self) -> None:
        """A new row begins."""
        self.taken, self._length = [], 0

    def give_back(self) -> None:
        """All lines of this row but its first are to be read again."""
        self._back.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def read_exactly(text: Text, dialect: Dialect, columns: int, target: Path, rejects: Rejects) -> tuple[int, int]:
    """Write the good rows of a file as `NORMAL` to `target`, and reject the others.

    Args:
        text: the file.
        dialect: how its lines are cells.
        columns: cells of a row.
        target: a new file.
        rejects: gets each row that has another number of cells, quotes that do not close, more than `LONGEST_ROW`
            characters, a NUL, or bytes that the encoding does not know.

    Returns:
        Good rows, and rows of any kind.

    Raises:
        DataError: a thousand quotes that do not close, so that the file hardly quotes anything.
    """
    good = bad = unclosed = 0
    with text.lines() as raw, target.open("w", encoding="utf-8", newline="") as sink:
        lines = _Lines(raw, dialect)
        writer = csv.writer(sink, lineterminator="\n")
        with long_cells():
            for place, row, why in _records(lines, dialect):
                if row is not None and (not row or (len(row) == 1 and not row[0].strip())):
                    continue
                if why is None and row is not None:
                    why = _fault(row, columns)
                if why is None and row is not None:
                    good += 1
                    writer.writerow(row)
                    continue
                bad, unclosed = bad + 1, unclosed + (row is None)
                if unclosed == _MOST_UNCLOSED:
                    raise DataError(
                        f"{text.path.name} has {unclosed:,} quotes that do not close, the first in "
                        f"{rejects.first[0].place if rejects.first else place}",
                        remedy="if nothing is quoted in it, say so with --quote none",
                    )
                rejects.add(text.path.name, place, str(why), "".join(lines.taken[:1] if row is None else lines.taken))
    return good, good + bad


def _records(lines: _Lines, dialect: Dialect) -> Iterator[tuple[str, list[str] | None, str | None]]:
    """(place, cells, what is wrong with its quotes) of each row below the header."""
    reader = dialect.reader(lines, strict=True)
    for _ in range(dialect.skip):
        next(lines, None)
    header = dialect.header
    while True:
        lines.start()
        first = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except (csv.Error, _TooLong):
            lines.give_back()
            if header:  # its names were read leniently
                header = False
                continue
            yield f"line {first}", None, "a quote that does not close, or a cell that goes on behind one"
            continue
        if header:
            header = not any(cell.strip() for cell in row)
            continue
        yield f"line {first}", row, None


def _fault(row: list[str], columns: int) -> str | None:
    if len(row) != columns:
        return f"{counted(len(row), 'cell')} where the header has {columns}"
    if any(map(unusable, row)):
        return "a NUL, or bytes that the encoding does not know"
    if sum(map(len, row)) > LONGEST_ROW:
        return f"more than {LONGEST_ROW:,} characters"
    return None
