"""States of models: what a week or a person appends, and what earlier weeks prove."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from metarisk.domain import Scalar, Transaction
from metarisk.job.context import Context
from metarisk.record.appending import append_rows, not_before
from metarisk.record.backing import backing
from metarisk.record.events import append_event
from metarisk.record.seals import seal_evidence, state_rows

JOB = "metarisk"
"""Who decides where no person does."""

WEEKLY, BACKFILL = "weekly", "backfill"
"""Modes of a model: the week of its time made it, or a backfill."""

_OF_WEEKS = f"""
FROM metarisk.evidence AS e JOIN metarisk.model AS m ON m.model_id = e.model_id
WHERE e.portfolio = $portfolio AND e.as_of < $as_of AND ($bitemporal OR coalesce(m.mode, '') <> '{BACKFILL}')
"""

_WEEKS = f"""
SELECT e.as_of, e.model_id, max(CASE
    WHEN e.metric = 'loss_minus_incumbent' AND e.slice = $incumbent AND e.high < 0 THEN e.candidate
END) AS proved {_OF_WEEKS} AND e.protocol = 'walk_forward'
GROUP BY e.as_of, e.model_id ORDER BY e.as_of DESC, e.model_id
"""

_MODELS = """
SELECT m.model_id, m.as_of, m.recipe, s.seq, s.state, s.since, s.by_whom, s.reason, c.champion_since
FROM metarisk.model m
JOIN metarisk.model_state s ON s.model_id = m.model_id
AND s.seq = (SELECT max(n.seq) FROM metarisk.model_state n WHERE n.model_id = m.model_id)
LEFT JOIN (
    SELECT model_id, max(since) AS champion_since FROM metarisk.model_state WHERE state = 'champion' GROUP BY model_id
) c ON c.model_id = m.model_id
WHERE m.portfolio = $portfolio
ORDER BY m.as_of DESC, c.champion_since DESC, m.model_id
"""


def earlier_proofs(context: Context, incumbent: str) -> list[str]:
    """Of the weeks before this one, newest first: the challenger that beat the incumbent for certain, or nothing.

    It ends with the first week that has none. Weeks that a backfill trained are left out, unless the source is
    bitemporal: they read what it has become since. So are weeks of which no event tells; evidence that is not as the
    log sealed it proves nothing.
    """
    about: dict[str, Scalar] = {"portfolio": context.job.portfolio, "as_of": context.job.as_of}
    about |= {"bitemporal": context.portfolio.source.bitemporal, "incumbent": incumbent}
    log, proofs = backing(context.warehouse, context.job.portfolio), []
    told = [row for row in context.warehouse.rows(_WEEKS, about) if log.knows(row["model_id"])]
    for _, week in groupby(told, key=lambda row: row["as_of"]):
        proved = [row for row in week if row["proved"] and log.proves(context.warehouse, row["model_id"])]
        proofs.append(proved[-1]["proved"] if proved else "")
        if not proved:
            break
    return proofs


def append_states(
    context: Context,
    transaction: Transaction,
    model_id: str,
    states: Sequence[str],
    reason: str,
    by: str = JOB,
    *,
    withdraw: bool = False,
) -> None:
    """Append states of a model of the job's as_of, and what follows for the others, to table and event log.

    A new champion retires the older ones. A model of the past that becomes champion late serves nights of the past
    alone and is retired at once, unless the newer champions are to be withdrawn: then no night uses them any more.
    """
    portfolio, as_of = context.job.portfolio, context.job.as_of
    known = {row["model_id"]: row for row in transaction.rows(_MODELS, {"portfolio": portfolio})}
    now = not_before(context.clock(), max((row["since"] for row in known.values()), default=None))
    after = known.pop(model_id, {"seq": 0})["seq"]
    others = [row for row in known.values() if row["state"] == "champion"]
    newer = [row for row in known.values() if row["champion_since"] and row["as_of"] > as_of]
    new = [(model_id, number, state) for number, state in enumerate(states, start=after + 1)]
    if "champion" in states and withdraw:
        new += [(row["model_id"], row["seq"] + 1, "withdrawn") for row in newer if row["state"] != "withdrawn"]
    elif "champion" in states and any(row["state"] == "champion" for row in newer):
        new += [(model_id, new[-1][1] + 1, "retired")]
    if "champion" in states:
        new += [(row["model_id"], row["seq"] + 1, "retired") for row in others if row["as_of"] <= as_of]
    common = {"portfolio": portfolio, "since": now, "by_whom": by, "reason": reason}
    rows = [common | {"model_id": model, "seq": seq, "state": state} for model, seq, state in new]
    append_rows(transaction, "metarisk.model_state", rows)
    last = {model: state for model, _, state in new}
    told: dict[str, Any] = {"model_id": model_id, "state": last[model_id], "states": last, "reason": reason}
    told |= {"rows": state_rows(rows), "evidence": seal_evidence(transaction, model_id)}
    append_event(transaction, context.job.portfolio, context.clock(), "model", told, by)
