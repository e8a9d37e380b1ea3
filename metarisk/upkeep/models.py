"""Who is champion: states that a week appends, proofs of earlier weeks, and what a person decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metarisk.domain import ConfigError, ModelError, Rows, Scalar
from metarisk.job.champion import load_model
from metarisk.job.context import Context
from metarisk.job.people import require_person
from metarisk.job.states import _MODELS, WEEKLY, append_states
from metarisk.job.storage import keep_model, store_of
from metarisk.record.backing import backing, unbacked

_HISTORY = """
SELECT seq, state, since, by_whom, reason FROM metarisk.model_state WHERE model_id = $model_id ORDER BY seq
"""
_EVIDENCE = """
SELECT candidate, metric, value, low, high, rows, events FROM metarisk.evidence
WHERE model_id = $model_id AND protocol = 'walk_forward' AND slice = 'all' AND metric NOT LIKE 'loss_minus%'
ORDER BY metric, value
"""


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
