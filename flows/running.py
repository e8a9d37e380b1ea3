"""What every flow shares: steps as tasks, the date of a scheduled run, and the summary an operator reads first.

No flow is defined here and nothing about risk.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import Task, exponential_backoff
from prefect.transactions import transaction

from flows import configuration
from flows.reporter import PrefectReporter, report_address
from flows.spreading import spread_of
from metarisk.domain import Job, LockedError, MetariskError, Mode, QualityError, SourceLate, WarehouseError
from metarisk.jobs import Context, as_of_from_schedule
from metarisk.settings import Settings

Result = TypeVar("Result")

IO_STEPS = frozenset({"ready", "extract", "publish"})
"""Steps that talk to the warehouse alone, so that another try may help."""
RETRIES = 3  # a minute in all: a restart of the warehouse
FIRST_RETRY_SECONDS = 10.0
"""Then twice as long each time, with jitter: about 10, 20 and 40 s."""
TIMEOUT_SECONDS = 6 * 3600
"""A step that runs longer is stuck, and the night fails while there is still a morning to act in."""
COMMITS: Mapping[str, str] = {"publish": "published", "register": "registered"}
"""Steps that commit to the warehouse, and the event that tells others so, once they have."""

STATES: Mapping[type[MetariskError], str] = {SourceLate: "SourceLate", QualityError: "QualityFailed"}
"""Names of failed states that people tell apart; `flows.notices` has a notice for each."""
PORTFOLIO_FAILED = "PortfolioFailed"
"""Name of the state of a run in which some portfolio failed, whose own sub-flow says why."""

LOCK_WAIT_SECONDS = 3600.0
"""How long a run waits for another run of its portfolio (a backfill by hand, say) before it fails."""
LOCK_POLL_SECONDS = 5.0  # next to nothing of a night, and of the warehouse's time


def transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step is worth another try: only if the warehouse was the reason."""
    return isinstance(state.result(raise_on_failure=False), WarehouseError)


