"""A backfill: the weeks that are missing, then past nights, oldest first."""

from dataclasses import dataclass, replace
from datetime import date

from metarisk.domain import ConfigError, LockedError, MetariskError, WarehouseError
from metarisk.job.champion import champion_for, missing_weeks
from metarisk.job.context import Caller, Context, direct
from metarisk.job.dates import calendar_table, require_over
from metarisk.jobs.attempting import Steps, explained, migrate
from metarisk.jobs.night import NightResult, nightly
from metarisk.jobs.week import WeekResult, weekly
from metarisk.pages import refusal
from metarisk.portfolios import calendar_dates
from metarisk.record.publications import newest


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did: the weeks that it trained, and every night, also those that were published already."""

    weeks: tuple[WeekResult, ...]
    nights: tuple[NightResult, ...]


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
    with explained(context, Steps(call, context), refusal.night):
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
    return newest(context.warehouse, context.job.portfolio, as_of) is not None
