"""Scores, the adaptations that made them, and what persons say instead of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from metarisk.domain import Rows, Scalar, Transaction, Warehouse
from metarisk.record.appending import append, not_before
from metarisk.record.events import append_event
from metarisk.record.publications import PUBLICATIONS, window
from metarisk.record.seals import override_sum

if TYPE_CHECKING:
    import pyarrow as pa

_OF_RUN = "SELECT * FROM metarisk.risk_score WHERE run_id = $run_id AND as_of = $as_of"
_OF_TARGET = """
SELECT entity, score FROM metarisk.risk_score WHERE run_id = $run_id AND as_of = $as_of AND target = $target
"""
_PUBLISHED = f"""
SELECT s.as_of, s.entity, s.target, s.score
FROM metarisk.risk_score AS s
JOIN ({PUBLICATIONS}) AS n ON n.run_id = s.run_id AND n.as_of = s.as_of
WHERE CASE WHEN s.target = $target THEN n.proves ELSE n.newest END
"""  # noqa: S608 - constants only
_OF_ENTITY = """
SELECT as_of, entity, target, segment, status, score, score_low, score_high, grade, points, expected_loss, reasons,
    run_id, adaptation_id
FROM metarisk.score_history
WHERE portfolio = $portfolio AND as_of = $as_of AND entity = $entity AND target = $target
"""
_RUNS = "SELECT DISTINCT run_id, as_of FROM metarisk.risk_score WHERE portfolio = $portfolio AND entity = $entity"
_FIRST_SCORED = """
SELECT s.entity, min(s.as_of) AS first_scored
FROM metarisk.risk_score AS s
JOIN (
    SELECT c.run_id, c.as_of FROM metarisk.publication_current AS c WHERE c.portfolio = $portfolio
    UNION SELECT t.run_id, t.as_of FROM metarisk.retracted_run AS t WHERE t.portfolio = $portfolio
) AS p ON p.run_id = s.run_id AND p.as_of = s.as_of
GROUP BY s.entity
"""
"""What was looked into stays true where its night was taken back."""
_LINEAGE = """
SELECT a.status, a.reason, a.support_rows, a.support_events, a.support_hash, a.adaptation_id, a.model_id, m.recipe,
    m.as_of AS labels_until
