"""A published night taken back: appended with author and reason, so that what was known before stays what was known."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from metarisk.job.acceptance import require_person
from metarisk.job.context import Context
from metarisk.job.published import require_standing
from metarisk.pages import refusal
from metarisk.record.events import append_event
from metarisk.record.outcomes import undo_outcomes
from metarisk.record.publications import append_publication, is_retracted, last_night, newest
from metarisk.record.seals import RETRACTION, as_told, instant, trusted_events


@dataclass(frozen=True)
class Retracted:
    """A night that no reader sees any more."""

    portfolio: str
    as_of: date
    run_id: str
    """The run that was current until then."""
    by: str
    reason: str
    latest: date | None
    """The night that readers have for the latest now; None where none is left."""
    already: bool
    """Whether it had been taken back before, by whom and why the log says: then nothing was appended."""
    page: Path | None


def retract(context: Context, by: str, reason: str) -> Retracted:
    """Take the published night of the job's as_of back: readers get the night before at once.

    None of the date's runs comes back by itself; `nightly` as a restatement publishes one again. Killed anywhere and
    run again, it ends as if it had not been killed.

    Raises:
        ConfigError: nobody is named or no reason is given, or there is no such portfolio.
        DataError: no night of that date was ever published.
        LockedError: a run of the portfolio goes on.
    """
    require_person(context, by, reason)
    with context.warehouse.lock(context.job.portfolio):
        found = newest(context.warehouse, context.job.portfolio, context.job.as_of)
        already = is_retracted(found)
        if not already:
            if found is None:
                _ = context.portfolio  # a name that no portfolio has is told as such
            _append(context, require_standing(context), by, reason)
        context.warehouse.snapshot()
        run_id, by, reason = _told(context)
        latest = last_night(context.warehouse, context.job.portfolio)
        page = refusal.retracted(context, run_id, f"Taken back by {by}: {reason}", latest)
    return Retracted(context.job.portfolio, context.job.as_of, run_id, by, reason, latest, already, page)


def _append(context: Context, standing: dict[str, Any], by: str, reason: str) -> None:
    job = context.job
    with context.warehouse.transaction() as transaction:
        about = job.portfolio, job.as_of, None, reason, context.clock()
        publication = append_publication(transaction, *about)
        undo_outcomes(transaction, job.portfolio, job.as_of)
        row = as_told(publication, "seq", "published_at", "reason")
        told = {"as_of": job.as_of, "run_id": None, "publication": row, "retracted": standing["run_id"]}
        append_event(transaction, context.job.portfolio, context.clock(), RETRACTION, told, by)


def _told(context: Context) -> tuple[str, str, str]:
    """Run, author and reason of the retraction that holds, as the log has them."""
    found = newest(context.warehouse, context.job.portfolio, context.job.as_of) or {}
    for event in reversed(trusted_events(context.warehouse, context.job.portfolio)):
        told = json.loads(event["payload"]) if event["kind"] == RETRACTION else {}
        if told.get("as_of") == str(context.job.as_of) and told["publication"]["seq"] == found["seq"]:
            return told["retracted"], event["actor"], told["publication"]["reason"]
    return "", "nobody that the log knows", f"{found['reason']}, published at {instant(found['published_at'])}"
