"""Attempts in the warehouse: a row when one begins, a row when it ends, and what is said of one that never ended.

An attempt holds the lock of its portfolio and job from before its first row until after its last one. So one without an
end whose lock is free has died: killed, out of memory, or without power.
"""

import json
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal

from metarisk.domain import Job, LockedError, MetariskError, SourceLate, Transaction
from metarisk.job.context import Context
from metarisk.job.dates import what_is_due
from metarisk.record.appending import append
from metarisk.record.attempts import has_ended, unended
from metarisk.record.portfolios import append_due

Kind = Literal["night", "week"]
Outcome = Literal["published", "registered", "failed", "source_late", "died"]
WEEKLY = "weekly"


@dataclass(frozen=True)
class Attempt:
    """One try at a night or a week: its times."""

    attempt_id: str
    job: Kind
    started_at: datetime
    seconds: Mapping[str, float]


def lock_of(portfolio: str, job: Kind) -> str:
    """Name of the lock that an attempt holds for as long as it lives."""
    return portfolio if job == "night" else f"{portfolio}.weekly"


def begin(context: Context, job: Kind) -> Attempt:
    """A new attempt, begun now and written, with what its TOML says of nights; the caller holds its lock."""
    attempt = Attempt(uuid.uuid4().hex, job, context.clock(), {})
    row = _about(context, attempt) | {"host": socket.gethostname(), "pid": os.getpid()}
    try:
        due = what_is_due(context)
    except MetariskError as error:  # of a TOML, say, whose attempt is recorded all the same
        due = None
        context.reporter.warn(f"{context.job.portfolio}: the warehouse is not told which nights are due: {error.what}")
    with context.warehouse.transaction() as transaction:
        append(transaction, "attempt_start", [row])
        if due is not None:
            append_due(transaction, context.job.portfolio, due.row, due.dates, context.clock())
    return attempt


def append_end(
    context: Context,
    transaction: Transaction,
    attempt: Attempt,
    outcome: Outcome,
    *,
    run_id: str | None = None,
    step: str,
    error: str | None = None,
) -> None:
    """Append how an attempt ended; nothing where that is written already."""
    if has_ended(transaction, attempt.attempt_id):
        return
    row = {name: value for name, value in _about(context, attempt).items() if name != "job"} | {
        "run_id": run_id,
        "step": step,
        "ended_at": context.clock(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "outcome": outcome,
        "error": error,
        "step_seconds": json.dumps({name: round(value, 3) for name, value in attempt.seconds.items()}),
    }
    append(transaction, "run_attempt", [row])


def record_failure(
    context: Context, attempt: Attempt, step: str, error: BaseException, checked: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Write an attempt that did not end well, with what its checks found, and whether it had to be.

    One that is committed stays as it is.
    """
    outcome: Outcome = "source_late" if isinstance(error, SourceLate) else "failed"
    text = str(error) if isinstance(error, MetariskError) else type(error).__name__
    with context.warehouse.transaction() as transaction:
        if has_ended(transaction, attempt.attempt_id):
            return False
        append_end(context, transaction, attempt, outcome, step=step, error=text)
        append_quality(context, transaction, attempt, None, checked)
    return True


def append_quality(
    context: Context,
    transaction: Transaction,
    attempt: Attempt,
    run_id: str | None,
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Append what the checks of an attempt found."""
    common = {
        "run_id": run_id,
        "attempt_id": attempt.attempt_id,
        "portfolio": context.job.portfolio,
        "as_of": context.job.as_of,
    }
    append(transaction, "quality_result", [common | dict(result) for result in results])


def record_deaths(context: Context, job: Kind) -> list[dict[str, Any]]:
    """End every attempt at a portfolio's job that has begun and not ended, as `died`; their rows of `attempt_start`.

    The caller holds the job's lock, so none of them lives. The file for BI is renewed where there was one.
    """
    begun = unended(context.warehouse)
    dead = [row for row in begun if (row["portfolio"], row["job"]) == (context.job.portfolio, job)]
    if dead:
        with context.warehouse.transaction() as transaction:
            append(transaction, "run_attempt", [_dead(row, context.clock()) for row in dead])
        context.warehouse.snapshot()
    return dead


def look_for_deaths(context: Context) -> None:
    """Record attempts of any portfolio that have died and of which nobody has told yet; one whose lock is held lives.

    A lock is taken only where an attempt has no end, for as long as it takes to write one.
    """
    for portfolio, job in dict.fromkeys((row["portfolio"], row["job"]) for row in unended(context.warehouse)):
        one = replace(context, job=Job(portfolio, date.min))
        with suppress(LockedError), context.warehouse.lock(lock_of(portfolio, job)):
            record_deaths(one, job)


def _about(context: Context, attempt: Attempt) -> dict[str, Any]:
    job = context.job
    return {
        "attempt_id": attempt.attempt_id,
        "job": attempt.job,
        "portfolio": job.portfolio,
        "as_of": job.as_of,
        "mode": WEEKLY if attempt.job == "week" and job.mode == "nightly" else job.mode,
        "started_at": attempt.started_at,
    }


def _dead(start: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The end of an attempt that wrote none: when it was found, for nobody knows when it was."""
    kept = {name: value for name, value in start.items() if name != "job"}
    said = f"process {start['pid']} on {start['host']} ended without a word: killed, out of memory, or without power"
    return kept | {
        "ended_at": now,
        "outcome": "died",
        "error": f"{said}. Remedy: look at that machine's log and memory (METARISK_MEMORY_MB), then run it again.",
    }
