"""What came of published scores: back-tests by grade, and how groups fare that no model may see.

Pure: frames in, frames out. Which outcomes are known is `tasks`; which scores were published stands in the warehouse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from metarisk.calibration import binomial_p, grade_numbers, jeffreys_p, vasicek_p
from metarisk.domain import MISSING, Array, Scorecard
from metarisk.metrics import benjamini_hochberg
from metarisk.tasks import LABEL

REJECTED = 0.05
"""False-discovery rate at which a grade's probability is called too low."""
SEEN = 10.0
"""Expected events from which a doubled rate is seen with 80 % power; below, an unremarkable grade is `blind`."""
FOUR_FIFTHS = 0.8
"""An acceptance rate below this share of the best group's is a sign of adverse impact (EEOC 1978, 29 CFR 1607.4 D)."""
SCHEMA = {
    "cohort": pl.String,
    "grade": pl.String,
    "place": pl.Int32,
    "rows": pl.Int64,
    "events": pl.Int64,
    "mean_score": pl.Float64,
    "event_rate": pl.Float64,
    "rate_low": pl.Float64,
    "rate_high": pl.Float64,
    "binomial_p": pl.Float64,
    "jeffreys_p": pl.Float64,
    "jeffreys_q": pl.Float64,
    "vasicek_p": pl.Float64,
    "vasicek_q": pl.Float64,
    "asset_correlation": pl.Float64,
    "status": pl.String,
}


def grade_backtests(judged: Iterable[pl.DataFrame], card: Scorecard) -> pl.DataFrame:
    """Back-tests of every grade in every cohort: was its probability too low?

    Each grade is tested twice: with independent defaults (Jeffreys), and with one common factor of the card's asset
    correlation (Vasicek), under which far larger surprises are ordinary. p-values are adjusted over all grades of all
    cohorts (Benjamini and Hochberg 1995). Cohorts must not share an entity.

    Args:
        judged: parts of one frame: `cohort` (text), `score` (probability) and LABEL (0 or 1), one row an entity.
        card: master scale and asset correlation.

    Returns:
        A frame of SCHEMA, one row a cohort and grade that has rows. `status` is `understated` where the one-factor q is
        at most REJECTED, `watch` where only the independent one is, `blind` where too few events were expected, else
        `ok`.
    """
    names = [grade.name for grade in card.grades]
    counted = [_by_grade(part, card) for part in judged]
    if not sum(part.height for part in counted):
        return pl.DataFrame(schema=SCHEMA)
    lines = pl.concat(counted).group_by("cohort", "place").agg(pl.col("rows", "events", "score").sort().sum())
    lines = lines.with_columns(mean_score=pl.col("score") / pl.col("rows")).sort("cohort", "place")
    p, d, n = (lines[name].to_numpy().astype(float) for name in ("mean_score", "events", "rows"))
    independent, common = jeffreys_p(p, d, n), vasicek_p(p, d, n, card.asset_correlation)
    q, common_q = benjamini_hochberg(independent), benjamini_hochberg(common)
    status = np.select(
        [common_q <= REJECTED, q <= REJECTED, p * n < SEEN], ["understated", "watch", "blind"], default="ok"
    )
    return lines.with_columns(
        grade=pl.Series([names[number - 1] for number in lines["place"]], dtype=pl.String),
        event_rate=pl.Series(d / n),
        rate_low=pl.Series(stats.beta.ppf(0.025, d + 0.5, n - d + 0.5)),
        rate_high=pl.Series(stats.beta.ppf(0.975, d + 0.5, n - d + 0.5)),
        binomial_p=pl.Series(binomial_p(p, d, n)),
        jeffreys_p=pl.Series(independent),
        jeffreys_q=pl.Series(q),
        vasicek_p=pl.Series(common),
        vasicek_q=pl.Series(common_q),
        asset_correlation=pl.lit(card.asset_correlation),
        status=pl.Series(status.tolist()),
    ).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def _by_grade(judged: pl.DataFrame, card: Scorecard) -> pl.DataFrame:
    """Rows, events and sum of scores of every cohort and grade; `place` is the grade's number from 1."""
    place = pl.Series("place", grade_numbers(judged["score"].to_numpy(), card.grades) + 1, dtype=pl.Int32)
    sums = pl.len().alias("rows"), pl.col(LABEL).sum().alias("events"), pl.col("score").sort().sum()
    return judged.with_columns(place).group_by("cohort", "place").agg(*sums)


