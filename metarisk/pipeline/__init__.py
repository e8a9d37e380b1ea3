"""The job as plain functions: a night, a week, a backfill, and which nights are due.

This is where everything is composed. A caller brings a `Context` and, if steps are to be run in its own way (as Prefect
tasks, say), a `Caller`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from metarisk.domain import ConfigError, LockedError, MetariskError, WarehouseError
from metarisk.pipeline import accepting, guarding, night, pages, refusals, watching, week
from metarisk.pipeline import study as studies
from metarisk.pipeline.attempts import Steps, alone, explained, migrate, recorded
from metarisk.pipeline.attribution import attribute
from metarisk.pipeline.context import Caller, Context, Quiet, Spread, direct, utc_now
from metarisk.pipeline.dating import calendar_table, newest_over, require_over, require_portfolio
from metarisk.pipeline.deriving import derive
from metarisk.pipeline.models import champion_for, missing_weeks
from metarisk.pipeline.owing import owed
from metarisk.pipeline.promotion import approve, promote, roll_back
from metarisk.pipeline.publish import publish
from metarisk.pipeline.retracting import Retracted, retract
from metarisk.pipeline.sharding import score
from metarisk.pipeline.standing import is_retracted, newest_publication, taken_back, to_publish_again
from metarisk.pipeline.storing import store, store_of
from metarisk.pipeline.trying import seconds_of
from metarisk.portfolios import as_of_from_schedule, calendar_dates, list_portfolios, load_portfolio
from metarisk.risks import RISKS
from metarisk.settings import Settings

__all__ = [
    "Backfilled",
    "Caller",
    "Context",
    "NightResult",
    "Quiet",
    "Retracted",
    "Spread",
    "WeekResult",
    "approve",
    "as_of_from_schedule",
    "backfill",
    "direct",
    "due",
    "evaluate",
    "migrate",
    "newest_over",
    "nightly",
    "portfolio_names",
    "promote",
    "retract",
    "retracted",
    "roll_back",
    "study",
    "utc_now",
    "weekly",
]


@dataclass(frozen=True)
class NightResult:
    """How a night ended."""

    portfolio: str
    as_of: date
    outcome: Literal["published", "already_published", "retracted"]
    """`retracted`: a person took it back, and a backfill leaves it alone."""
    run_id: str
    rows_scored: int
    page: Path | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WeekResult:
    """How a week ended."""

    portfolio: str
    as_of: date
    model_id: str
    recipe: str
    promoted: bool
    reason: str
    page: Path | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did: the weeks that it trained, and every night, also those that were published already."""

    weeks: tuple[WeekResult, ...]
    nights: tuple[NightResult, ...]


def nightly(context: Context, call: Caller = direct) -> NightResult:
    """Run one night of one portfolio.

    A night that is published already ends at once, unless the job is a restatement. Raises LockedError while another
    run of the portfolio holds its lock, ConfigError for a night that was taken back, unless the job is a restatement
    with a reason or where the job accepts what no attempt has shown, and whatever a step raises; a failed attempt is
    recorded first, and leaves a page that says why.
    """
    require_over(context)
    job = context.job
    if job.acceptance is not None:
        migrate(context)
        accepting.require_stop(context)
    run = Steps(call, context)
    with alone(context, "night", run):
        current = newest_publication(context)
        if current is not None and is_retracted(current):
            if job.mode == "backfill":
                context.reporter.warn(f"{job.portfolio} {job.as_of} is left alone: {taken_back(current)}")
                return NightResult(job.portfolio, job.as_of, "retracted", "", 0)
            if job.mode != "restatement" or not job.reason.strip():
                remedy = f"publish it again, with a reason: {to_publish_again(context)}"
                raise ConfigError(taken_back(current), portfolio=job.portfolio, on=job.as_of, remedy=remedy)
        elif current is not None and job.mode != "restatement":
            refusals.withdraw(context, "night")
            page = _page_of(context, run, current)
            return NightResult(
                job.portfolio, job.as_of, "already_published", current["run_id"], current["rows_scored"], page
            )
        with recorded(context, run, "night") as attempt:
            run(night.ready)
            extract = run(night.extract)
            checked = run(night.check, extract)
            adapted = run(night.adapt, checked)
            scored = run(score, adapted)
            guarded = run(guarding.guard, scored)
            if context.spec.derive is not None:
                run(derive, scored)
            drifted = run(watching.drift, scored)
            moved = run(attribute, scored)
            if (copy := store_of(context)) is not None:
                run(store, copy, scored.run_id, scored.model_id)
            timed = replace(attempt, seconds=dict(run.seconds))
            publication = run(publish, scored, guarded, drifted, moved, timed)
            refusals.withdraw(context, "night")
            page = run(pages.report_night, scored, guarded, drifted, moved, publication, dict(run.seconds))
    return NightResult(
        job.portfolio, job.as_of, "published", scored.run_id, publication["rows_scored"], page, run.seconds
    )


def weekly(context: Context, call: Caller = direct) -> WeekResult:
    """Run one week of one portfolio: judge the candidates, train the chosen one, register it."""
    require_over(context)
    job = context.job
    run = Steps(call, context)
    with alone(context, "week", run), recorded(context, run, "week") as attempt:
        extract = run(night.extract)
        checked = run(night.check, extract)
        judged = run(week.judge, checked)
        trained = run(week.train, judged)
        if (copy := store_of(context)) is not None:
            run(store, copy, trained.model_id, trained.model_id)
        registered = run(week.register, trained, replace(attempt, seconds=dict(run.seconds)))
        refusals.withdraw(context, "week")
        page = run(pages.report_week, trained, registered, dict(run.seconds))
    return WeekResult(
        job.portfolio,
        job.as_of,
        trained.model_id,
        judged.decision.recipe,
        registered["promoted"],
        judged.decision.reason,
        page,
        run.seconds,
    )


