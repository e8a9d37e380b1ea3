"""A week: its steps in their order, and the judgement alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from metarisk.job.context import Caller, Context, direct
from metarisk.job.dates import require_over, require_portfolio
from metarisk.job.storage import store, store_of
from metarisk.job.week import Judged
from metarisk.jobs.attempting import Steps, alone, recorded
from metarisk.pages import refusal
from metarisk.pages.week import report_week
from metarisk.steps.check import check
from metarisk.steps.extract import extract
from metarisk.steps.judge import judge
from metarisk.steps.register import register
from metarisk.steps.train import train

WEEK = (extract, check, judge, train, store, register, report_week)
"""The steps of a week in their order; `store` where a copy of the lake is named."""


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


def weekly(context: Context, call: Caller = direct) -> WeekResult:
    """Run one week of one portfolio: judge the candidates, train the chosen one, register it."""
    require_over(context)
    job = context.job
    run = Steps(call, context)
    with alone(context, "week", run), recorded(context, run, "week") as attempt:
        extracted = run(extract)
        checked = run(check, extracted)
        judged = run(judge, checked)
        trained = run(train, judged)
        if (copy := store_of(context)) is not None:
            run(store, copy, trained.model_id, trained.model_id)
        registered = run(register, trained, replace(attempt, seconds=dict(run.seconds)))
        refusal.withdraw(context, "week")
        page = run(report_week, trained, registered, dict(run.seconds))
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


def evaluate(context: Context, call: Caller = direct) -> Judged:
    """Judge the candidates as a week does, without training or registering anything."""
    require_portfolio(context)
    run = Steps(call, context)
    with alone(context, "week", run):
        return run(judge, run(check, run(extract)))
