"""The nightly flow: every portfolio and every missing night of it as a sub-flow, one after another in one process."""

from datetime import date
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State

from flows.running import Line, as_task, attempt, conclude, day_before_start, open_context, outcome, when_free
from metarisk import jobs
from metarisk.settings import Settings


def run_name() -> str:
    """`<portfolio or all portfolios>, scheduled <time>`: what the list of runs shows."""
    which = runtime.flow_run.parameters.get("portfolio") or "all portfolios"
    return f"{which}, scheduled {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M} UTC"


@flow(name="night", flow_run_name="{portfolio} {as_of}")
def night(portfolio: str, as_of: date) -> State[Any]:
    """One night: ready, extract, check, adapt, score, guard, derive, drift, attribute, store, publish, report."""

    def work() -> Line:
        context = open_context(portfolio, as_of)
        result = when_free(context, lambda: jobs.nightly(context, as_task))
        if result.outcome == "already_published":
            return Line(portfolio, as_of, "already published")
        note = f"{result.rows_scored:,} rows in {sum(result.seconds.values()):.0f} s, run {result.run_id[:12]}"
        return Line(portfolio, as_of, "published", note, result.page)

    return attempt(portfolio, as_of, work)


@flow(name="nightly", flow_run_name=run_name)
def nightly(portfolio: str | None = None, as_of: date | None = None) -> State[Any]:
    """Publish every night that is missing up to `as_of`, oldest first. A portfolio that fails stops no other.

    Args:
        portfolio: one portfolio by name; empty: all of them.
        as_of: last night to publish; empty: the day before the scheduled start, in each portfolio's time zone.
    """
    lines: list[Line] = []
    for name in [portfolio] if portfolio else jobs.portfolio_names(Settings()):
        lines += nights(name, as_of)
    return conclude("nightly", lines)


def nights(portfolio: str, as_of: date | None) -> list[Line]:
    """Run the missing nights of one portfolio; whatever goes wrong becomes a line and stops nobody else."""
    day = as_of or day_before_start()
    try:
        context = open_context(portfolio, as_of)
        day = context.job.as_of
        due = jobs.due(context)
        if not due:
            return [Line(portfolio, day, "retracted" if jobs.retracted(context) else "already published")]
    except Exception:  # its sub-flow meets the same error, and has a state and a notice for it
        due = [day]
    return [outcome(portfolio, day, night(portfolio, day, return_state=True)) for day in due]
