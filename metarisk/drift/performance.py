"""Performance without labels: what log-loss and AUC calibrated scores lead one to expect, by segment, with intervals.

Confidence-based performance estimation: a score of p is right with probability p, so every loss has an expectation
that needs no label. It cannot see concept drift (`early` can): it tells whether the book has become harder to score.
Scores are counted in fine bins of their log-odds, as whole numbers: segments add up, and no bit depends on order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import special, stats
from scipy.sparse import csr_matrix

from metarisk.domain import Array, Portfolio, SegmentKey
from metarisk.drift.decide import MIN_ROWS, Z95, blind, judged, rows_of
from metarisk.drift.hierarchy import Node, in_blocks, labels_of, nodes
from metarisk.drift.histograms import segment_column
from metarisk.drift.measure import Measure, Night, Scored, Week, parquet

SCORES = "reference.scores.parquet"
LOWEST, WIDTH, BINS = -12.0, 0.02, 1_000
"""Log-odds from -12 to 8 in steps of 0.02: a probability is known to one per cent of itself, without bias."""
CENTRES = special.expit(LOWEST + WIDTH * (np.arange(BINS) + 0.5))
LEAST_EVENTS = 5.0
"""Expected events (and non-events) below which an AUC has no normal interval."""
NAMES = ("expected_log_loss", "expected_auc")
LIMITS: Mapping[str, tuple[float, float]] = {"expected_log_loss": (0.10, 0.25), "expected_auc": (0.02, 0.05)}
"""Least effects of a watch and an alert: the rise of the log-loss as a share, the fall of the AUC."""


@dataclass(frozen=True)
class Estimate:
    """One measure of G groups, each array (G,).

    `spread` is the standard error of the realised value around the estimate: labels fall out one way or the other.
    `error` is that of the estimate itself: other rows would have been drawn.
    """

    value: Array
    spread: Array
    error: Array


def count(frame: pl.LazyFrame, segments: Sequence[str], score: str) -> pl.DataFrame:
    """Rows by segment and bin of the score's log-odds, in one streaming pass: the segment columns, `bin`, `rows`."""
    frame = frame.select(*(segment_column(name).alias(name) for name in segments), bin_of(pl.col(score)).alias("bin"))
    counted = frame.filter(pl.col("bin").is_not_null()).group_by(*segments, "bin").agg(rows=pl.len())
    return counted.with_columns(pl.col("rows").cast(pl.Int64)).sort(*segments, "bin").collect(engine="streaming")


def bin_of(score: pl.Expr) -> pl.Expr:
    """Number of a probability's bin; null where it is no probability."""
    p = score.clip(1e-9, 1.0 - 1e-9)
    number = (((p / (1.0 - p)).log() - LOWEST) / WIDTH).floor().clip(0, BINS - 1)
    return pl.when(score.is_between(0.0, 1.0)).then(number).cast(pl.Int32)


def ranking(rows: Array, p: Array, squares: Array) -> Estimate:
    """Expected AUC of groups (G,) whose events are known by their probabilities alone.

    Args:
        rows: number of rows (G, B) by bin of the score, from low to high; rows of one bin tie.
        p: sum of their probabilities (G, B).
        squares: sum of the squares of these (G, B).

    The spread is that of the delta method with independent labels; with known labels (p = squares) it is zero.
    """
    others = rows - p
    events, rest = p.sum(axis=1, keepdims=True), others.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (np.cumsum(others, axis=1) - 0.5 * others) / rest
        above = 1.0 - (np.cumsum(p, axis=1) - 0.5 * p) / events
        auc = np.sum(p * below, axis=1, keepdims=True) / events
        a, b = (below - auc) / events, (above - auc) / rest
    undecided = np.maximum(p - squares, 0.0)
    spread = np.sqrt(np.sum(undecided * (a - b) ** 2, axis=1))
    error = np.sqrt(np.sum(a**2 * squares + 2 * a * b * undecided + b**2 * (others - undecided), axis=1))
    return Estimate(auc[:, 0], spread, error)


def log_loss(rows: Array) -> Estimate:
    """Expected log-loss of groups (G,) with so many rows (G, B) in every bin of the score."""
    n = np.maximum(rows.sum(axis=1), 1)
    entropy = special.entr(CENTRES) + special.entr(1.0 - CENTRES)
    value = rows @ entropy / n
    spread = np.sqrt(rows @ (CENTRES * (1.0 - CENTRES) * special.logit(CENTRES) ** 2)) / n
    error = np.sqrt(np.maximum(rows @ entropy**2 / n - value**2, 0.0) / n)
    return Estimate(value, spread, error)


