"""The protocol of a drift measure: what a week and a night show it, and what it leaves; `MEASURES` is the table."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from metarisk.domain import Array, Portfolio, RiskSpec

if TYPE_CHECKING:
    from metarisk.adapt import Adapted, Recency


def parquet(frame: pl.DataFrame) -> bytes:
    """A table as the content of a file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Beside:
    """Files that stand beside a model; a table that this version cannot read is warned of, and as good as absent."""

    model_id: str
    files: dict[str, bytes]
    warn: Callable[[str], None]

    def table(self, name: str, readable: Callable[[pl.DataFrame], bool] = lambda table: True) -> pl.DataFrame | None:
        """A Parquet file as a table, or None; `readable` tells whether its form is that of this version."""
        if name not in self.files:
            return None
        try:
            found = pl.read_parquet(io.BytesIO(self.files[name]))
            if readable(found):
                return found
            self.warn(f"{name} of model {self.model_id} is of another version: run the weekly")
        except pl.exceptions.PolarsError as error:
            self.warn(f"{name} of model {self.model_id} cannot be read: {error}")
        del self.files[name]  # whoever asks again is not warned again
        return None


@dataclass(frozen=True)
class Scored:
    """The scored population, its score in a column named by the target; on disk, however many rows."""

    frame: pl.LazyFrame
    batches: Callable[[], Iterator[pl.DataFrame]]


@dataclass(frozen=True)
class Week:
    """What a measure may look at to keep something for later nights.

    Attributes:
        teach: the N rows that taught (LABEL holds y).
        scored: the population at the label cut-off.
        unseen: scores and losses (N,) of the rows that taught, by parts of the model that had not seen them; None
            where it has none.
        beside: what measures before it kept.
    """

    portfolio: Portfolio
    spec: RiskSpec
    adapted: Adapted
    teach: pl.DataFrame
    scored: Scored
    unseen: Callable[[], tuple[Array, Array] | None]
    beside: Beside


@dataclass(frozen=True)
class Night:
    """What a measure may look at to judge a night.

    Attributes:
        cut_off: label cut-off of the model that scored.
        extract: its rows but the quarantined ones.
        beside: what a week left beside the model that scored.
        beside_of: the same of another one by its id; raises ModelError where that is no longer whole.
        first_scores: as `job.outcomes.first_scores` of this night: what was published first of rows that opened.
        recency: how supports of drifting segments were weighted.
        found: rows of the measures before it, by name.
        files: tables that the night keeps beside its rows; a measure may add one.
    """

    portfolio: Portfolio
    spec: RiskSpec
    as_of: date
    cut_off: date
    scored: Scored
    extract: pl.LazyFrame
    beside: Beside
    beside_of: Callable[[str], Beside]
    first_scores: Callable[[pl.LazyFrame, date, date], Iterator[pl.DataFrame]]
    recency: Recency
    found: dict[str, pl.DataFrame] = field(default_factory=dict)
    files: dict[str, pl.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """One way to look for drift: what it compares every night, and what a week keeps for that.

    Attributes:
        name: under it later measures find its rows.
        judge: its rows of `drift_metric` (columns of `decide.SCHEMA`); what could not be seen is a row that says why,
            as `decide.blind` makes it, and no error.
        keep: the files it wants beside the model, by name; they are read by `Night.beside` alone.
        labels: kinds of targets that it is for; the others' weeks and nights do not ask it.
        tests: its metrics that decide; others describe what these found, and repeat a status.
        opening: its metrics whose alerts open one.
    """

    name: str
    judge: Callable[[Night], pl.DataFrame]
    keep: Callable[[Week], Mapping[str, bytes]] = lambda week: {}
    labels: frozenset[str] = frozenset({"event", "value"})
    tests: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()
