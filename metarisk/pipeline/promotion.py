"""Who is champion: states that a week appends, proofs of earlier weeks, and what a person approves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metarisk.domain import ConfigError, Job, Scalar, Transaction
from metarisk.pipeline.context import Context
from metarisk.pipeline.publish import append_event, append_rows

_WEEKS = """
SELECT DISTINCT as_of FROM metarisk.evidence
WHERE portfolio = $portfolio AND protocol = 'walk_forward' AND as_of < $as_of
ORDER BY as_of DESC
"""
_PROOFS = """
SELECT DISTINCT as_of, candidate FROM metarisk.evidence
WHERE portfolio = $portfolio AND metric = 'loss_minus_incumbent' AND slice = $incumbent AND high < 0 AND as_of < $as_of
"""
_OLDER_CHAMPIONS = """
SELECT s.model_id, s.seq
FROM metarisk.model_state s
JOIN metarisk.model m ON m.model_id = s.model_id
WHERE s.portfolio = $portfolio AND s.state = 'champion' AND m.as_of <= $as_of
AND s.seq = (SELECT max(n.seq) FROM metarisk.model_state n WHERE n.model_id = s.model_id)
"""
_NEWER_CHAMPION = """
SELECT m.model_id
FROM metarisk.model_state s
JOIN metarisk.model m ON m.model_id = s.model_id
WHERE s.portfolio = $portfolio AND s.state = 'champion' AND m.as_of > $as_of
LIMIT 1
"""
_STATES = """
SELECT m.model_id, m.as_of, m.recipe, s.seq, s.state
FROM metarisk.model m
JOIN metarisk.model_state s ON s.model_id = m.model_id
WHERE m.portfolio = $portfolio AND m.model_id = $model_id
ORDER BY s.seq DESC
"""


def earlier_proofs(context: Context, incumbent: str) -> list[str]:
    """Of the weeks before this one, newest first: the challenger that beat the incumbent for certain, or nothing."""
    about: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of}
    proofs = {
        row["as_of"]: row["candidate"] for row in context.warehouse.rows(_PROOFS, about | {"incumbent": incumbent})
    }
    return [proofs.get(row["as_of"], "") for row in context.warehouse.rows(_WEEKS, about)]


def append_states(
    transaction: Transaction, job: Job, model_id: str, states: Sequence[str], common: Mapping[str, Any], after: int = 0
) -> list[str]:
    """Append states of a model after its `after` ones; a new champion retires the older ones.

    A model of the past that becomes champion late serves nights of the past alone: it is retired at once. Returns the
    states that were appended.
    """
    about: dict[str, Scalar] = {"portfolio": job.portfolio, "as_of": job.as_of}
    promoted = "champion" in states
    if promoted and transaction.rows(_NEWER_CHAMPION, about):
        states = [*states, "retired"]
    common = dict(common) | {"portfolio": job.portfolio}
    rows = [
        common | {"model_id": model_id, "seq": after + number, "state": state}
        for number, state in enumerate(states, start=1)
    ]
    if promoted:
        rows += [
            common | {"model_id": row["model_id"], "seq": row["seq"] + 1, "state": "retired"}
            for row in transaction.rows(_OLDER_CHAMPIONS, about)
            if row["model_id"] != model_id
        ]
    append_rows(transaction, "metarisk.model_state", rows)
    return list(states)


def approve(context: Context, model_id: str, by: str, reason: str) -> str:
    """Make a waiting candidate champion on a person's word; the recipe of the model.

    Raises ConfigError where the portfolio has no such model, or where it does not wait.
    """
    job = context.job
    with context.warehouse.transaction() as transaction:
        found = transaction.rows(_STATES, {"portfolio": job.portfolio, "model_id": model_id})
        if not found:
            raise ConfigError(
                f"there is no model {model_id}",
                portfolio=job.portfolio,
                remedy="take the id from the week's report, or from view metarisk.model_current",
            )
        latest = found[0]
        if latest["state"] != "candidate":
            raise ConfigError(
                f"model {model_id} is {latest['state']} and does not wait for approval",
                portfolio=job.portfolio,
                remedy="approve a candidate",
            )
        own = Job(job.portfolio, latest["as_of"])
        common = {"since": context.clock(), "by_whom": by, "reason": reason}
        states = append_states(transaction, own, model_id, ["approved", "champion"], common, latest["seq"])
        payload = {"model_id": model_id, "state": states[-1], "by": by, "reason": reason}
        append_event(context, transaction, "model", payload)
    context.warehouse.snapshot()
    return str(latest["recipe"])
