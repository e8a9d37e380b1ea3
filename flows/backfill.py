"""The backfill flow: missing weeks and past nights of one portfolio, marked as a backfill, oldest first."""

from datetime import date
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.running import Line, as_task, conclude, failure, open_context, when_free
from metarisk import jobs
from metarisk.domain import MetariskError


@flow(name="backfill", flow_run_name="{portfolio} {start} to {end}")
def backfill(portfolio: str, start: date, end: date, train: bool = True) -> State[Any]:
    """Train the weeks that are missing, then publish the nights that are due from `start` to `end` and not published.

    Args:
        portfolio: the portfolio's name.
        start: first night.
        end: last night.
        train: whether missing weeks are trained.
    """
    try:
        context = open_context(portfolio, end, "backfill")
        found = when_free(context, lambda: jobs.backfill(context, start, as_task, train=train))
    except MetariskError as error:
        return conclude("backfill", [failure(portfolio, None, error)])
    lines = [Line(portfolio, week.as_of, "trained", week.reason, week.page) for week in found.weeks]
    lines += [
        Line(portfolio, night.as_of, night.outcome.replace("_", " "), _note(night), night.page)
        for night in found.nights
    ]
    return conclude("backfill", lines)


def _note(night: jobs.NightResult) -> str:
    return "left alone" if night.outcome == "retracted" else f"{night.rows_scored:,} rows"