def adverse_impact(decided: pl.LazyFrame) -> list[dict[str, object]]:
    """Acceptance rate of each group over that of the group with the highest, counted as a stream.

    Args:
        decided: `group` (text or null, which is a group of its own) and `declined` of each row.

    Returns:
        Rows for the warehouse's `evidence` table, less protocol, candidate and slice's column.
    """
    counts = decided.group_by(pl.col("group").fill_null(MISSING)).agg(
        rows=pl.len(), accepted=1 - pl.col("declined").mean()
    )
    rates = counts.sort("group").collect(engine="streaming")
    best = max(rates["accepted"].to_list(), default=0.0)
    return [
        {
            "slice": group,
            "metric": "adverse_impact_ratio",
            "value": accepted / best if best else None,
            "rows": count,
            "note": f"accepted {accepted:.1%}"
            + (", below four fifths" if best and accepted < FOUR_FIFTHS * best else ""),
        }
        for group, count, accepted in rates.iter_rows()
    ]


def calibration_by_group(groups: Sequence[str | None], probability: Array, y: Array) -> list[dict[str, object]]:
    """Event rate of each group over its mean probability, with a Jeffreys 95 % interval; above 1: understated."""
    rows = pl.DataFrame({"group": pl.Series(groups, dtype=pl.String).fill_null(MISSING), "p": probability, "y": y})
    sums = rows.group_by("group").agg(rows=pl.len(), p=pl.col("p").sort().sum(), y=pl.col("y").sum()).sort("group")
    out = []
    for group, count, expected, events in sums.iter_rows():
        low, high = stats.beta.ppf([0.025, 0.975], events + 0.5, count - events + 0.5) * count / expected
        out.append(
            {
                "slice": group,
                "metric": "event_rate_over_mean_score",
                "value": events / expected,
                "low": float(low),
                "high": float(high),
                "rows": count,
                "events": int(events),
            }
        )
    return out


def swap_set(segments: pl.Series, before: Array, after: Array, score: Array) -> list[dict[str, Any]]:
    """Who is declined by one model only, in all and by segment, with the event rate that the new scores expect.

    Args:
        segments: printable segment of each row (N,).
        before, after: masks (N,) of the rows that the old and the new model would decline at the portfolio's cut.
        score: probability (N,) by the new model. Nobody's outcome is inferred: it is an expectation.

    Returns:
        Rows for the warehouse's `evidence` table, less protocol and candidate, the whole portfolio first.
    """
    rows = pl.DataFrame({"slice": segments, "before": before, "after": after, "score": score})
    swapped = rows.filter(pl.col("before") != pl.col("after")).with_columns(
        metric=pl.when("after").then(pl.lit("newly_declined")).otherwise(pl.lit("newly_accepted"))
    )
    about = pl.len().alias("rows"), pl.col("score").sort().mean().alias("value")
    total = swapped.group_by("metric").agg(*about).with_columns(slice=pl.lit("all")).sort("metric")
    parts = swapped.group_by("slice", "metric").agg(*about).sort("slice", "metric")
    return [*total.iter_rows(named=True), *parts.select(total.columns).iter_rows(named=True)]


def grade_migration(scores: Iterable[tuple[Array, Array]], card: Scorecard) -> list[dict[str, Any]]:
    """From which grade to which the rows move: one line a pair of grades that has rows, best first.

    Args:
        scores: probabilities (N,) by the old and by the new model, a batch at a time.

    Returns:
        Rows for the warehouse's `evidence` table, less protocol and candidate; `value` is the share of the old grade.
    """
    names = [grade.name for grade in card.grades]
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for before, after in scores:
        pairs = grade_numbers(before, card.grades) * len(names) + grade_numbers(after, card.grades)
        counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    return [
        {
            "slice": f"{names[old]} to {names[new]}",
            "metric": "share_of_grade",
            "value": int(counts[old, new]) / int(counts[old].sum()),
            "rows": int(counts[old, new]),
        }
        for old, new in np.argwhere(counts)
    ]
