"""A night: its steps in their order, and which nights are due."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from metarisk.domain import ConfigError, MetariskError
from metarisk.job.acceptance import require_stop
from metarisk.job.context import Caller, Context, direct
from metarisk.job.dates import owed, require_over
from metarisk.job.published import to_publish_again
from metarisk.job.run import run_folder
from metarisk.job.storage import store, store_of
from metarisk.jobs.attempting import Steps, alone, explained, migrate, recorded
from metarisk.pages import refusal
from metarisk.pages.night import report_night
from metarisk.pages.places import night_page, retracted_page
from metarisk.portfolios import list_portfolios, load_portfolio
from metarisk.record.attempts import step_seconds
from metarisk.record.publications import is_retracted, newest, taken_back
from metarisk.risks import RISKS
from metarisk.settings import Settings
from metarisk.steps.adapt import adapt
from metarisk.steps.attribute import attribute
from metarisk.steps.check import check
from metarisk.steps.derive import derive
from metarisk.steps.drift import drift
from metarisk.steps.extract import extract
from metarisk.steps.guard import guard
from metarisk.steps.publish import publish
from metarisk.steps.ready import ready
from metarisk.steps.score import score

NIGHT = (ready, extract, check, adapt, score, guard, derive, drift, attribute, store, publish, report_night)
"""The steps of a night in their order; `derive` where the risk type publishes more than scores, `store` where a copy of
the lake is named."""


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
        require_stop(context)
    run = Steps(call, context)
    with alone(context, "night", run):
        current = newest(context.warehouse, context.job.portfolio, context.job.as_of)
        if current is not None and is_retracted(current):
            if job.mode == "backfill":
                context.reporter.warn(f"{job.portfolio} {job.as_of} is left alone: {taken_back(current)}")
                return NightResult(job.portfolio, job.as_of, "retracted", "", 0)
            if job.mode != "restatement" or not job.reason.strip():
                remedy = f"publish it again, with a reason: {to_publish_again(context)}"
                raise ConfigError(taken_back(current), portfolio=job.portfolio, on=job.as_of, remedy=remedy)
        elif current is not None and job.mode != "restatement":
            refusal.withdraw(context, "night")
            page = _page_of(context, run, current)
            return NightResult(
                job.portfolio, job.as_of, "already_published", current["run_id"], current["rows_scored"], page
            )
        with recorded(context, run, "night") as attempt:
            run(ready)
            extracted = run(extract)
            checked = run(check, extracted)
            adapted = run(adapt, checked)
            scored = run(score, adapted)
            guarded = run(guard, scored)
            if context.spec.derive is not None:
                run(derive, scored)
            drifted = run(drift, scored)
            moved = run(attribute, scored)
            if (copy := store_of(context)) is not None:
                run(store, copy, scored.run_id, scored.model_id)
            timed = replace(attempt, seconds=dict(run.seconds))
            publication = run(publish, scored, guarded, drifted, moved, timed)
            refusal.withdraw(context, "night")
            page = run(report_night, scored, guarded, drifted, moved, publication, dict(run.seconds))
    return NightResult(
        job.portfolio, job.as_of, "published", scored.run_id, publication["rows_scored"], page, run.seconds
    )


def due(context: Context) -> list[date]:
    """Nights missing from the warehouse up to and including the job's as_of, oldest first.

    By the portfolio's calendar, from its first published night on; a portfolio without any published night owes the
    newest alone, and so does one with `catch_up = latest`. A night that was taken back is not owed.
    """
    require_over(context)
    with explained(context, Steps(direct, context), refusal.night):
        migrate(context)
        return owed(context, context.job.as_of)


def retracted(context: Context) -> bool:
    """Whether the night of the job's as_of was taken back, and not published again since."""
    return is_retracted(newest(context.warehouse, context.job.portfolio, context.job.as_of))


def portfolio_names(settings: Settings) -> list[str]:
    """Names of the portfolios that schedules run."""
    names = list_portfolios(settings.project)
    return [name for name in names if load_portfolio(settings.project, name, risks=RISKS).scheduled]


def _page_of(context: Context, run: Steps, current: Mapping[str, Any]) -> Path | None:
    """The page of a published night; None where there is none and its run is no longer in the lake.

    An attempt that died between its commit and its page left the lake with the whole run: what comes after the commit
    is done now.
    """
    page = night_page(context, current["run_id"])
    retracted_page(context).unlink(missing_ok=True)
    if page.exists():
        return page
    context.warehouse.snapshot()
    if not run_folder(context, current["run_id"]).exists():
        return None
    try:
        again = run(adapt, run(check, run(extract)))
        if again.run_id != current["run_id"]:
            return None
        scored = run(score, again)
        if context.spec.derive is not None:
            run(derive, scored)
        found = (run(guard, scored), run(drift, scored), run(attribute, scored))
        return run(report_night, scored, *found, current, json.loads(step_seconds(context.warehouse, scored.run_id)))
    except MetariskError as error:
        context.reporter.warn(f"the page of this night is missing and could not be written: {error.what}")
        return None
