"""Rows that were not loaded, on disk as they come: their number is not bounded."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import TracebackType

from metarisk.loading.model import Reject

_FIRST = 5  # rejects that a message shows
_LONGEST = 1_000
"""Characters of a row that `first` holds; the file has all of them."""


class Rejects:
    """Counts and keeps rejected rows; a context that closes their file."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.first: list[Reject] = []
        self._path = path
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["file", "place", "why", "row"])

    def __enter__(self) -> Rejects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, file: str, place: str, why: str, text: str) -> None:
        """Keep one row."""
        self.count += 1
        row = text.rstrip("\r\n").replace("\0", "\\x00")
        if len(self.first) < _FIRST:
            self.first.append(Reject(file, place, why, row[:_LONGEST]))
        self._writer.writerow([file, place, why, row])

    def write_to(self, path: Path) -> None:
        """Copy all of them to a CSV file: file, place, why, row."""
        self._file.flush()
        shutil.copyfile(self._path, path)
