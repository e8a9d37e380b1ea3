"""Publications: which run stands for a date, which nights stand, and what was taken back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from metarisk.domain import Rows
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
