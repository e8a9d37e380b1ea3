"""Who is champion: states that a week appends, proofs of earlier weeks, and what a person decides."""

from dataclasses import replace
from typing import Any

from metarisk.domain import ConfigError, ModelError, Rows
from metarisk.job.acceptance import require_person
from metarisk.job.champion import load_model
from metarisk.job.context import Context
from metarisk.job.storage import keep_model, store_of
from metarisk.record import models as records
from metarisk.record.backing import backing, unbacked
from metarisk.record.models import WEEKLY


def models(context: Context) -> list[dict[str, Any]]:
    """Every model of the portfolio with its newest state, the newest label cut-off first."""
    return records.models(context.warehouse, context.job.portfolio)


def describe(context: Context, model_id: str) -> dict[str, Any]:
    """One model: its row, the headline of its evidence, and all its states. Raises ConfigError where there is none."""
    found = _found(context, context.warehouse, model_id)
    row, forward = records.model(context.warehouse, model_id) or {}, records.evidence(context.warehouse, model_id)
    headline = [
        {name: one[name] for name in ("candidate", "metric", "value", "low", "high", "rows", "events")}
        for one in sorted(forward, key=lambda one: (one["metric"], one["value"] is None, one["value"] or 0.0))
        if one["protocol"] == "walk_forward" and one["slice"] == "all" and not one["metric"].startswith("loss_minus")
    ]
    return {
        "model": row | {"mode": row["mode"] or WEEKLY, "state": found["state"]},
        "evidence": headline,
        "states": records.states(context.warehouse, model_id),
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
        job = replace(context.job, as_of=found["as_of"])
        records.append_states(transaction, job, context.clock(), model_id, ["approved", "champion"], reason, by)
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
        if not records.evidence(transaction, model_id):
            raise ConfigError(
                f"model {model_id} has no evidence: it was never judged on rows that it had not seen",
                portfolio=context.job.portfolio,
                remedy="promote a model with evidence, or run the weekly again",
            )
        _ready(context, transaction, model_id)
        job = replace(context.job, as_of=found["as_of"])
        records.append_states(transaction, job, context.clock(), model_id, ["champion"], reason, by, withdraw=True)
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
        job, at = replace(context.job, as_of=before["as_of"]), context.clock()
        records.append_states(transaction, job, at, before["model_id"], ["champion"], reason, by, withdraw=True)
        if now["as_of"] == before["as_of"]:
            records.append_states(transaction, job, at, now["model_id"], ["withdrawn"], reason, by)
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


def _found(context: Context, source: Rows, model_id: str) -> dict[str, Any]:
    for row in records.models(source, context.job.portfolio):
        if row["model_id"] == model_id:
            return row
    raise ConfigError(
        f"there is no model {model_id}",
        portfolio=context.job.portfolio,
        remedy="take the id from `metarisk models list`",
    )