def evaluate(context: Context, call: Caller = direct) -> week.Judged:
    """Judge the candidates as a week does, without training or registering anything."""
    require_portfolio(context)
    run = Steps(call, context)
    with alone(context, "week", run):
        return run(week.judge, run(night.check, run(night.extract)))


def study(
    context: Context, file: Path, protocol: str, recipes: Sequence[str] = (), call: Caller = direct
) -> studies.Study:
    """Judge recipes on the rows of a file, see `pipeline.study`."""
    require_portfolio(context)
    known = studies.protocol_of(protocol)
    run = Steps(call, context)
    with alone(context, "week", run):
        return run(studies.study, run(night.check, run(night.extract)), file, known, recipes)


def due(context: Context) -> list[date]:
    """Nights missing from the warehouse up to and including the job's as_of, oldest first.

    By the portfolio's calendar, from its first published night on; a portfolio without any published night owes the
    newest alone, and so does one with `catch_up = latest`. A night that was taken back is not owed.
    """
    require_over(context)
    with explained(context, Steps(direct, context), refusals.night):
        migrate(context)
        return owed(context, context.job.as_of)


def backfill(context: Context, start: date, call: Caller = direct, *, train: bool = True) -> Backfilled:
    """Train the weeks that are missing, then run every night of the calendar from `start` to the job's as_of.

    Both go oldest first; what is done is skipped, so that a killed backfill is run again. Each night takes the newest
    champion whose label cut-off is on or before it, carries mode `backfill`, and is published with the time at which it
    was really known. A week that cannot be trained is told, and its nights take the champion of before; a night that
    was taken back is told, and left alone.

    Args:
        start: first night.
        call: how steps are run.
        train: whether missing weeks are trained.

    Raises:
        ConfigError: `start` is after the job's as_of, or that is not over.
        MetariskError: what stopped a night, or a week without which a night has no champion.
    """
    require_over(context)
    job = context.job
    if start > job.as_of:
        raise ConfigError(
            f"the backfill starts on {start}, after its end",
            portfolio=job.portfolio,
            on=job.as_of,
            remedy="swap the dates",
        )
    with explained(context, Steps(call, context), refusals.night):
        migrate(context)
        days = calendar_dates(context.portfolio, start, job.as_of, calendar_table(context))
        missing = missing_weeks(context, [day for day in days if not _published(context, day)]) if train else []
    past = replace(job, mode="backfill", reason=job.reason or "backfill")
    weeks = []
    for number, day in enumerate(missing):
        context.reporter.progress("backfill: weeks", number, len(missing), str(day))
        week_of = replace(context, job=replace(past, as_of=day))
        try:
            weeks.append(weekly(week_of, call))
        except (LockedError, WarehouseError):
            raise
        except MetariskError as error:
            if champion_for(week_of) is None:
                raise
            context.reporter.warn(f"the week of {day} was not trained, its nights take the champion before: {error}")
            continue
        if not weeks[-1].promoted:
            waits = f"model {weeks[-1].model_id} of {day} is no champion, its nights take the one before"
            context.reporter.warn(f"{job.portfolio}: {waits}: {weeks[-1].reason}")
    nights = []
    for number, day in enumerate(days):
        context.reporter.progress("backfill", number, len(days), str(day))
        nights.append(nightly(replace(context, job=replace(past, as_of=day)), call))
    return Backfilled(tuple(weeks), tuple(nights))


def _published(context: Context, as_of: date) -> bool:
    return newest_publication(replace(context, job=replace(context.job, as_of=as_of))) is not None


def retracted(context: Context) -> bool:
    """Whether the night of the job's as_of was taken back, and not published again since."""
    return is_retracted(newest_publication(context))


def portfolio_names(settings: Settings) -> list[str]:
    """Names of the portfolios that schedules run."""
    names = list_portfolios(settings.project)
    return [name for name in names if load_portfolio(settings.project, name, risks=RISKS).scheduled]


def _page_of(context: Context, run: Steps, current: Mapping[str, Any]) -> Path | None:
    """The page of a published night; None where there is none and its run is no longer in the lake.

    An attempt that died between its commit and its page left the lake with the whole run: what comes after the commit
    is done now.
    """
    page = pages.night_page(context, current["run_id"])
    pages.retracted_page(context).unlink(missing_ok=True)
    if page.exists():
        return page
    context.warehouse.snapshot()
    if not night.run_folder(context, current["run_id"]).exists():
        return None
    try:
        again = run(night.adapt, run(night.check, run(night.extract)))
        if again.run_id != current["run_id"]:
            return None
        scored = run(score, again)
        if context.spec.derive is not None:
            run(derive, scored)
        found = (run(guarding.guard, scored), run(watching.drift, scored), run(attribute, scored))
        return run(pages.report_night, scored, *found, current, seconds_of(context, scored.run_id))
    except MetariskError as error:
        context.reporter.warn(f"the page of this night is missing and could not be written: {error.what}")
        return None
