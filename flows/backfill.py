"""The backfill flow: past nights of one portfolio, marked as a backfill, oldest first."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.running import Line, as_task, conclude, failure, open_context, when_free
from metarisk import pipeline
from metarisk.domain import MetariskError


@flow(name="backfill", flow_run_name="{portfolio} {start} to {end}")
def backfill(portfolio: str, start: date, end: date) -> State[Any]:
    """Publish the nights of one portfolio that are due from `start` to `end` and not published yet.

    Args:
        portfolio: the portfolio's name.
        start: first night.
        end: last night.
    """
    try:
        context = open_context(portfolio, end, "backfill")
        results = when_free(context, lambda: pipeline.backfill(context, start, as_task))
    except MetariskError as error:
        return conclude("backfill", [failure(portfolio, None, error)])
    lines = [
        Line(portfolio, result.as_of, result.outcome.replace("_", " "), f"{result.rows_scored:,} rows", result.page)
        for result in results
    ]
    return conclude("backfill", lines)
