"""Publications: which run stands for a date, which nights stand, and what was taken back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from metarisk.domain import Rows, Scalar, Transaction
from metarisk.record.appending import append, not_before
from metarisk.record.seals import instant

_NEWEST = """
SELECT p.seq, p.run_id, p.published_at, p.reason, r.model_id, r.rows_scored
FROM metarisk.publication AS p
LEFT JOIN metarisk.run AS r ON r.run_id = p.run_id
WHERE p.portfolio = $portfolio AND p.as_of = $as_of
ORDER BY p.seq DESC LIMIT 1
"""
_NIGHTS = """
SELECT
    p.as_of, p.run_id, r.rows_extracted, r.rows_scored, r.extract_hash,
    coalesce(m.state, '') = 'withdrawn' AS is_withdrawn
FROM metarisk.publication_current AS p
JOIN metarisk.run AS r ON r.run_id = p.run_id
LEFT JOIN metarisk.model_current AS m ON m.model_id = r.model_id
WHERE p.portfolio = $portfolio AND p.as_of < $before
ORDER BY p.as_of DESC
"""
_DECIDED = """
SELECT p.as_of, count(c.run_id) > 0 AS stands
FROM metarisk.publication AS p
LEFT JOIN metarisk.publication_current AS c ON c.portfolio = p.portfolio AND c.as_of = p.as_of
WHERE p.portfolio = $portfolio AND p.as_of <= $until
GROUP BY p.as_of
"""
_BETWEEN = """
SELECT min(published_at) AS first, max(published_at) AS last FROM metarisk.publication
WHERE portfolio = $portfolio AND as_of < $before
"""
_FIRST = "SELECT min(published_at) AS first FROM metarisk.publication WHERE run_id = $run_id"
_RETRACTED = "SELECT run_id, retracted_at AS published_at, reason FROM metarisk.retracted_run"
_ALL = """
SELECT as_of, seq, run_id, published_at, reason FROM metarisk.publication
WHERE portfolio = $portfolio ORDER BY as_of, seq
"""
PUBLICATIONS = """
SELECT
    p.as_of, p.run_id, r.model_id, p.seq = max(p.seq) OVER (PARTITION BY p.as_of) AS newest,
    p.seq = max(CASE WHEN r.mode = 'nightly' OR $bitemporal THEN p.seq END) OVER (PARTITION BY p.as_of) AS proves
FROM metarisk.publication AS p
JOIN metarisk.run AS r ON r.run_id = p.run_id
WHERE p.portfolio = $portfolio AND p.as_of >= $first AND p.as_of <= $last
AND ($known IS NULL OR p.published_at <= $known)
AND NOT EXISTS (
    SELECT 1 FROM metarisk.publication AS t
    WHERE t.portfolio = p.portfolio AND t.as_of = p.as_of AND t.run_id IS NULL AND t.seq > p.seq
    AND ($known IS NULL OR t.published_at <= $known)
)
"""
"""Of each night the newest publication, and the newest that may prove something: one that was made at its time.

A backfill or a restatement reads what the source has become, unless the source is declared bitemporal. What was taken
back is neither.
"""
_MONTH_ENDS = f"""
SELECT as_of, run_id, model_id FROM (
    SELECT
        as_of, run_id, model_id,
        row_number() OVER (PARTITION BY date_trunc('month', as_of) ORDER BY as_of DESC) AS from_end
    FROM ({PUBLICATIONS}) AS p WHERE proves
) AS n WHERE from_end = 1
ORDER BY as_of
"""  # noqa: S608 - constants only


def newest(source: Rows, portfolio: str, as_of: date) -> dict[str, Any] | None:
    """The newest publication of (portfolio, as_of); its `run_id` is None where the night was taken back."""
    found = source.rows(_NEWEST, {"portfolio": portfolio, "as_of": as_of})
    return found[0] if found else None


def is_retracted(publication: Mapping[str, Any] | None) -> bool:
    """Whether the newest publication of a date takes its night back."""
    return publication is not None and publication["run_id"] is None


def taken_back(publication: Mapping[str, Any]) -> str:
    """A retraction in words."""
    at = instant(publication["published_at"])[:16].replace("T", " ")
    return f"the night was retracted at {at} UTC: {publication['reason']}"


def nights(source: Rows, portfolio: str, before: date = date.max) -> list[dict[str, Any]]:
    """The nights that stand before a date, newest first, with rows, and whether the model was withdrawn since."""
    return source.rows(_NIGHTS, {"portfolio": portfolio, "before": before})


def last_night(source: Rows, portfolio: str, before: date = date.max) -> date | None:
    """The newest night of a portfolio that stands, or the newest before a date; None where there is none."""
    return next((row["as_of"] for row in nights(source, portfolio, before)), None)


def decided(source: Rows, portfolio: str, until: date) -> dict[date, bool]:
    """By date up to `until` on which a night was ever published, whether it stands."""
    rows = source.rows(_DECIDED, {"portfolio": portfolio, "until": until})
    return {row["as_of"]: row["stands"] for row in rows}


def published_between(source: Rows, portfolio: str, before: date = date.max) -> tuple[datetime | None, datetime | None]:
    """When the first and the last publication of a portfolio was made, of nights before a date; None for never."""
    (row,) = source.rows(_BETWEEN, {"portfolio": portfolio, "before": before})
    return row["first"], row["last"]


def first_published(source: Rows, run_id: str) -> datetime | None:
    """When a run was published first; None where it never was."""
    found: datetime | None = source.rows(_FIRST, {"run_id": run_id})[0]["first"]
    return found


def retracted_runs(source: Rows) -> dict[str, dict[str, Any]]:
    """Runs of any portfolio that were taken back, with when and why."""
    return {row["run_id"]: row for row in source.rows(_RETRACTED)}


def all_publications(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Every publication of a portfolio."""
    return source.rows(_ALL, {"portfolio": portfolio})


def month_ends(source: Rows, portfolio: str, first: date, last: date, *, bitemporal: bool) -> list[dict[str, Any]]:
    """Night, run and model of what back-tests read: in each month the last night that may prove something."""
    return source.rows(_MONTH_ENDS, window(portfolio, first, last, bitemporal=bitemporal))


def window(
    portfolio: str, first: date, last: date, known: datetime | None = None, *, bitemporal: bool
) -> dict[str, Scalar]:
    """Parameters of PUBLICATIONS: nights from `first` to `last`, as published by `known` where that is given."""
    return {"portfolio": portfolio, "bitemporal": bitemporal, "first": first, "last": last, "known": known}


def append_publication(
    transaction: Transaction, portfolio: str, as_of: date, run_id: str | None, reason: str | None, now: datetime
) -> dict[str, Any]:
    """Point a date to a run, or to none to take the night back; the row, whose time is later than all others' of the
    portfolio."""
    before, (_, last) = newest(transaction, portfolio, as_of), published_between(transaction, portfolio)
    row = {
        "portfolio": portfolio,
        "as_of": as_of,
        "seq": 1 + (before["seq"] if before else 0),
        "run_id": run_id,
        "published_at": not_before(now, last),
        "reason": reason or None,
    }
    append(transaction, "publication", [row])
    return row
