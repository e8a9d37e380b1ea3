"""The page of a night: its head, over the cards that say that they stand there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from metarisk.domain import Mode
from metarisk.job.context import Context
from metarisk.job.run import Run
from metarisk.pages import drift, places
from metarisk.pages.html import write
from metarisk.pages.page import Kind, Page, gathered
from metarisk.pages.subjects import PublishedNight
from metarisk.quality import Quality
from metarisk.steps import alerts


@dataclass(frozen=True, kw_only=True)
class Night(Page):
    """The page of one night, published or not."""

    kind: ClassVar[Kind] = "night"
    first: ClassVar[str] = "quality"

    mode: Mode
    outcome: Literal["published", "refused", "failed", "retracted"]
    """`refused`: a check stopped it; `failed`: an error did; `retracted`: a person took it back."""
    reason: str = ""
    """Why nothing was published, or why it was taken back, or why this is a backfill or a restatement."""
    published_at: datetime | None = None
    stopped_at: datetime | None = None
    """When a refused or failed attempt ended."""
    last_published: date | None = None
    """The night that readers keep when this one is not published."""
    rows_extracted: int = 0
    rows_scored: int = 0
    rows_quarantined: int = 0
    drift_page: str = ""
    """Address of the drift page, seen from this one."""

    @property
    def stopped(self) -> str:
        """Why readers do not have this night."""
        return "" if self.outcome == "published" else self.reason or "Nothing was published."


def report_night(
    context: Context,
    run: Run,
    guarded: Quality,
    drift_folder: Path,
    moves_folder: Path,
    publication: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Path:
    """Write the page of a published night and that of its drift, and tell of its alerts."""
    moves = pl.read_parquet(moves_folder / "moves.parquet")
    night = PublishedNight(context, run, guarded, drift_folder, moves, publication, seconds)
    path = places.night_page(context, run.run_id)
    drifted = write(path.with_name(f"drift-{path.name}"), drift.page(night, path.name).html())
    write(path, page(night, drifted.name).html())
    places.retracted_page(context).unlink(missing_ok=True)
    context.reporter.link(f"report-{context.job.portfolio}", f"Report of {context.job.as_of}", path)
    context.reporter.link(f"drift-page-{context.job.portfolio}", f"Drift of {context.job.as_of}", drifted)
    alerts.tell(context, run.run_id, drifted)
    return path


def page(night: PublishedNight, drift_page: str) -> Night:
    """The page of a published night; `drift_page` is the address of that of its drift."""
    job, portfolio, run, too_old = night.context.job, night.context.portfolio, night.run, night.champion.too_old
    train = f"Train on newer labels: `metarisk weekly --portfolio {job.portfolio} --as-of {job.as_of}`."
    return Night(
        title=portfolio.title or portfolio.name,
        portfolio=portfolio.name,
        as_of=job.as_of,
        run_id=run.run_id,
        mode=job.mode,
        outcome="published",
        reason=night.publication["reason"] or "",
        published_at=night.publication["published_at"],
        champion=night.champion,
        rows_extracted=run.extract.rows,
        rows_scored=night.publication["rows_scored"],
        rows_quarantined=run.checked.quality.excluded_rows,
        drift_page=drift_page,
        warnings=(*run.extract.warnings, *([too_old] if too_old else [])),
        next_steps=(train,) if too_old else (),
        provenance={"extract": run.extract.extract_hash, "configuration": run.config_hash, "code": run.code_version},
        cards=gathered("night", night),
    )
