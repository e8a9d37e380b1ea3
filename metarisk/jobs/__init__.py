"""The job as plain functions: a night, a week, a backfill, a study, and which nights are due.

This is where steps are composed, each order in one file. A caller brings a `Context` and, if steps are to be run in its
own way (as Prefect tasks, say), a `Caller`.
"""

from metarisk.job.context import Context, Quiet, Spread, direct, utc_now
from metarisk.job.dates import newest_over
from metarisk.jobs.attempting import migrate
from metarisk.jobs.backfill import backfill
from metarisk.jobs.night import NightResult, due, nightly, portfolio_names, retracted
from metarisk.jobs.study import study
from metarisk.jobs.week import WeekResult, evaluate, weekly
from metarisk.portfolios import as_of_from_schedule
from metarisk.upkeep.models import approve, promote, roll_back
from metarisk.upkeep.retract import retract

__all__ = [
    "Context",
    "NightResult",
    "Quiet",
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
