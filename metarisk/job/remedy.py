"""What a night does about segments that drift: which cells they are, and the record of what was decided for them."""

import math
from collections.abc import Sequence

import polars as pl

from metarisk.adapt import Recency
from metarisk.domain import SegmentKey, segment_name
from metarisk.drift import REMEDY, SCHEMA

RECENCY = "recency.json"


def cells(names: Sequence[str], known: Sequence[SegmentKey]) -> list[SegmentKey]:
    """The cells that names mean: themselves, or all that have a value of that name."""
    wanted = set(names)
    return [key for key in known if segment_name(key) in wanted or wanted & {segment_name((value,)) for value in key}]


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
