"""Which nights stand: what is published for a date, what a person took back, and which night is the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from metarisk.domain import DataError, Scalar
from metarisk.job.context import Context
from metarisk.record.seals import instant

_NEWEST = """
SELECT p.seq, p.run_id, p.published_at, p.reason, r.model_id, r.rows_scored
FROM metarisk.publication AS p
LEFT JOIN metarisk.run AS r ON r.run_id = p.run_id
WHERE p.portfolio = $portfolio AND p.as_of = $as_of
ORDER BY p.seq DESC LIMIT 1
"""
_LAST = """
SELECT max(as_of) AS night FROM metarisk.publication_current
WHERE portfolio = $portfolio AND ($before IS NULL OR as_of < $before)
"""


def newest_publication(context: Context) -> dict[str, Any] | None:
    """The newest publication of (portfolio, as_of); its `run_id` is None where the night was taken back."""
    about: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of}
    rows = context.warehouse.rows(_NEWEST, about)
    return rows[0] if rows else None


def is_retracted(publication: Mapping[str, Any] | None) -> bool:
    """Whether the newest publication of a date takes its night back."""
    return publication is not None and publication["run_id"] is None


def taken_back(publication: Mapping[str, Any]) -> str:
    """A retraction in words."""
    at = instant(publication["published_at"])[:16].replace("T", " ")
    return f"the night was retracted at {at} UTC: {publication['reason']}"


def to_publish_again(context: Context) -> str:
    """The command that publishes a retracted night again."""
    return f"`metarisk nightly --portfolio {context.job.portfolio} --as-of {context.job.as_of} --restate WHY`"


def require_standing(context: Context, as_of: date | None = None) -> dict[str, Any]:
    """The publication of the job's date, or of another, that stands.

    Raises:
        DataError: no night of that date is published, or it was taken back.
    """
    if as_of is not None:
        context = replace(context, job=replace(context.job, as_of=as_of))
    found = newest_publication(context)
    if found is not None and not is_retracted(found):
        return found
    raise DataError(
        "no night of this date is published" if found is None else taken_back(found),
        portfolio=context.job.portfolio,
        on=context.job.as_of,
        remedy="check the date; the view `night` and `metarisk runs` have all that were published"
        if found is None
        else f"ask for another night, or publish it again: {to_publish_again(context)}",
    )


def last_night(context: Context, before: date | None = None) -> date | None:
    """The newest night of the portfolio that stands, or the newest before a date; None where there is none."""
    rows = context.warehouse.rows(_LAST, {"portfolio": context.job.portfolio, "before": before})
    found: date | None = rows[0]["night"]
    return found