def as_task(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
    """Run `step(context, *inputs)` as a task run named `<step> <portfolio> <as_of>`.

    The task takes no parameters: Prefect would walk through them, and they are none of the server's business. Raises
    MetariskError for a step that took longer than TIMEOUT_SECONDS.
    """
    name, job = step.__name__, context.job

    @task(
        name=name,
        description=(step.__doc__ or name).strip().splitlines()[0],
        task_run_name=f"{name} {job.portfolio} {job.as_of}",
        retries=RETRIES if name in IO_STEPS else 0,
        retry_delay_seconds=exponential_backoff(FIRST_RETRY_SECONDS),
        retry_jitter_factor=0.5,
        retry_condition_fn=transient,
        timeout_seconds=TIMEOUT_SECONDS,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def run() -> Result:
        with context.reporter.step(job, name):
            return step(context, *inputs)

    try:
        return _committed(context, name, run) if name in COMMITS else run()
    except TaskRunTimeoutError:
        raise MetariskError(
            f"the step {name} did not end within {TIMEOUT_SECONDS:,} s",
            portfolio=job.portfolio,
            on=job.as_of,
            remedy="look what it waits for (warehouse, disk, memory), then run it again: finished steps are kept",
        ) from None


def _committed(context: Context, name: str, run: Callable[[], Result]) -> Result:
    """A step that commits to the warehouse, inside a transaction of Prefect: its event is emitted on commit alone.

    What is undone on failure is the warehouse's own transaction, which a killed process cannot leave half done.
    """
    job = context.job

    def tell(_held: object) -> None:
        context.reporter.event(COMMITS[name], {"portfolio": job.portfolio, "as_of": str(job.as_of), "mode": job.mode})

    def warn(_held: object) -> None:
        context.reporter.warn(
            f"{job.portfolio} {job.as_of}: {name} did not end; the warehouse has all of it or nothing"
        )

    # Prefect logs the names of hooks.
    tell.__name__, warn.__name__ = f"event metarisk.{COMMITS[name]}", f"warning about {name}"
    with transaction() as held:
        held.stage(None, on_rollback_hooks=[warn], on_commit_hooks=[tell])
        return run()


def day_before_start() -> date:
    """The day before the scheduled start in UTC: the date of a run whose portfolio does not say where it lives."""
    started: datetime = runtime.flow_run.scheduled_start_time
    return started.date() - timedelta(days=1)


def open_context(
    portfolio: str, as_of: date | None, mode: Mode = "nightly", scheduled: datetime | None = None
) -> Context:
    """The context of one portfolio; without `as_of`, the day before the *scheduled* start where the portfolio lives.

    The scheduled start stays the same however late a run starts and however often it is tried.
    """
    settings = configuration.settings()
    scheduled = scheduled or runtime.flow_run.scheduled_start_time
    reporter = PrefectReporter(portfolio, settings.data_dir)
    job = Job(portfolio, as_of or scheduled.date(), mode)
    context = Context(job, settings, reporter, spread=spread_of(settings))
    if as_of is None:
        as_of = as_of_from_schedule(scheduled, context.portfolio.timezone)
        context = replace(context, job=replace(context.job, as_of=as_of))
    return context


@dataclass(frozen=True)
class Line:
    """What became of one portfolio and date."""

    portfolio: str
    as_of: date | None
    outcome: str
    note: str = ""
    page: Path | None = None
    failed: bool = False

    @property
    def text(self) -> str:
        """Portfolio, date and outcome in one phrase."""
        place = f"{self.portfolio} {self.as_of}" if self.as_of else self.portfolio
        return f"{place}: {self.outcome}{f', {self.note}' if self.note else ''}"


def when_free(context: Context, work: Callable[[], Result]) -> Result:
    """Do `work` as soon as no other run holds the portfolio's lock; LockedError after LOCK_WAIT_SECONDS of waiting."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    waiting = False
    while True:
        try:
            return work()
        except LockedError as error:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                context.reporter.warn(f"{error} This run waits for up to {LOCK_WAIT_SECONDS / 60:.0f} minutes.")
                waiting = True
            time.sleep(LOCK_POLL_SECONDS)


def attempt(portfolio: str, as_of: date | None, work: Callable[[], Line]) -> State[Any]:
    """The final state of one portfolio's sub-flow: its line, or the error that stopped it in words without a trace.

    Anything but a MetariskError is a defect and keeps its traceback.
    """
    try:
        line = work()
    except MetariskError as error:
        line = failure(portfolio, as_of, error)
        page = f" Page: {report_address(Settings().data_dir, line.page)}" if line.page else ""
        return Failed(name=STATES.get(type(error), "Failed"), message=line.note + page, data=line)
    return Completed(message=line.text, data=line)


def failure(portfolio: str, as_of: date | None, error: BaseException) -> Line:
    """The line of a portfolio that failed, with the page that says why if there is one."""
    page = error.page if isinstance(error, MetariskError) else None
    return Line(portfolio, as_of, "failed", f"{type(error).__name__}: {error}", page, failed=True)


def outcome(portfolio: str, as_of: date | None, state: State[Any]) -> Line:
    """The line of a sub-flow that ended in `state`."""
    result = state.result(raise_on_failure=False)
    if isinstance(result, Line):
        return result
    error = result if isinstance(result, BaseException) else RuntimeError(state.message or state.name)
    return failure(portfolio, as_of, error)


def conclude(title: str, lines: Sequence[Line]) -> State[Any]:
    """Log every line, store the summary, and give the final state: failed if any line is, saying which and why."""
    for line in lines:
        get_run_logger().log(logging.ERROR if line.failed else logging.INFO, "%s", line.text)
    failed = [line for line in lines if line.failed]
    counted = f"{len(failed)} of {len(lines)} failed" if failed else f"{len(lines)} done, none failed"
    create_markdown_artifact(summary(lines), key=f"{title}-summary", description=f"What became of {title}: {counted}")
    if failed:
        message = f"{counted}. " + "; ".join(line.text for line in failed)
        return Failed(name=PORTFOLIO_FAILED, message=message, data=list(lines))
    return Completed(message="; ".join(line.text for line in lines) or "no portfolio is configured", data=list(lines))


def lines_of(state: State[Any]) -> list[Line]:
    """The lines of a flow that ended with `conclude` in this process."""
    lines = state.result(raise_on_failure=False)
    if isinstance(lines, BaseException):
        raise lines
    return list(lines)


def summary(lines: Sequence[Line]) -> str:
    """What failed in full, then all lines as a markdown table."""
    data = Settings().data_dir
    failures = [f"- **{_escaped(line.text)}**" for line in lines if line.failed]
    rows = [
        f"| {line.portfolio} | {line.as_of or ''} | {'**FAILED**' if line.failed else line.outcome} "
        f"| {f'[open]({report_address(data, line.page)})' if line.page else ''} "
        f"| {'see above' if line.failed else _escaped(line.note)} |"
        for line in sorted(lines, key=lambda line: not line.failed)
    ]
    head = ["| portfolio | as of | outcome | report | details |", "|---|---|---|---|---|"]
    return "\n".join([*failures, *([""] if failures else []), *head, *rows])


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
