"""Scores that a person overrides: appended with author and reason, sealed by the event log, never in place of a row."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from metarisk.domain import ConfigError, DataError, Transaction
from metarisk.job.acceptance import require_person
from metarisk.job.context import Context
from metarisk.quality import score_parameters
from metarisk.record.scores import append_override, latest_night_of, standing_overrides


def override(
    context: Context, entity: str, score: float, by: str, reason: str, last_night: date | None = None
) -> dict[str, Any]:
    """Let a person's score stand for an entity, from the latest night on.

    Args:
        last_night: the last night for which it stands; None: until it is lifted.

    Returns:
        The line of the view `score_override_current`.

    Raises:
        ConfigError: nobody is named, a score that the target cannot have, or a last night of the past.
        DataError: the latest night has no score of the entity.
    """
    require_person(context, by, reason)
    bounds = score_parameters(context.spec.likelihood, 0)
    if not bounds["score_min"] <= score <= bounds["score_max"]:  # type: ignore[operator]
        raise ConfigError(
            f"{score:g} is no {context.spec.score_unit}",
            portfolio=context.job.portfolio,
            remedy=f"give a score from {bounds['score_min']:g} to {bounds['score_max']:g}",
        )
    with context.warehouse.transaction() as transaction:
        night = _night(context, transaction, entity)
        if last_night is not None and last_night < night:
            raise ConfigError(
                f"{last_night} is before the latest night, {night}",
                portfolio=context.job.portfolio,
                remedy="give a last night that is still to come, or none",
            )
        _append(context, transaction, entity, "set", by, reason, {"score": score, "last_night": last_night})
    context.warehouse.snapshot()
    return next(row for row in current(context) if row["entity"] == entity)


def lift(context: Context, entity: str, by: str, reason: str) -> None:
    """Let the model's score stand again. Raises DataError where nobody has overridden it."""
    require_person(context, by, reason)
    if entity not in {row["entity"] for row in current(context)}:
        raise DataError(
            f"no score of {entity!r} is overridden",
            portfolio=context.job.portfolio,
            remedy="`metarisk override list` shows those that are",
        )
    with context.warehouse.transaction() as transaction:
        _append(context, transaction, entity, "lifted", by, reason, {"score": None, "last_night": None})
    context.warehouse.snapshot()


def current(context: Context) -> list[dict[str, Any]]:
    """Overrides that stand at the latest night, beside what the model says."""
    return standing_overrides(context.warehouse, context.job.portfolio)


def _night(context: Context, transaction: Transaction, entity: str) -> date:
    night = latest_night_of(transaction, context.job.portfolio, entity)
    if night is None:
        raise DataError(
            f"the latest night has no score of {entity!r}",
            portfolio=context.job.portfolio,
            remedy="check the entity, as the extract's SQL gives it",
        )
    return night


def _append(
    context: Context, transaction: Transaction, entity: str, event: str, by: str, reason: str, what: Mapping[str, Any]
) -> None:
    about = {"entity": entity, "target": context.portfolio.target.name, "event": event, "author": by, "reason": reason}
    append_override(transaction, context.job.portfolio, {**about, **what}, context.clock())
