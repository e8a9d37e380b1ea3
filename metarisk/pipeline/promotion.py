"""Who is champion: states that a week appends, proofs of earlier weeks, and what a person decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from metarisk.domain import ConfigError, ModelError, Scalar, Transaction
from metarisk.pipeline.appending import append_rows, not_before
from metarisk.pipeline.audit import append_event, require_person
from metarisk.pipeline.backing import backing, unbacked
from metarisk.pipeline.context import Context
from metarisk.pipeline.models import load_model
from metarisk.pipeline.sealing import Rows, seal_evidence, state_rows
from metarisk.pipeline.storing import keep_model, store_of

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
_HISTORY = """
SELECT seq, state, since, by_whom, reason FROM metarisk.model_state WHERE model_id = $model_id ORDER BY seq
"""
_EVIDENCE = """
SELECT candidate, metric, value, low, high, rows, events FROM metarisk.evidence
WHERE model_id = $model_id AND protocol = 'walk_forward' AND slice = 'all' AND metric NOT LIKE 'loss_minus%'
ORDER BY metric, value
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


def models(context: Context) -> list[dict[str, Any]]:
    """Every model of the portfolio with its newest state, the newest label cut-off first."""
    return context.warehouse.rows(_MODELS, {"portfolio": context.job.portfolio})


def describe(context: Context, model_id: str) -> dict[str, Any]:
    """One model: its row, the headline of its evidence, and all its states. Raises ConfigError where there is none."""
    found = _found(context, context.warehouse, model_id)
    about: dict[str, Scalar] = {"model_id": model_id}
    (model,) = context.warehouse.rows("SELECT * FROM metarisk.model WHERE model_id = $model_id", about)
    return {
        "model": model | {"mode": model["mode"] or WEEKLY, "state": found["state"]},
        "evidence": context.warehouse.rows(_EVIDENCE, about),
        "states": context.warehouse.rows(_HISTORY, about),
    }


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
    append_event(context, transaction, "model", told, by)


def approve(context: Context, model_id: str, by: str, reason: str) -> str:
    """Make a waiting candidate champion on a person's word; the recipe of the model.

    Raises ConfigError where nobody is named, where the portfolio has no such model, or where it does not wait;
    ModelError where its files are gone or damaged.
    """
    require_person(context, by, reason)
    with context.warehouse.transaction() as transaction:
        found = _found(context, transaction, model_id)
        if found["state"] != "candidate":
            raise ConfigError(
                f"model {model_id} is {found['state']} and does not wait for approval",
                portfolio=context.job.portfolio,
                remedy="approve a candidate; `metarisk models promote` brings back a model of the past",
            )
        _ready(context, transaction, model_id)
        append_states(_of(context, found), transaction, model_id, ["approved", "champion"], reason, by)
    context.warehouse.snapshot()
    return str(found["recipe"])


def promote(context: Context, model_id: str, by: str, reason: str) -> str:
    """Make any model with evidence champion on a person's word; newer champions are withdrawn. Its recipe.

    Raises ConfigError where the portfolio has no such model, where it is champion, or where nothing speaks for it;
    ModelError where its files are gone or damaged.
    """
    require_person(context, by, reason)
    with context.warehouse.transaction() as transaction:
        found = _found(context, transaction, model_id)
        if found["state"] == "champion":
            raise ConfigError(
                f"model {model_id} is champion already",
                portfolio=context.job.portfolio,
                remedy="choose another with `metarisk models list`",
            )
        proofs = "SELECT count(*) AS lines FROM metarisk.evidence WHERE model_id = $model_id"
        if not transaction.rows(proofs, {"model_id": model_id})[0]["lines"]:
            raise ConfigError(
                f"model {model_id} has no evidence: it was never judged on rows that it had not seen",
                portfolio=context.job.portfolio,
                remedy="promote a model with evidence, or run the weekly again",
            )
        _ready(context, transaction, model_id)
        append_states(_of(context, found), transaction, model_id, ["champion"], reason, by, withdraw=True)
    context.warehouse.snapshot()
    return str(found["recipe"])


def roll_back(context: Context, by: str, reason: str) -> tuple[str, str]:
    """Withdraw the champion and bring back the one before it; the ids of both.

    Raises ConfigError where there is no champion, or none before it; ModelError where the files of that are not whole.
    """
    require_person(context, by, reason)
    served = [row for row in models(context) if row["champion_since"] and row["state"] != "withdrawn"]
    if len(served) < 2:
        raise ConfigError(
            "there is no champion before this one" if served else "there is no champion",
            portfolio=context.job.portfolio,
            remedy="run the weekly, or promote a candidate with `metarisk models promote`",
        )
    now, before = served[0], served[1]
    _ready(context, context.warehouse, before["model_id"])
    with context.warehouse.transaction() as transaction:
        after = _of(context, before)
        append_states(after, transaction, before["model_id"], ["champion"], reason, by, withdraw=True)
        if now["as_of"] == before["as_of"]:
            append_states(after, transaction, now["model_id"], ["withdrawn"], reason, by)
    context.warehouse.snapshot()
    return str(now["model_id"]), str(before["model_id"])


def _ready(context: Context, source: Rows, model_id: str) -> None:
    """A model that is to serve is the log's, with its evidence, and can be read here and in the copy, if there is one.

    Raises ModelError if not.
    """
    log = backing(source, context.job.portfolio)
    if not log.knows(model_id):
        raise unbacked(model_id, "a candidate", context.job.portfolio)
    if not log.proves(source, model_id):
        raise ModelError(
            f"the evidence of model {model_id} is not that which the log sealed",
            portfolio=context.job.portfolio,
            remedy="`metarisk audit verify` says what else differs: restore the warehouse first",
        )
    load_model(context, model_id)
    if (copy := store_of(context)) is not None:
        keep_model(context, copy, model_id)


def _of(context: Context, model: dict[str, Any]) -> Context:
    """The job at the label cut-off of a model."""
    return replace(context, job=replace(context.job, as_of=model["as_of"]))


def _found(context: Context, source: Rows, model_id: str) -> dict[str, Any]:
    for row in source.rows(_MODELS, {"portfolio": context.job.portfolio}):
        if row["model_id"] == model_id:
            return row
    raise ConfigError(
        f"there is no model {model_id}",
        portfolio=context.job.portfolio,
        remedy="take the id from `metarisk models list`",
    )
