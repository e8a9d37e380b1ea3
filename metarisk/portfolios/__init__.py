"""Portfolios as files: reading and checking TOML, calendars, the check against a live warehouse, first drafts.

What the keys mean stands in `domain`; what a risk type means stands in `risks`.
"""

from metarisk.portfolios.calendars import as_of_from_schedule, calendar_dates, local_day, newest_due
from metarisk.portfolios.days import zone_differs
from metarisk.portfolios.drafting import Draft, draft_portfolio
from metarisk.portfolios.live import Finding, check_portfolio, failed
from metarisk.portfolios.losing import dropped_rows, unknown_events
from metarisk.portfolios.reading import (
    also_sql,
    config_hash,
    extract_sql,
    list_portfolios,
    load_portfolio,
    scores_suite_path,
    suite_path,
)
from metarisk.portfolios.roles import Decision, Wanted
from metarisk.portfolios.schedules import Schedule, grace, read_schedule

__all__ = [
    "Decision",
    "Draft",
    "Finding",
    "Schedule",
    "Wanted",
    "also_sql",
    "as_of_from_schedule",
    "calendar_dates",
    "check_portfolio",
    "config_hash",
    "draft_portfolio",
    "dropped_rows",
    "extract_sql",
    "failed",
    "grace",
    "list_portfolios",
    "load_portfolio",
    "local_day",
    "newest_due",
    "read_schedule",
    "scores_suite_path",
    "suite_path",
    "unknown_events",
    "zone_differs",
]
