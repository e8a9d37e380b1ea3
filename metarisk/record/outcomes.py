"""What became of entities: outcomes as nights have told them, and what reviewers said."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import date
from typing import TYPE_CHECKING, Any

from metarisk.domain import Rows, Transaction, Warehouse
from metarisk.record.publications import last_night

if TYPE_CHECKING:
    import pyarrow as pa

_CURRENT = """
SELECT entity, opened_on, event_date AS old_event, known_date AS old_known, value AS old_value, seq AS old_seq
FROM metarisk.outcome_current
WHERE portfolio = $portfolio AND target = $target
"""
_UNDO = """
INSERT INTO metarisk.outcome (portfolio, entity, target, opened_on, event_date, known_date, value, as_of, seq)
SELECT
    t.portfolio, t.entity, t.target, t.opened_on, b.event_date, coalesce(b.known_date, $as_of), coalesce(b.value, 0),
    $as_of, t.seq + 1
FROM metarisk.outcome_current AS t
LEFT JOIN (
    SELECT
        entity, target, opened_on, event_date, known_date, value,
        row_number() OVER (PARTITION BY entity, target, opened_on ORDER BY seq DESC) AS place
    FROM metarisk.outcome WHERE portfolio = $portfolio AND as_of <= $last
) AS b ON b.entity = t.entity AND b.target = t.target AND b.opened_on = t.opened_on AND b.place = 1
WHERE t.portfolio = $portfolio AND ($last IS NULL OR t.as_of > $last)
AND (
    t.value IS DISTINCT FROM coalesce(b.value, 0) OR t.event_date IS DISTINCT FROM b.event_date
    OR (b.entity IS NOT NULL AND t.known_date IS DISTINCT FROM b.known_date)
)
"""
_FEEDBACK = "SELECT entity, verdict, decided_on, seq FROM metarisk.feedback WHERE portfolio = $portfolio"


def outcomes_told(warehouse: Warehouse, portfolio: str, target: str) -> AbstractContextManager[pa.RecordBatchReader]:
    """Entity, opening date, and the outcome with its number as it was told last, of all entities, as a stream."""
    return warehouse.stream(_CURRENT, {"portfolio": portfolio, "target": target})


def undo_outcomes(transaction: Transaction, portfolio: str, as_of: date) -> None:
    """Tell anew, under as_of, the outcomes of which only nights after the last one that stands have told.

    Outcomes follow time: what those nights have told is no longer said by anybody.
    """
    last = last_night(transaction, portfolio)
    transaction.execute(_UNDO, {"portfolio": portfolio, "as_of": as_of, "last": last})


def feedback(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Verdicts of a portfolio with their numbers."""
    return source.rows(_FEEDBACK, {"portfolio": portfolio})
