"""Errors of the job: each says what went wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any


class MetariskError(Exception):
    """What went wrong, where (portfolio, column, date) and what to do about it.

    The text is built once, in this order, so that every error of the job reads alike:
    ``<portfolio> / <column> / <date>: <what>. Remedy: <remedy>``. `page` is the report of the run that it stopped.
    """

    def __init__(
        self,
        what: str,
        *,
        remedy: str,
        portfolio: str | None = None,
        column: str | None = None,
        on: date | None = None,
    ) -> None:
        self.what, self.remedy = what.rstrip("."), remedy.rstrip(".")
        self.portfolio, self.column, self.on = portfolio, column, on
        self.page: Path | None = getattr(self, "page", None)
        place = [
            f"{noun} {value}"
            for noun, value in (("portfolio", portfolio), ("column", column), ("as of", on))
            if value is not None
        ]
        super().__init__(f"{', '.join(place)}{': ' if place else ''}{self.what}. Remedy: {self.remedy}.")

    def place(self, portfolio: str, on: date) -> None:
        """Add portfolio and date where whoever raised this could not know them."""
        MetariskError.__init__(
            self,
            self.what,
            remedy=self.remedy,
            portfolio=self.portfolio or portfolio,
            column=self.column,
            on=self.on or on,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (type(self), self.what, self.remedy, self.portfolio, self.column, self.on)


def _rebuild_error(
    kind: type[MetariskError], what: str, remedy: str, portfolio: str | None, column: str | None, on: date | None
) -> MetariskError:
    return kind(what, remedy=remedy, portfolio=portfolio, column=column, on=on)


class ConfigError(MetariskError):
    """A setting, a portfolio TOML, an extract SQL or a suite is wrong."""


class SourceLate(MetariskError):
    """The source was not ready by its deadline; nothing is published."""


class DataError(MetariskError):
    """The extract cannot be used: columns, types, keys or values."""


class QualityError(DataError):
    """A critical expectation failed; nothing is published."""

    results: Sequence[Mapping[str, Any]] = ()
    """Every verdict, as rows of `quality_result`, so that a refused run can be looked at."""


class ModelError(MetariskError):
    """No usable model, a model that does not fit the extract, or training that diverged."""


class WarehouseError(MetariskError):
    """The warehouse is down, read-only, full or refuses."""


class SnapshotError(WarehouseError):
    """What was to be written is committed, but the file that BI reads is still the one of before."""


class LockedError(MetariskError):
    """Another run of the same portfolio holds the lock."""
