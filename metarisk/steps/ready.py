"""The step ready: the source is asked until it says yes."""

from __future__ import annotations

import time

from metarisk.domain import SourceLate
from metarisk.job.context import Context
from metarisk.job.dates import until

READY_POLL_SECONDS = 30.0


def ready(context: Context) -> None:
    """Ask the portfolio's readiness query until it says yes; SourceLate after its deadline."""
    source, as_of = context.portfolio.source, context.job.as_of
    if source.ready_sql is None:
        return
    deadline = time.monotonic() + 60 * source.deadline_minutes
    told = False
    while True:
        rows = context.warehouse.rows(source.ready_sql, {"as_of": as_of})
        if rows and all(rows[0].values()):
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise SourceLate(
                f"the source was not ready within {source.deadline_minutes} minutes; nothing was published",
                portfolio=context.job.portfolio,
                on=as_of,
                remedy="load the source, then run this night again; ready_sql in the TOML says what is asked",
            )
        if not told:
            told, minutes = True, source.deadline_minutes
            waits = f"asking until {until(context, minutes)}, {minutes} minutes"
            context.reporter.warn(f"{context.job.portfolio}: the source is not ready for {as_of}, {waits}")
        time.sleep(min(READY_POLL_SECONDS, left))
