"""What pages are about: a published night and a week as cards see them, with what several cards need read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from metarisk.domain import SegmentStatus, segment_name
from metarisk.drift import TESTS
from metarisk.drift.decide import WORST_FIRST
from metarisk.job.champion import champion_for
from metarisk.job.context import Context
from metarisk.job.inputs import TAUGHT
from metarisk.job.run import Run, load_adapted, score_files
from metarisk.job.week import Judged, Trained
from metarisk.moves import PARTS
from metarisk.pages.page import Champion
from metarisk.quality import Quality
from metarisk.record import publications
from metarisk.steps.attribute import MEAN

DriftStatus = Literal["ok", "watch", "alert", "blind", "concept drift suspected"]


@dataclass(frozen=True)
class DriftLine:
    """One row of `drift_metric`; `segment` is empty for the whole portfolio."""

    segment: str
    level: str
    feature: str
    metric: str
    status: DriftStatus
    value: float | None
    effect: float | None
    threshold: float | None
    n_ref: int
    n_cur: int
    q: float | None = None
    detail: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def decides(self) -> bool:
        """Whether it is a test; other lines describe what a `psi` line found and repeat its status."""
        return self.metric in TESTS

    @property
    def badness(self) -> int:
        """Its place among statuses, the worst first."""
        return WORST_FIRST.index(self.status)


@dataclass(frozen=True)
class SegmentLine:
    """One segment of the night: how it was adapted, from what, and where its mean score went."""

    name: str
    status: SegmentStatus
    rows: int
    support_rows: int
    support_events: int | None = None
    mean_score: float | None = None
    last_mean_score: float | None = None
    reason: str = ""
    moved_by: str = ""
    """What moved its mean score most since the last run."""


@dataclass(frozen=True, eq=False)
class PublishedNight:
    """A published night: its run, what the guard, the drift step and the attribution left, and its times."""

    context: Context
    run: Run
    guarded: Quality
    drift_folder: Path
    moves: pl.DataFrame
    publication: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Rows of `quality_result`, under the suite that ran."""
        return _checks(self.run.checked.quality, self.guarded)

    @cached_property
    def champion(self) -> Champion:
        """The model that scored."""
        return _champion(self.context, self.run.model_id, self.run.recipe, self.run.cut_off)

    @cached_property
    def scores(self) -> pl.LazyFrame:
        """The scored rows."""
        return pl.scan_parquet(score_files(self.run))

    @cached_property
    def before(self) -> pl.LazyFrame | None:
        """Scores of the newest night before this one with its date as `night`, if the lake still has them."""
        rows = publications.nights(self.context.warehouse, self.context.job.portfolio, self.context.job.as_of)
        if not rows:
            return None
        root = self.context.settings.data_dir / "lake" / self.context.job.portfolio / str(rows[0]["as_of"]) / "runs"
        files = sorted((root / rows[0]["run_id"] / "score").glob("*.parquet"))
        return pl.scan_parquet(files).with_columns(pl.lit(str(rows[0]["as_of"])).alias("night")) if files else None

    @cached_property
    def drift(self) -> tuple[DriftLine, ...]:
        """What the drift step measured."""
        found = pl.read_parquet(self.drift_folder / "drift.parquet").with_columns(
            pl.col("segment", "feature", "detail").fill_null(""), pl.col("n_ref", "n_cur").fill_null(0)
        )
        names = [column.name for column in fields(DriftLine)]
        return tuple(DriftLine(**row) for row in found.select(*names).iter_rows(named=True))

    @cached_property
    def segments(self) -> tuple[SegmentLine, ...]:
        """Every segment, by name."""
        known = {segment_name(key): segment for key, segment in load_adapted(self.context, self.run).segments.items()}
        summary = pl.len().alias("rows"), pl.col("status").first(), pl.col("score").mean().alias("mean")
        now = self.scores.group_by("segment").agg(*summary).sort("segment")
        if self.before is not None:
            last = self.before.group_by("segment").agg(pl.col("score").mean().alias("last"))
            now = now.join(last, on="segment", how="left")
        moved_by, lines = _moved_by(self.moves), []
        for row in now.sort("segment").collect().iter_rows(named=True):
            own = known.get(row["segment"])
            lines.append(
                SegmentLine(
                    name=row["segment"],
                    status=row["status"],
                    rows=row["rows"],
                    support_rows=own.support_rows if own else 0,
                    support_events=own.support_events if own else 0,
                    mean_score=row["mean"],
                    last_mean_score=row.get("last"),
                    reason=own.reason if own else "no matured row of its own: scored from its parents and the pool",
                    moved_by=moved_by.get(row["segment"], ""),
                )
            )
        return tuple(lines)


@dataclass(frozen=True, eq=False)
class PublishedWeek:
    """A week of learning: what was trained, what became of it, and its times."""

    context: Context
    trained: Trained
    registered: Mapping[str, Any]
    seconds: Mapping[str, float]

    @property
    def judged(self) -> Judged:
        """What was judged before."""
        return self.trained.judged

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Rows of `quality_result`, under the suite that ran."""
        return _checks(self.judged.checked.quality)


@dataclass(frozen=True, eq=False)
class RegisteredModel:
    """A model of the registry, by its manifest and what the warehouse knows of it."""

    context: Context
    row: Mapping[str, Any]
    manifest: Mapping[str, Any]
    states: Sequence[Mapping[str, Any]]
    evidence: Sequence[Mapping[str, Any]]
    """In the order of protocol, candidate, slice and metric."""

    @property
    def model_id(self) -> str:
        """Its id."""
        return str(self.row["model_id"])

    @property
    def taught(self) -> Mapping[str, Any]:
        """What its manifest says of the rows that taught it."""
        found: Mapping[str, Any] = self.manifest["about"].get(TAUGHT, {})
        return found


def scoring_now(context: Context) -> Champion | None:
    """The model that a night of this as_of takes."""
    champion = champion_for(context)
    return None if champion is None else _champion(context, champion.model_id, champion.recipe, champion.as_of)


def _checks(*found: Quality) -> list[dict[str, Any]]:
    return [row | {"suite": quality.suite} for quality in found for row in quality.rows()]


def _champion(context: Context, model_id: str, recipe: str, cut_off: date) -> Champion:
    age = (context.job.as_of - cut_off).days
    return Champion(model_id, recipe, cut_off, age, context.portfolio.thresholds.max_model_age_days)


def _moved_by(moves: pl.DataFrame) -> dict[str, str]:
    """By segment: what moved its mean score most."""
    parts = [f"from_{part}" for part in PARTS]
    rows = moves.filter((pl.col("measure") == MEAN) & pl.col("segment").is_not_null()).drop_nulls(parts)
    found = {}
    for row in rows.iter_rows(named=True):
        heaviest = max(PARTS, key=lambda part: abs(row[f"from_{part}"]))
        if row[f"from_{heaviest}"]:
            found[row["segment"]] = PARTS[heaviest]
    return found