def compare(segments: Sequence[str], reference: pl.DataFrame | None, current: pl.DataFrame) -> pl.DataFrame:
    """Rows of `drift_metric`: tonight's expected log-loss and AUC of every node against those at training.

    Args:
        segments: segment columns, parents first.
        reference: what `count` gave of the population at the model's label cut-off; None where it was not kept.
        current: the same of tonight's scores.

    `low` and `high` bound what the realised measure will be (95 %) if the scores are right. `effect` is above 0 where
    it became worse.
    """
    if reference is None:
        return blind("the model has no reference of its scores: seen again after the next weekly run", metric=NAMES[0])
    keys = tuple(sorted({*_keys(reference, segments), *_keys(current, segments)}))
    of = nodes(keys, segments)
    n_ref, n_cur, events, *estimates = in_blocks(
        of, [_by_key(table, segments, keys) for table in (reference, current)], _measured
    )
    loss_before, loss_now, before, now = (Estimate(*estimates[at : at + 3]) for at in range(0, 12, 3))
    few = [f"too few rows: {now:,} tonight, {then:,} in the reference" for then, now in zip(n_ref, n_cur, strict=True)]
    rows = np.minimum(n_ref, n_cur) >= MIN_ROWS
    rare = [f"too few expected events for a ranking: {number:.1f}" for number in events]
    rise = loss_now.value / np.where(loss_before.value > 0.0, loss_before.value, np.nan) - 1.0
    loss = _rows(of, NAMES[0], loss_before, loss_now, rise, rows, few, n_ref, n_cur)
    enough = rows & (events >= LEAST_EVENTS)
    reasons = np.where(rows, rare, few).tolist()
    area = _rows(of, NAMES[1], before, now, before.value - now.value, enough, reasons, n_ref, n_cur)
    return pl.concat([loss, area])


def _measured(ref: Array, cur: Array) -> list[Array]:
    """Rows, the least expected events or non-events, expected log-loss and AUC of both, of nodes' counts (N, BINS)."""
    events = np.min([np.minimum(n @ CENTRES, n @ (1.0 - CENTRES)) for n in (ref, cur)], axis=0)
    found = [ref.sum(axis=1), cur.sum(axis=1), events]
    for each in (log_loss(ref), log_loss(cur), _expected_auc(ref), _expected_auc(cur)):
        found += [each.value, each.spread, each.error]
    return found


def _rows(
    of: Sequence[Node], name: str, before: Estimate, now: Estimate, effect: Array, enough: Array,
    reasons: Sequence[str], n_ref: Array, n_cur: Array,
) -> pl.DataFrame:  # fmt: skip
    """Rows of one measure; where there is not enough to judge, its reason stands instead of a value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.norm.sf(np.sign(effect) * np.abs(now.value - before.value) / np.hypot(now.error, before.error))
    p, q, status, threshold = judged(p, effect, enough, LIMITS[name])
    value = np.where(enough, now.value, np.nan)
    return rows_of(
        labels_of(of) | {"n_ref": n_ref, "n_cur": n_cur, "status": status}, None, name, value=value,
        effect=np.where(enough, effect, np.nan), threshold=threshold, p=p, q=q,
        low=value - Z95 * now.spread, high=value + Z95 * now.spread,
        detail=[f"{before.value[g]:.4f} at training" if enough[g] else reasons[g] for g in range(len(of))],
    )  # fmt: skip


def _expected_auc(rows: Array) -> Estimate:
    return ranking(rows, rows * CENTRES, rows * CENTRES**2)


def _keys(table: pl.DataFrame, segments: Sequence[str]) -> set[SegmentKey]:
    return {tuple(key) for key in table.select(segments).unique().iter_rows()}


def _by_key(table: pl.DataFrame, segments: Sequence[str], keys: Sequence[SegmentKey]) -> csr_matrix:
    """Counts (S, BINS) of a table, in the order of the keys."""
    place = pl.DataFrame(list(keys), schema=dict.fromkeys(segments, pl.String), orient="row").with_row_index("__place")
    found = table.join(place, on=list(segments), how="left", maintain_order="left")
    where = (found["__place"].to_numpy(), found["bin"].to_numpy())
    return csr_matrix((found["rows"].to_numpy(), where), shape=(len(keys), BINS))


def _counted(portfolio: Portfolio, scored: Scored) -> pl.DataFrame:
    return count(scored.frame, portfolio.columns.segments, portfolio.target.name)


def _keep(week: Week) -> Mapping[str, bytes]:
    return {SCORES: parquet(_counted(week.portfolio, week.scored))}


def _judge(night: Night) -> pl.DataFrame:
    now = _counted(night.portfolio, night.scored)
    return compare(night.portfolio.columns.segments, night.beside.table(SCORES), now)


MEASURE = Measure("performance", _judge, _keep, frozenset({"event"}), tests=NAMES, opening=NAMES)
