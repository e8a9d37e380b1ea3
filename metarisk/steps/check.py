"""The step check: the suite, the rules of every book, and what history says of rows and segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from metarisk import lake, quality
from metarisk.domain import DataError, ModelError, SegmentKey
from metarisk.job.champion import champion_for, load_model
from metarisk.job.context import Context
from metarisk.job.inputs import misfits
from metarisk.job.run import Checked
from metarisk.portfolios import dropped_rows, extract_sql, suite_path
from metarisk.record.publications import nights

USUAL_NIGHTS = 14
"""The latest nights, of two weeks where every day is due, whose median is the usual number of rows."""


def check(context: Context, extracted: lake.Extract) -> Checked:
    """Run the extract's suite and the rules that need history: enough rows, segments that are still the same.

    A critical failure raises QualityError: nothing is published.
    """
    lake.verify(extracted.directory)
    _enough_rows(context, extracted)
    require_rows(context, extracted.rows)
    found = judge_extract(context, extracted, extracted.directory.parent / "quarantine", _known_segments(context))
    context.reporter.table("quality", f"Quality of {context.job.portfolio} {context.job.as_of}", found.table())
    for warning in (*extracted.warnings, *found.warnings):
        context.reporter.warn(f"{context.job.portfolio} {context.job.as_of}: {warning}")
    found.require()
    return Checked(extracted, found)


def require_rows(context: Context, extracted: int) -> None:
    """Refuse an extract whose joins drop rows: of those that it does not have no rule can say anything."""
    sql = extract_sql(context.settings.project, context.portfolio)
    dropped_rows(sql, context.portfolio, context.warehouse, context.job.as_of, extracted)


def judge_extract(
    context: Context, extracted: lake.Extract, quarantine: Path, known_segments: Sequence[SegmentKey] | None
) -> quality.Quality:
    """What the suite and the rules of every book say of an extract; failing rows go to `quarantine`."""
    return quality.check(
        suite_path(context.settings.project, context.portfolio),
        extracted.paths,
        portfolio=context.portfolio,
        as_of=context.job.as_of,
        quarantine=quarantine,
        known_segments=known_segments,
        missing=extracted.missing_segment,
        memory_mb=context.settings.memory_mb,
        threads=context.settings.threads,
    )


def _enough_rows(context: Context, extracted: lake.Extract) -> None:
    portfolio, as_of = context.portfolio, context.job.as_of
    share = portfolio.source.min_rows_vs_median
    known = nights(context.warehouse, portfolio.name, as_of)[:USUAL_NIGHTS]
    usual = median([row["rows_extracted"] for row in known]) if known else 0
    if extracted.rows < share * usual:
        raise DataError(
            f"{extracted.rows:,} rows were extracted, less than {share:.0%} of the usual {usual:,.0f}",
            portfolio=portfolio.name,
            on=as_of,
            remedy="check that the source is complete; lower source.min_rows_vs_median if the book really shrank",
        )


def _known_segments(context: Context) -> tuple[SegmentKey, ...] | None:
    """Segments of the champion; None where there is none, or none that knows what the portfolio now declares."""
    champion = champion_for(context)
    if champion is None:
        return None
    try:
        return None if misfits(context, champion.model_id) else load_model(context, champion.model_id).segments
    except ModelError as error:
        # A week replaces it; a night ends at the adapt step.
        context.reporter.warn(str(error))
        return None
