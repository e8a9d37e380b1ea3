"""Publishing a run: all of its rows and one `publication` row in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from metarisk import lake, quality, scoring
from metarisk.adapt import Adapted
from metarisk.calibration import Calibration, upper_bound
from metarisk.domain import MISSING, Array, Portfolio, Transaction, segment_name
from metarisk.domain.hashing import identity
from metarisk.job import acceptance as accepting
from metarisk.job import archive as archiving
from metarisk.job import outcomes
from metarisk.job.attempts import Attempt, append_end, append_quality
from metarisk.job.chunks import population_batches
from metarisk.job.context import Context
from metarisk.job.identity import versions
from metarisk.job.run import Run, load_adapted, load_level, scan, score_files
from metarisk.job.standing import newest_publication
from metarisk.lake.columns import BATCH_ROWS
from metarisk.record.appending import append_frame, append_rows, not_before
from metarisk.record.events import append_event
from metarisk.record.seals import publication_event
from metarisk.steps import alerts as alerting
from metarisk.steps.derive import DERIVED, MEASURES, SCORES
from metarisk.tasks import LABEL, MISSING, labelled, segment_keys

ROWS_A_BATCH = 65_536
SHOWN_NUMBERS = 64
"""An adaptation of more numbers than these (a whole network) stays in the lake."""


def publish(
    context: Context, run: Run, guarded: quality.Quality, drift_folder: Path, moves_folder: Path, attempt: Attempt
) -> dict[str, Any]:
    """Append everything that the run found and point to it; readers see the old night or the new one, never half.

    Returns the publication. Publishing a run that is current already changes nothing.
    """
    current = newest_publication(context)
    if current is not None and current["run_id"] == run.run_id:
        context.warehouse.snapshot()  # the try before may have died, or met a full disk, after its commit
        return current
    derived = [run.folder / DERIVED] if context.spec.derive is not None else []
    for folder in (run.extract.directory, run.folder / "score", drift_folder, moves_folder, *derived):
        lake.verify(folder)
    archiving.require_unpruned(context, run.run_id)
    summary, adaptations = _summary(context, run), _adaptations(context, run)
    with context.warehouse.transaction() as transaction:
        if not _exists(transaction, run.run_id):
            _append_run(context, transaction, run, summary)
            transaction.append("metarisk.risk_score", _score_batches(run))
            for folder in derived:
                append_frame(transaction, "metarisk.risk_score", pl.read_parquet(folder / SCORES))
                append_frame(transaction, "metarisk.measure", _of_run(context, run, folder / MEASURES))
            append_frame(transaction, "metarisk.adaptation", adaptations)
            append_frame(transaction, "metarisk.drift_metric", _of_run(context, run, drift_folder / "drift.parquet"))
            alerts = alerting.of_run(context, transaction, run.run_id, drift_folder)
            append_frame(transaction, "metarisk.drift_alert", alerts)
            append_frame(transaction, "metarisk.score_move_part", _of_run(context, run, moves_folder / "moves.parquet"))
            results = [*run.checked.quality.rows(), *guarded.rows()]
            append_quality(context, transaction, attempt, run.run_id, results)
        for told in outcomes.to_tell(context, scan(context, run.checked), run.extract.rows):
            append_frame(transaction, "metarisk.outcome", told)
        seq, reason = 1 + (current["seq"] if current else 0), accepting.reason_of(context, guarded)
        published_at = point(context, transaction, seq, run.run_id, reason)
        append_end(context, transaction, attempt, "published", run_id=run.run_id, step="publish")
        event = publication_event(transaction, run.run_id, context.job.as_of, context.job.mode)
        append_event(transaction, context.job.portfolio, context.clock(), "publication", event)
        accepting.log(context, transaction, run.run_id, seq, guarded)
    context.warehouse.snapshot()
    return {"run_id": run.run_id, "published_at": published_at, "reason": reason, **summary}


def _summary(context: Context, run: Run) -> dict[str, int]:
    scores = pl.scan_parquet(score_files(run))
    rows = scores.select(pl.len()).collect().item()
    counts = dict(scores.select("segment", "status").unique().group_by("status").len().collect().iter_rows())
    return {
        "rows_extracted": run.extract.rows,
        "rows_scored": rows,
        "rows_quarantined": run.checked.quality.excluded_rows,
        **{f"segments_{status}": counts.get(status, 0) for status in ("adapted", "carried", "abstained", "fallback")},
    }


def _exists(transaction: Transaction, run_id: str) -> bool:
    return bool(transaction.rows("SELECT 1 AS found FROM metarisk.run WHERE run_id = $run_id", {"run_id": run_id}))


def _append_run(context: Context, transaction: Transaction, run: Run, summary: Mapping[str, int]) -> None:
    job = context.job
    manifest = {
        "extract": {
            "hash": run.extract.extract_hash,
            "query": run.extract.query_hash,
            "files": dict(run.extract.files),
        },
        "adapt": lake.read_manifest(run.folder / "adapt")["files"],
        "score": lake.read_manifest(run.folder / "score")["files"],
        **({"derived": lake.read_manifest(run.folder / DERIVED)["files"]} if context.spec.derive else {}),
        "batch_rows": BATCH_ROWS,
        "max_model_age_days": context.portfolio.thresholds.max_model_age_days,
        "versions": versions(),
    }
    row = {
        "run_id": run.run_id,
        "portfolio": job.portfolio,
        "as_of": job.as_of,
        "mode": job.mode,
        "reason": job.reason or None,
        "model_id": run.model_id,
        "extract_hash": run.extract.extract_hash,
        "config_hash": run.config_hash,
        "code_version": run.code_version,
        **summary,
        "model_age_days": (job.as_of - run.cut_off).days,
        "manifest": json.dumps(manifest, sort_keys=True),
    }
    append_rows(transaction, "metarisk.run", [row])


def _score_batches(run: Run) -> Iterator[pa.RecordBatch]:
    for path in score_files(run):
        yield from pq.ParquetFile(path).iter_batches(ROWS_A_BATCH, columns=[*scoring.SCHEMA])


def _adaptations(context: Context, run: Run) -> pl.DataFrame:
    """One row a segment: those with support, and those that were scored without any."""
    adapted, level = load_adapted(context, run), load_level(run)
    bounds = _abstained(context, run, adapted, level)
    arrays = {} if adapted.adaptation.ragged else adapted.adaptation.arrays
    position = {key: i for i, key in enumerate(adapted.adaptation.keys)}
    rows = []
    for key, segment in sorted(adapted.segments.items()):
        i = position.get(key)
        numbers = {} if i is None else {name: values[i].tolist() for name, values in arrays.items()}
        few = sum(np.size(values) for values in numbers.values()) <= SHOWN_NUMBERS
        rows.append(
            {
                "adaptation_id": segment.adaptation_id,
                "segment": segment_name(key),
                "status": segment.status,
                "reason": segment.reason,
                "support_rows": segment.support_rows,
                "support_events": segment.support_events,
                "support_hash": segment.support_hash,
                "parameters": json.dumps(numbers, sort_keys=True) if few else None,
            }
        )
    known = {row["segment"] for row in rows}
    scored = pl.scan_parquet(score_files(run)).select(pl.col("segment").unique().sort()).collect()["segment"]
    rows += [
        {
            "adaptation_id": identity({"model": run.model_id, "segment": name}),
            "segment": name,
            "status": "fallback",
            "reason": "no matured row of its own: scored from its parents and the pool",
            "support_rows": 0,
            "support_events": 0,
            "support_hash": None,
            "parameters": None,
        }
        for name in scored
        if name not in known
    ]
    for row in rows:
        name = str(row["segment"])
        row |= {"level_shift": level.shift(name)}
        row |= bounds.get(name, {})
    return pl.DataFrame(rows, schema_overrides=_BOUNDS, infer_schema_length=None).with_columns(
        pl.lit(run.run_id).alias("run_id"),
        pl.lit(run.model_id).alias("model_id"),
        pl.lit(context.job.portfolio).alias("portfolio"),
        pl.lit(context.job.as_of).alias("as_of"),
    )


_BOUNDS = {"pooled_score": pl.Float64, "score_quantile": pl.Float64, "score_bound": pl.Float64}
"""What stands beside the score of a segment that abstained: null for all others."""


def _abstained(context: Context, run: Run, adapted: Adapted, level: Calibration) -> dict[str, dict[str, float | None]]:
    """By segment that abstained: its rows' pooled score, the posterior's upper quantile, and what its labels bound."""
    portfolio = context.portfolio
    few = {segment_name(key): segment for key, segment in adapted.segments.items() if segment.status == "abstained"}
    if not few:
        return {}
    high = pl.scan_parquet(score_files(run)).filter(pl.col("status") == "abstained").group_by("segment")
    quantile = dict(high.agg(pl.col("score_high").mean()).collect().iter_rows())
    columns = list(portfolio.columns.segments)
    keys = pl.LazyFrame([segment.key for segment in few.values()], schema=columns, orient="row")
    names = [pl.col(name).cast(pl.String).fill_null(MISSING) for name in columns]
    pooled: dict[str, tuple[float, float]] = {}
    for frame in population_batches(context, run.checked):
        rows = frame.lazy().join(keys, left_on=names, right_on=columns, how="semi").collect()
        if rows.is_empty():
            continue
        for name, (n, total) in _by_segment(rows, scoring.pooled(rows, adapted, portfolio, level), portfolio).items():
            before = pooled.get(name, (0.0, 0.0))
            pooled[name] = (before[0] + n, before[1] + total)
    found = {
        name: {
            "pooled_score": pooled[name][1] / pooled[name][0] if name in pooled else None,
            "score_quantile": quantile.get(name),
            "score_bound": None,
        }
        for name in few
    }
    if context.spec.label == "event":
        own = scan(context, run.checked).join(keys, left_on=names, right_on=columns, how="semi")
        mature = labelled(own, portfolio, context.spec, context.job.as_of).select(*columns, LABEL)
        labels = mature.collect(engine="streaming")
        events = _by_segment(labels, labels[LABEL].to_numpy(), portfolio)
        known = np.array([events.get(name, (0.0, 0.0)) for name in found])
        for line, bound in zip(found.values(), upper_bound(*known.T).tolist(), strict=True):
            line["score_bound"] = bound
    return found


def _by_segment(rows: pl.DataFrame, values: Array, portfolio: Portfolio) -> dict[str, tuple[float, float]]:
    """Rows and sum of their values (N,), by printable name of their segment."""
    keys, codes = segment_keys(rows, portfolio)
    counts = np.bincount(codes, minlength=len(keys))
    sums = np.bincount(codes, weights=values, minlength=len(keys))
    return {segment_name(key): (float(n), float(v)) for key, n, v in zip(keys, counts, sums, strict=True)}


def _of_run(context: Context, run: Run, file: Path) -> pl.DataFrame:
    """Rows that a step left in a file, with the keys of the run."""
    return pl.read_parquet(file).with_columns(
        pl.lit(run.run_id).alias("run_id"),
        pl.lit(context.job.portfolio).alias("portfolio"),
        pl.lit(context.job.as_of).alias("as_of"),
    )


def point(context: Context, transaction: Transaction, seq: int, run_id: str | None, reason: str | None) -> datetime:
    """Append a row of `publication`, without a run to take the night back; its time is later than all others' of it."""
    job = context.job
    last = transaction.rows(
        "SELECT max(published_at) AS last FROM metarisk.publication WHERE portfolio = $portfolio",
        {"portfolio": job.portfolio},
    )[0]["last"]
    now = not_before(context.clock(), last)
    row = {
        "portfolio": job.portfolio,
        "as_of": job.as_of,
        "seq": seq,
        "run_id": run_id,
        "published_at": now,
        "reason": reason or None,
    }
    append_rows(transaction, "metarisk.publication", [row])
    return now
