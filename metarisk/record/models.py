"""Models: their rows, their states, what speaks for them, and the trials of their weeks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from itertools import groupby
from typing import Any

import polars as pl

from metarisk.domain import Job, Rows, Scalar, Transaction
from metarisk.record.appending import append, not_before
from metarisk.record.backing import Backing, backing
from metarisk.record.events import append_event
from metarisk.record.seals import seal_evidence, state_rows

JOB = "metarisk"
"""Who decides where no person does."""

WEEKLY, BACKFILL = "weekly", "backfill"
"""Modes of a model: the week of its time made it, or a backfill."""
_MODEL = "SELECT * FROM metarisk.model WHERE model_id = $model_id"
_STATES = """
SELECT seq, state, since, by_whom, reason FROM metarisk.model_state WHERE model_id = $model_id ORDER BY seq
"""
_ALL_STATES = """
SELECT model_id, seq, state, since, by_whom, reason FROM metarisk.model_state
WHERE portfolio = $portfolio ORDER BY model_id, seq
"""
_EVIDENCE = """
SELECT protocol, candidate, slice, metric, value, low, high, rows, events, note FROM metarisk.evidence
WHERE model_id = $model_id
"""
_BACKTESTS = """
SELECT status, count(*) AS n, sum(rows) AS rows, sum(events) AS events, sum(rows * mean_score) AS expected
FROM metarisk.grade_backtest WHERE model_id = $model_id GROUP BY status ORDER BY status
"""
_CHAMPIONS = """
SELECT m.model_id, m.as_of, m.recipe, s.seq, s.state, s.since, n.seq AS last_seq, n.state AS last_state,
    n.since AS last_since
FROM metarisk.model m
JOIN metarisk.model_state s ON s.model_id = m.model_id AND s.state = 'champion'
JOIN metarisk.model_state n ON n.model_id = m.model_id
AND n.seq = (SELECT max(l.seq) FROM metarisk.model_state l WHERE l.model_id = m.model_id)
WHERE m.portfolio = $portfolio AND m.as_of <= $as_of
ORDER BY m.as_of DESC, s.since DESC, s.seq DESC
"""
_TRIALS = """
SELECT t.as_of, t.recipe, t.configuration, t.metric, t.value, t.low, t.high, t.note
FROM metarisk.trial AS t
JOIN metarisk.model AS m ON m.model_id = $model_id
WHERE t.portfolio = $portfolio AND t.recorded_at <= m.created_at AND t.as_of <= m.as_of
ORDER BY t.as_of, t.recorded_at, t.recipe, t.configuration, t.metric
"""
_TRIAL = {"as_of": pl.Date, **dict.fromkeys(("recipe", "configuration", "metric"), pl.String)}
_TRIAL |= {**dict.fromkeys(("value", "low", "high"), pl.Float64), "note": pl.String}
_WEEKS = f"""
SELECT e.as_of, e.model_id, max(CASE
    WHEN e.metric = 'loss_minus_incumbent' AND e.slice = $incumbent AND e.high < 0 THEN e.candidate
END) AS proved
FROM metarisk.evidence AS e JOIN metarisk.model AS m ON m.model_id = e.model_id
WHERE e.portfolio = $portfolio AND e.as_of < $as_of AND ($bitemporal OR coalesce(m.mode, '') <> '{BACKFILL}')
AND e.protocol = 'walk_forward'
GROUP BY e.as_of, e.model_id ORDER BY e.as_of DESC, e.model_id
"""  # noqa: S608 - constants only
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


def model(source: Rows, model_id: str) -> dict[str, Any] | None:
    """The row of a model; None where there is none."""
    return next(iter(source.rows(_MODEL, {"model_id": model_id})), None)


def states(source: Rows, model_id: str) -> list[dict[str, Any]]:
    """All states of a model, the first one first."""
    return source.rows(_STATES, {"model_id": model_id})


def evidence(source: Rows, model_id: str) -> list[dict[str, Any]]:
    """What speaks for a model, in no order."""
    return source.rows(_EVIDENCE, {"model_id": model_id})


def grade_backtests(source: Rows, model_id: str) -> list[dict[str, Any]]:
    """By verdict, what the back-tested grades and cohorts of a model hold together."""
    return source.rows(_BACKTESTS, {"model_id": model_id})


def models(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """Every model of a portfolio with its newest state, the newest label cut-off first."""
    return source.rows(_MODELS, {"portfolio": portfolio})


def champions(source: Rows, portfolio: str, as_of: date) -> list[dict[str, Any]]:
    """Models up to a label cut-off that ever became champion, with that state and the last one, newest first."""
    return source.rows(_CHAMPIONS, {"portfolio": portfolio, "as_of": as_of})


def unknown_models(source: Rows, portfolio: str, log: Backing) -> Iterator[str]:
    """In words, the models, their states and the evidence for them, of which no event tells."""
    for table, what in (("model", "model"), ("model_state", "state of model"), ("evidence", "evidence of model")):
        sql = f"SELECT DISTINCT model_id FROM metarisk.{table} WHERE portfolio = $portfolio ORDER BY model_id"  # noqa: S608
        for row in source.rows(sql, {"portfolio": portfolio}):
            if not log.knows(row["model_id"]):
                yield f"{what} {row['model_id']}"


def all_states(source: Rows, portfolio: str) -> list[dict[str, Any]]:
    """States of all models of a portfolio, of each the first one first."""
    return source.rows(_ALL_STATES, {"portfolio": portfolio})


def trials(source: Rows, portfolio: str, model_id: str) -> pl.DataFrame:
    """Trials that had been recorded when a model was registered, its week's too; so a replay reads the same."""
    rows = source.rows(_TRIALS, {"model_id": model_id, "portfolio": portfolio})
    return pl.DataFrame(rows, schema=_TRIAL, orient="row")


def earlier_proofs(source: Rows, job: Job, incumbent: str, *, bitemporal: bool) -> list[str]:
    """Of the weeks before this one, newest first: the challenger that beat the incumbent for certain, or nothing.

    It ends with the first week that has none. Weeks that a backfill trained are left out, unless the source is
    bitemporal: they read what it has become since. So are weeks of which no event tells; evidence that is not as the
    log sealed it proves nothing.
    """
    about: dict[str, Scalar] = {"portfolio": job.portfolio, "as_of": job.as_of}
    about |= {"bitemporal": bitemporal, "incumbent": incumbent}
    log, proofs = backing(source, job.portfolio), []
    told = [row for row in source.rows(_WEEKS, about) if log.knows(row["model_id"])]
    for _, week in groupby(told, key=lambda row: row["as_of"]):
        proved = [row for row in week if row["proved"] and log.proves(source, row["model_id"])]
        proofs.append(proved[-1]["proved"] if proved else "")
        if not proved:
            break
    return proofs


def append_states(
    transaction: Transaction,
    job: Job,
    now: datetime,
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
    portfolio, as_of = job.portfolio, job.as_of
    known = {row["model_id"]: row for row in models(transaction, portfolio)}
    since = not_before(now, max((row["since"] for row in known.values()), default=None))
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
    common = {"portfolio": portfolio, "since": since, "by_whom": by, "reason": reason}
    rows = [common | {"model_id": model, "seq": seq, "state": state} for model, seq, state in new]
    append(transaction, "model_state", rows)
    last = {model: state for model, _, state in new}
    told: dict[str, Any] = {"model_id": model_id, "state": last[model_id], "states": last, "reason": reason}
    told |= {"rows": state_rows(rows), "evidence": seal_evidence(transaction, model_id)}
    append_event(transaction, portfolio, now, "model", told, by)
