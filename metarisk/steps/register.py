"""The step register: model, states and evidence into the warehouse, in one transaction."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import polars as pl

from metarisk import evidence as evidences
from metarisk.domain import WeekView
from metarisk.job.attempts import Attempt, append_end
from metarisk.job.context import Context
from metarisk.job.identity import code_version, configuration
from metarisk.job.run import scan
from metarisk.job.week import Judged, Trained
from metarisk.record.appending import append
from metarisk.record.models import BACKFILL, WEEKLY, append_states, model


def register(context: Context, trained: Trained, attempt: Attempt) -> dict[str, Any]:
    """Write model, state and evidence to the warehouse in one transaction; registering it again changes nothing."""
    job, judged = context.job, trained.judged
    promoted = judged.decision.promote
    recipe = judged.decision.recipe
    forward = pl.read_parquet(judged.folder / "judged" / "judged.parquet")
    by_segment = evidences.by_segment(forward, recipe, context.portfolio, context.spec)
    spread = {recipe: evidences.intervals(forward, recipe, context.portfolio, context.spec)}
    with context.warehouse.transaction() as transaction:
        if model(transaction, trained.model_id) is None:
            now = context.clock()
            row = {
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
            append(transaction, "model", [row])
            states = ["candidate", "champion"] if promoted else ["candidate"]
            keys = {"model_id": trained.model_id, "portfolio": job.portfolio, "as_of": job.as_of}
            found = evidences.evidence_rows(judged.evidence, spread)
            found += evidences.decision_rows(judged.decision, judged.evidence)
            found += evidences.level_rows(judged.level, judged.evidence, judged.decision.recipe)
            found += [*by_segment, *judged.held_out, *judged.features]
            if trained.comparison is not None:
                found += trained.comparison.evidence_rows(judged.decision.recipe)
            found += trained.fairness
            append(transaction, "evidence", [keys | line for line in found])
            append(transaction, "trial", _trials(context, trained, forward, now))
            target = {"target": context.portfolio.target.name}
            backtests = [keys | target | line for line in trained.backtests.iter_rows(named=True)]
            append(transaction, "grade_backtest", backtests)
            append_states(transaction, job, context.clock(), trained.model_id, states, judged.decision.reason)
        append_end(context, transaction, attempt, "registered", step="register")
    context.warehouse.snapshot()
    return {"model_id": trained.model_id, "promoted": promoted}


def _trials(context: Context, trained: Trained, forward: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """What the risk type says of each configuration that was judged out of sample; empty where it keeps no trials."""
    portfolio, ask = context.portfolio, context.spec.trials
    if ask is None or forward.is_empty():
        return pl.DataFrame()
    keys = [portfolio.columns.entity, portfolio.columns.opened_on]
    frame = scan(context, trained.judged.checked).select(*keys, *portfolio.columns.numbers)
    rows = forward.join(frame.collect(engine="streaming"), on=keys, how="left", maintain_order="left")
    names = tuple(line.name for line in trained.judged.evidence.candidates)
    about = {"model_id": trained.model_id, "portfolio": portfolio.name, "as_of": context.job.as_of}
    about |= {"configuration": configuration(context), "recorded_at": now}
    found = ask(WeekView(portfolio, context.options, rows, names))
    return found.with_columns(pl.lit(value).alias(name) for name, value in about.items())


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
