"""The weekly flow: every portfolio's training, evidence and promotion as a sub-flow, one after another."""

from datetime import date, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.nightly import run_name
from flows.running import Line, as_task, attempt, conclude, day_before_start, open_context, outcome, when_free
from metarisk import jobs
from metarisk.settings import Settings


@flow(name="week", flow_run_name="{portfolio}, week to {as_of}")
def week(portfolio: str, as_of: date) -> State[Any]:
    """One week: extract, check, judge, train, store, register, report."""

    def work() -> Line:
        context = open_context(portfolio, as_of)
        result = when_free(context, lambda: jobs.weekly(context, as_task))
        standing = "champion" if result.promoted else "candidate, the champion stays"
        seconds = sum(result.seconds.values())
        note = f"{result.recipe} is {standing}: {result.reason} (model {result.model_id[:12]}, {seconds:.0f} s)"
        return Line(portfolio, as_of, "trained", note, result.page)

    return attempt(portfolio, as_of, work)


@flow(name="weekly", flow_run_name=run_name)
def weekly(portfolio: str | None = None, as_of: date | None = None, instead_of: datetime | None = None) -> State[Any]:
    """Train and judge every portfolio's candidates. A portfolio that fails stops no other.

    Args:
        portfolio: one portfolio by name; empty: all of them.
        as_of: label cut-off; empty: the day before the scheduled start, in each portfolio's time zone.
        instead_of: scheduled start of the run that this one replaces; empty: its own.
    """
    lines: list[Line] = []
    for name in [portfolio] if portfolio else jobs.portfolio_names(Settings()):
        try:
            day = open_context(name, as_of, scheduled=instead_of).job.as_of
        except Exception:  # its sub-flow meets the same error, and has a state and a notice for it
            day = as_of or day_before_start()
        lines.append(outcome(name, day, week(name, day, return_state=True)))
    return conclude("weekly", lines)
