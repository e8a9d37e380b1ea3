"""The record of what a night did about segments that drifted, with the evidence whether it helped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import polars as pl

from metarisk.drift.decide import SCHEMA
from metarisk.drift.measure import Measure

if TYPE_CHECKING:
    from metarisk.adapt import Recency

REMEDY = "remedy"
"""Metric of what was done for a segment."""


def remedy_rows(recency: Recency) -> pl.DataFrame:
    """What was decided, with the evidence whether it helped, as rows of `drift_metric`."""
    if not recency.segments:
        return pl.DataFrame(schema=SCHEMA)
    done = (
        f"support re-weighted to recent rows, half-life {recency.half_life:g} months"
        if recency.half_life
        else f"support left as it is: {recency.reason}"
    )
    lines = [
        {
            "segment": proof.segment, "level": "cell" if proof.segment else "all", "metric": REMEDY, "status": "ok",
            "value": proof.difference, "effect": proof.difference, "n_ref": proof.older, "n_cur": proof.rows,
            "low": proof.low if math.isfinite(proof.low) else None,
            "high": proof.high if math.isfinite(proof.high) else None,
            "detail": f"{proof.segment or 'drifting segments'}: {done}; loss {proof.difference:+.5f} "
            f"[{proof.low:+.5f}, {proof.high:+.5f}] on {proof.rows:,} newer rows",
        }
        for proof in recency.proofs
    ] or [{"level": "all", "metric": REMEDY, "status": "ok", "detail": f"drifting segments: {done}"}]  # fmt: skip
    return pl.DataFrame(lines, schema=SCHEMA)


MEASURE = Measure(REMEDY, lambda night: remedy_rows(night.recency))
