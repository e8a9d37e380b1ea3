"""The step register: model, states and evidence into the warehouse, in one transaction."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from metarisk import evidence as evidences
from metarisk.job.attempts import Attempt, append_end
from metarisk.job.context import Context
from metarisk.job.identity import code_version, configuration
from metarisk.job.states import BACKFILL, WEEKLY, append_states
from metarisk.job.trials import keep_trials
from metarisk.job.week import Judged, Trained
from metarisk.record.appending import append_rows


def register(context: Context, trained: Trained, attempt: Attempt) -> dict[str, Any]:
    """Write model, state and evidence to the warehouse in one transaction; registering it again changes nothing."""
    job, judged = context.job, trained.judged
    promoted = judged.decision.promote
    recipe = judged.decision.recipe
    forward = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    by_segment = evidences.by_segment(forward, recipe, context.portfolio, context.spec)
    spread = {recipe: evidences.intervals(forward, recipe, context.portfolio, context.spec)}
    with context.warehouse.transaction() as transaction:
        known = transaction.rows("SELECT 1 AS found FROM metarisk.model WHERE model_id = $id", {"id": trained.model_id})
        if not known:
            now = context.clock()
            model = {
                "model_id": trained.model_id,
                "portfolio": job.portfolio,
                "as_of": job.as_of,
                "recipe": recipe,
                "created_at": now,
                "path": f"registry/{job.portfolio}/{trained.model_id}",
                "metrics": json.dumps(_headline(judged), sort_keys=True),
                "config_hash": configuration(context),
                "code_version": code_version(),
                "mode": BACKFILL if job.mode == "backfill" else WEEKLY,
            }
            append_rows(transaction, "metarisk.model", [model])
            states = ["candidate", "champion"] if promoted else ["candidate"]
            keys = {"model_id": trained.model_id, "portfolio": job.portfolio, "as_of": job.as_of}
            found = evidences.evidence_rows(judged.evidence, spread)
            found += evidences.decision_rows(judged.decision, judged.evidence)
            found += evidences.level_rows(judged.level, judged.evidence, judged.decision.recipe)
            found += [*by_segment, *judged.held_out, *judged.features]
            if trained.comparison is not None:
                found += trained.comparison.evidence_rows(judged.decision.recipe)
            found += trained.fairness
            append_rows(transaction, "metarisk.evidence", [keys | row for row in found])
            names = [line.name for line in judged.evidence.candidates]
            keep_trials(context, transaction, forward, names, judged.checked, trained.model_id, now)
            target = {"target": context.portfolio.target.name}
            append_rows(
                transaction,
                "metarisk.grade_backtest",
                [keys | target | row for row in trained.backtests.iter_rows(named=True)],
            )
            append_states(context, transaction, trained.model_id, states, judged.decision.reason)
        append_end(context, transaction, attempt, "registered", step="register")
    context.warehouse.snapshot()
    return {"model_id": trained.model_id, "promoted": promoted}


def _headline(judged: Judged) -> dict[str, Any]:
    line = judged.evidence.candidate(judged.decision.recipe)
    if line is None:
        return {}
    interval = line.against_opponent
    return {
        **{name: value for name, value in line.metrics.items() if value == value},
        "opponent": judged.evidence.opponent,
        "oracle": judged.evidence.oracle,
        "loss_minus_opponent": interval.mean,
        "low": interval.low,
        "high": interval.high,
    }