FROM metarisk.adaptation a JOIN metarisk.model m ON m.model_id = a.model_id
WHERE a.run_id = $run_id AND a.segment = $segment
"""
_LAST_ADAPTATIONS = """
SELECT a.segment, a.adaptation_id
FROM metarisk.adaptation a
WHERE a.run_id = (
    SELECT p.run_id FROM metarisk.publication AS p
    JOIN (
        SELECT as_of, max(seq) AS seq FROM metarisk.publication
        WHERE portfolio = $portfolio AND as_of < $as_of AND ($known IS NULL OR published_at < $known)
        GROUP BY as_of
    ) AS newest ON newest.as_of = p.as_of AND newest.seq = p.seq
    WHERE p.portfolio = $portfolio AND p.run_id IS NOT NULL ORDER BY p.as_of DESC LIMIT 1
)
"""
_LATEST = "SELECT as_of FROM metarisk.score_current WHERE portfolio = $portfolio AND entity = $entity"
_OVERRIDES = "SELECT * FROM metarisk.score_override WHERE portfolio = $portfolio ORDER BY seq"
_OVERRIDDEN = "SELECT * FROM metarisk.score_override_current WHERE portfolio = $portfolio ORDER BY entity"


def scores_of_run(warehouse: Warehouse, run_id: str, as_of: date) -> pl.DataFrame:
    """All score rows of a run; none where they have left the warehouse."""
    with warehouse.stream(_OF_RUN, {"run_id": run_id, "as_of": as_of}) as reader:
        parts = [pl.DataFrame(batch) for batch in reader]
    return pl.concat(parts) if parts else pl.DataFrame()


def scores_of_target(
    warehouse: Warehouse, run_id: str, as_of: date, target: str
) -> AbstractContextManager[pa.RecordBatchReader]:
    """Entities and scores of a run for one target, as a stream."""
    return warehouse.stream(_OF_TARGET, {"run_id": run_id, "as_of": as_of, "target": target})


def scores_published(
    warehouse: Warehouse, portfolio: str, target: str, first: date, last: date, known: datetime, *, bitemporal: bool
) -> pl.DataFrame:
    """Scores (as_of, entity, target, score) of nights from `first` to `last` as they were published by `known`.

    Those of `target` are of the newest publications that prove something, see PUBLICATIONS; of others, of the newest.
    """
    about = window(portfolio, first, last, known, bitemporal=bitemporal) | {"target": target}
    with warehouse.stream(_PUBLISHED, about) as reader:
        parts = [pl.DataFrame(batch) for batch in reader]
    empty = pl.DataFrame(schema={"as_of": pl.Date, "entity": pl.String, "target": pl.String, "score": pl.Float64})
    return pl.concat([empty, *parts]).sort("as_of", "entity", "target")


def score_of_entity(source: Rows, portfolio: str, as_of: date, entity: str, target: str) -> dict[str, Any] | None:
    """The published score row of an entity; None where there is none."""
    about: dict[str, Scalar] = {"portfolio": portfolio, "as_of": as_of, "entity": entity, "target": target}
    return next(iter(source.rows(_OF_ENTITY, about)), None)


def latest_night_of(source: Rows, portfolio: str, entity: str) -> date | None:
    """The latest night of the portfolio, where it scored the entity."""
    rows = source.rows(_LATEST, {"portfolio": portfolio, "entity": entity})
    return next((row["as_of"] for row in rows), None)


def first_scored(warehouse: Warehouse, portfolio: str) -> AbstractContextManager[pa.RecordBatchReader]:
    """Entities with the first night that scored them and was not undone by a later publication, as a stream."""
    return warehouse.stream(_FIRST_SCORED, {"portfolio": portfolio})


def runs_of_entity(source: Rows, portfolio: str, entity: str) -> dict[str, date]:
    """Runs that scored an entity, with their nights."""
    return {row["run_id"]: row["as_of"] for row in source.rows(_RUNS, {"portfolio": portfolio, "entity": entity})}


def lineage(source: Rows, run_id: str, segment: str) -> dict[str, Any]:
    """The adaptation of a run's segment with its model; empty where it has none."""
    return next(iter(source.rows(_LINEAGE, {"run_id": run_id, "segment": segment})), {})


def last_adaptations(source: Rows, portfolio: str, before: date, known: datetime | None) -> dict[str, str]:
    """Adaptation id of every segment in the newest night before a date, of those that stand or stood at `known`."""
    about: dict[str, Scalar] = {"portfolio": portfolio, "as_of": before, "known": known}
    return {row["segment"]: row["adaptation_id"] for row in source.rows(_LAST_ADAPTATIONS, about)}


def overrides(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Every override of a portfolio and every lifting of one, in their order."""
    return source.rows(_OVERRIDES, {"portfolio": portfolio})


def standing_overrides(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Overrides that stand at the latest night, beside what the model says."""
    return source.rows(_OVERRIDDEN, {"portfolio": portfolio})


def append_override(transaction: Transaction, portfolio: str, row: Mapping[str, Any], now: datetime) -> None:
    """Append an override (entity, target, event, author, reason, ...) under the next number, and the event that seals
    it."""
    known = overrides(transaction, portfolio)
    last = max((one["happened_at"] for one in known), default=None)
    numbered = {"portfolio": portfolio, "seq": 1 + max((one["seq"] for one in known), default=0)}
    numbered |= {**row, "happened_at": not_before(now, last)}
    append(transaction, "score_override", [{name: value for name, value in numbered.items() if value is not None}])
    told = {"seq": numbered["seq"], "event": row["event"], "row": override_sum(numbered)}
    append_event(transaction, portfolio, now, "override", told, row["author"])
