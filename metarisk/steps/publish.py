"""Publishing a run: all of its rows and one `publication` row in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
from metarisk.job import acceptance
from metarisk.job.archive import require_unpruned
from metarisk.job.attempts import Attempt, append_end, append_quality
from metarisk.job.context import Context
from metarisk.job.identity import versions
from metarisk.job.outcomes import new_outcomes
from metarisk.job.population import population_batches
from metarisk.job.run import Run, load_adapted, load_level, scan, score_files
from metarisk.lake.columns import BATCH_ROWS
from metarisk.record import runs
from metarisk.record.appending import append, append_batches
from metarisk.record.drift import append_alerts
from metarisk.record.events import append_event
from metarisk.record.publications import append_publication, newest
from metarisk.record.seals import publication_event
from metarisk.steps.alerts import alerts_of_run
from metarisk.steps.derive import DERIVED, MEASURES, SCORES
from metarisk.tasks import LABEL, labelled, segment_keys

ROWS_A_BATCH = 65_536
SHOWN_NUMBERS = 64
"""An adaptation of more numbers than these (a whole network) stays in the lake."""


def publish(
    context: Context, run: Run, guarded: quality.Quality, drift_folder: Path, moves_folder: Path, attempt: Attempt
) -> dict[str, Any]:
    """Append everything that the run found and point to it; readers see the old night or the new one, never half.

    Returns the publication. Publishing a run that is current already changes nothing.
    """
    current = newest(context.warehouse, context.job.portfolio, context.job.as_of)
    if current is not None and current["run_id"] == run.run_id:
        context.warehouse.snapshot()  # the try before may have died, or met a full disk, after its commit
        return current
    derived = [run.folder / DERIVED] if context.spec.derive is not None else []
    for folder in (run.extract.directory, run.folder / "score", drift_folder, moves_folder, *derived):
        lake.verify(folder)
    require_unpruned(context, run.run_id)
    summary, adaptations = _summary(context, run), _adaptations(context, run)
    with context.warehouse.transaction() as transaction:
        if runs.run(transaction, run.run_id) is None:
            _append_run(context, transaction, run, summary)
            append_batches(transaction, "risk_score", _score_batches(run))
            for folder in derived:
                append(transaction, "risk_score", pl.read_parquet(folder / SCORES))
                append(transaction, "measure", _of_run(context, run, folder / MEASURES))
            append(transaction, "adaptation", adaptations)
            append(transaction, "drift_metric", _of_run(context, run, drift_folder / "drift.parquet"))
            alerts = alerts_of_run(context, transaction, run.run_id, drift_folder)
            append_alerts(transaction, context.job.portfolio, alerts)
            append(transaction, "score_move_part", _of_run(context, run, moves_folder / "moves.parquet"))
            results = [*run.checked.quality.rows(), *guarded.rows()]
            append_quality(context, transaction, attempt, run.run_id, results)
        for part in new_outcomes(context, scan(context, run.checked), run.extract.rows):
            append(transaction, "outcome", part)
        reason = acceptance.reason_of(context, guarded)
        about = context.job.portfolio, context.job.as_of, run.run_id, reason, context.clock()
        publication = append_publication(transaction, *about)
        append_end(context, transaction, attempt, "published", run_id=run.run_id, step="publish")
        event = publication_event(transaction, run.run_id, context.job.as_of, context.job.mode)
        append_event(transaction, context.job.portfolio, context.clock(), "publication", event)
        acceptance.log(context, transaction, run.run_id, publication["seq"], guarded)
    context.warehouse.snapshot()
    return {"run_id": run.run_id, "published_at": publication["published_at"], "reason": reason, **summary}


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
    append(transaction, "run", [row])


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
