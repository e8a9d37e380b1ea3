"""Judging: histograms of the reference and of a night become rows of `drift_metric`, with error rates controlled.

A fixed limit on PSI cries wolf on small segments, and a p-value alone does so on large ones. So a feature drifts where
both hold: the false discovery rate over the night's tests, and an effect beyond what sampling alone gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from metarisk.domain import Array, SegmentKey, segment_name
from metarisk.drift import distances
from metarisk.drift.histograms import Bins, Counts
from metarisk.metrics import benjamini_hochberg

DISCOVERY_RATE = 0.05
WATCH, ALERT = 0.05, 0.10
"""Least effects: PSI beyond its sampling expectation."""
VOLUME = math.log(2.0)
"""Least change of a segment's share that is worth a watch: half or double, on the log scale."""
MIN_ROWS = 50
"""With fewer rows on either side a tenth expects less than five: the segment is judged with others like it."""
Z95 = 1.959963984540054
"""Normal quantile of a central 95 % interval."""
REFINE_BELOW = 1e-3
_LEAST_DRAWS = 20_000
_TAIL_ERROR = 100.0
"""No chi-square tail here is further off (5 was measured): a p-value that stays significant so is not refined."""

SUSPECTED = "concept drift suspected"
WORST_FIRST: tuple[str, ...] = (SUSPECTED, "alert", "watch", "blind", "ok")
"""Every status."""

SCHEMA = {
    "segment": pl.String, "level": pl.String, "feature": pl.String, "metric": pl.String, "value": pl.Float64,
    "effect": pl.Float64, "threshold": pl.Float64, "n_ref": pl.Int64, "n_cur": pl.Int64, "p": pl.Float64,
    "q": pl.Float64, "status": pl.String, "detail": pl.String, "low": pl.Float64, "high": pl.Float64,
    "min_detectable_ratio": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """What is judged: the whole portfolio first, then segments, those too small pooled by a parent's value.

    Attributes:
        names: (level, segment) of each group; the portfolio's segment is None.
        of_segment: group of each known segment, int64 (S,); 0 where only the portfolio judges it.
    """

    names: tuple[tuple[str, str | None], ...]
    of_segment: Array

    def sum(self, counts: Array) -> Array:
        """Counts (S+1, B) by segment added up to counts (G, B) by group."""
        groups = np.zeros((len(self.names), counts.shape[1]), dtype=np.int64)
        np.add.at(groups, self.of_segment, counts[:-1])
        groups[0] = counts.sum(axis=0)
        return groups


@dataclass(frozen=True)
class _Tests:
    """Histogram tests of one feature over all groups; `reference` and `current` are (G, B) counts of pooled bins."""

    bins: Bins
    n_ref: Array
    n_cur: Array
    value: Array
    effect: Array
    p: Array
    reference: Array
    current: Array
    reasons: tuple[str, ...]
    """Why a group could not be tested; empty where it could, or where nothing changed."""
    moved: tuple[str, ...]
    """The bin that moved most, in words."""
    described: dict[str, Array]
    """Further measures by name, NaN where they have no meaning."""


def compare(segments: Sequence[str], reference: Counts, current: Counts) -> pl.DataFrame:
    """Rows of `drift_metric`: PSI tests by segment and feature, segment volumes, and measures that describe what moved.

    Tests are `psi` and `volume`, each kind with its own false discovery rate. The measures `js`, `wasserstein`,
    `missing_rate` and `unseen` have no test of their own: they stand for the whole portfolio and wherever `psi` is not
    ok, and take over its status.
    """
    groups = group(segments, reference, current)
    tests = [_test(bins, groups, reference, current) for name, bins in current.bins.items() if name in reference.bins]
    tables = [(test, group) for test in tests for group in range(len(groups.names))]
    p, q = _discoveries(tables)
    parts, at, size = [], 0, len(groups.names)
    for test in tests:
        parts += _feature_rows(test, groups, p[at : at + size], q[at : at + size])
        at += size
    parts.append(_volume_rows(groups, reference, current))
    parts += [blind(reason, feature=name) for name, reason in current.uncounted.items()]
    return pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)


def blind(reason: str, *, feature: str | None = None, metric: str = "psi") -> pl.DataFrame:
    """One row that says why drift (of one feature, of one measure, or at all) could not be seen."""
    row = {"level": "all", "feature": feature, "metric": metric, "status": "blind", "detail": reason}
    return pl.DataFrame([row], schema=SCHEMA)


def group(segments: Sequence[str], reference: Counts, current: Counts) -> Groups:
    """Segments large enough by themselves; the others with the rest of their parent's value, column by column."""
    ref, cur = reference.rows[:-1], current.rows[:-1]
    names: list[tuple[str, str | None]] = [("all", None)]
    of_segment = np.zeros(len(reference.keys), dtype=np.int64)

    def judge(members: Sequence[int], level: str, key: SegmentKey) -> None:
        if min(ref[members].sum(), cur[members].sum()) >= MIN_ROWS:
            of_segment[members] = len(names)
            names.append((level, segment_name(key)))

    for number, key in enumerate(reference.keys):
        judge([number], "cell", key)
    for position, column in enumerate(segments if len(segments) > 1 else ()):
        rest: dict[str, list[int]] = {}
        for number in np.flatnonzero(of_segment == 0).tolist():
            rest.setdefault(reference.keys[number][position], []).append(number)
        for value, members in rest.items():
            judge(members, column, (value,))
    return Groups(tuple(names), of_segment)


def _test(bins: Bins, groups: Groups, reference: Counts, current: Counts) -> _Tests:
    fine_ref, fine_cur = groups.sum(reference.counts[bins.name]), groups.sum(current.counts[bins.name])
    ordered = bins.kind != "categorical"
    into = np.tile(np.arange(bins.width), (len(fine_ref), 1))
    if ordered:
        into[:, :-1] = distances.tenths(fine_ref[:, :-1])
        into[:, -1] = into[:, :-1].max(axis=1) + 1
    ref, cur = distances.merge(fine_ref, into), distances.merge(fine_cur, into)
    pools = distances.pooled(ref, cur, ordered=ordered)
    pooled_ref, pooled_cur = distances.merge(ref, pools), distances.merge(cur, pools)
    _, p = distances.homogeneity(pooled_ref, pooled_cur)
    effect = distances.psi(pooled_ref, pooled_cur) - distances.sampling_psi(pooled_ref, pooled_cur)
    n_ref, n_cur = fine_ref.sum(axis=1), fine_cur.sum(axis=1)
    reasons = _reasons(p, ref, cur, fine_ref, fine_cur)
    testable = ~np.isnan(p)
    return _Tests(
        bins, n_ref, n_cur, np.where(np.minimum(n_ref, n_cur) > 0, distances.psi(ref, cur), np.nan),
        np.where(testable, effect, np.nan), p, pooled_ref, pooled_cur, reasons,
        _moved(bins, into, ref, cur), _described(bins, fine_ref, fine_cur, distances.jensen_shannon(ref, cur)),
    )  # fmt: skip


def _reasons(p: Array, ref: Array, cur: Array, fine_ref: Array, fine_cur: Array) -> tuple[str, ...]:
    """Why no test was possible, by group; a constant that stays the same was seen and is no reason."""
    reasons = []
    for g in range(len(p)):
        if not np.isnan(p[g]):
            reasons.append("")
        elif not fine_cur[g].sum():
            reasons.append("no rows tonight")
        elif not fine_ref[g].sum():
            reasons.append("no rows in the reference")
        elif fine_ref[g, -1] == fine_ref[g].sum() and fine_cur[g, -1] == fine_cur[g].sum():
            reasons.append("all null, in the reference and tonight")
        elif np.count_nonzero(ref[g] + cur[g]) > 1 or min(fine_ref[g].sum(), fine_cur[g].sum()) < MIN_ROWS:
            reasons.append(f"too few rows: {fine_cur[g].sum():,.0f} tonight, {fine_ref[g].sum():,.0f} in the reference")
        else:
            reasons.append("")
    return tuple(reasons)


def _moved(bins: Bins, into: Array, ref: Array, cur: Array) -> tuple[str, ...]:
    """The bin whose share changed the index most, with its share before and now, by group."""
    before = ref / np.maximum(ref.sum(axis=1, keepdims=True), 1)
    now = cur / np.maximum(cur.sum(axis=1, keepdims=True), 1)
    p, q = np.maximum(before, distances.EMPTY_SHARE), np.maximum(now, distances.EMPTY_SHARE)
    worst = ((p - q) * np.log(p / q)).argmax(axis=1)
    return tuple(
        f"{bin_name(bins, np.flatnonzero(into[g] == worst[g]))}: {before[g, worst[g]]:.1%} → {now[g, worst[g]]:.1%}"
        for g in range(len(ref))
    )


def bin_name(bins: Bins, members: Array) -> str:
    """What a bin made of neighbouring grid bins holds, in words."""
    first, last = int(members[0]), int(members[-1])
    if first == bins.width - 1:
        return "missing"
    if bins.kind == "categorical":
        return f"'{bins.levels[first]}'" if first < len(bins.levels) else "rare or unseen values"
    if first == 0:
        return f"up to {bins.edges[last]:.4g}" if last < len(bins.edges) else "any value"
    if last >= len(bins.edges):
        return f"above {bins.edges[first - 1]:.4g}"
    low, high = bins.edges[max(first - 1, 1)], bins.edges[last]  # the very first edge lies just below the least value
    return f"{low:.4g} to {high:.4g}" if low != high else f"{high:.4g}"


def _described(bins: Bins, ref: Array, cur: Array, js: Array) -> dict[str, Array]:
    """Measures without a test, as (value, effect) rows (2, G)."""
    described = {"js": np.stack([js, np.full(len(ref), np.nan)])}
    if bins.kind != "categorical":
        scale = distances.spread(ref[0, :-1], bins.edges)
        distance = distances.wasserstein(ref[:, :-1], cur[:, :-1], bins.edges.astype(float)) / scale
        described["wasserstein"] = np.stack([distance, np.full(len(ref), np.nan)])
    else:
        described["unseen"] = _rate(ref[:, -2], cur[:, -2], ref, cur)
    described["missing_rate"] = _rate(ref[:, -1], cur[:, -1], ref, cur)
    return described


def _rate(part_ref: Array, part_cur: Array, ref: Array, cur: Array) -> Array:
    before = part_ref / np.maximum(ref.sum(axis=1), 1)
    now = part_cur / np.maximum(cur.sum(axis=1), 1)
    return np.stack([now, now - before])


def _discoveries(tables: Sequence[tuple[_Tests, int]]) -> tuple[Array, Array]:
    """P-values of all feature tests, refined where that could change a decision, and their q-values.

    A test whose effect is below a watch is no candidate: its p counts as 1 in the false discovery rate. Otherwise
    differences without importance, which every large segment has, would lend small segments their discoveries.
    """
    p = np.array([test.p[group] for test, group in tables])
    candidate = np.array([test.effect[group] >= WATCH for test, group in tables], dtype=bool)

    def q_values(p: Array) -> Array:
        return benjamini_hochberg(np.where(candidate | np.isnan(p), p, 1.0))

    small = candidate & (p < REFINE_BELOW)
    certain = small & (q_values(np.where(small, np.minimum(_TAIL_ERROR * p, 1.0), p)) <= DISCOVERY_RATE)
    # as many draws as a p-value needs to pass the step-up rule beside those that surely pass
    most = math.ceil(2.0 * np.count_nonzero(~np.isnan(p)) / DISCOVERY_RATE / (1 + np.count_nonzero(certain)))
    rng = np.random.default_rng(0)
    for i in np.flatnonzero(small & ~certain).tolist():
        test, group = tables[i]
        counts = test.reference[group].astype(np.int64), test.current[group].astype(np.int64)
        p[i] = distances.monte_carlo_p(*counts, most=max(most, _LEAST_DRAWS), rng=rng)
    return p, q_values(p)


def _feature_rows(test: _Tests, groups: Groups, p: Array, q: Array) -> list[pl.DataFrame]:
    discovered = q <= DISCOVERY_RATE
    alert, watch = discovered & (test.effect >= ALERT), discovered & (test.effect >= WATCH)
    reasons = np.array(test.reasons, dtype=object)
    status = np.select([reasons != "", alert, watch], ["blind", "alert", "watch"], "ok")
    notable = status != "ok"
    detail = np.where(reasons != "", reasons, np.where(notable, np.array(test.moved, dtype=object), ""))
    constant = np.isnan(p) & (reasons == "")
    detail = np.where(constant, "constant, as in the reference", detail)
    about = {
        "level": [level for level, _ in groups.names],
        "segment": [segment for _, segment in groups.names],
        "n_ref": test.n_ref,
        "n_cur": test.n_cur,
        "status": status.astype(str),
    }
    tested = rows_of(
        about, test.bins.name, "psi", value=test.value, effect=np.where(constant, 0.0, test.effect),
        threshold=np.where(alert, ALERT, WATCH), p=p, q=q, detail=detail,
    )  # fmt: skip
    shown = notable & (reasons == "")
    shown[0] = True
    further = [
        rows_of(about, test.bins.name, metric, value=value, effect=effect).filter(pl.Series(shown & ~np.isnan(value)))
        for metric, (value, effect) in test.described.items()
    ]
    return [tested, *further]


def _volume_rows(groups: Groups, reference: Counts, current: Counts) -> pl.DataFrame:
    """Rows of every segment, known or new, against its share of the reference, as a test of two shares each."""
    keys = [*reference.keys, *current.new]
    ref = np.concatenate([reference.rows[:-1], np.zeros(len(current.new), dtype=np.int64)])
    cur = np.concatenate([current.rows[:-1], np.array(list(current.new.values()), dtype=np.int64)])
    all_ref, all_cur = int(reference.rows.sum()), int(current.rows.sum())
    _, p = distances.homogeneity(np.stack([ref, all_ref - ref], axis=1), np.stack([cur, all_cur - cur], axis=1))
    expected = (ref + cur) * min(all_ref, all_cur) / max(all_ref + all_cur, 1)
    p = np.where(expected >= distances.LEAST_EXPECTED, p, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.log((cur / max(all_cur, 1)) / (ref / max(all_ref, 1)))
    large = np.abs(effect) >= VOLUME
    q = benjamini_hochberg(np.where(large | np.isnan(p), p, 1.0))
    group = np.concatenate([groups.of_segment, np.zeros(len(current.new), dtype=np.int64)])
    level = np.array([groups.names[g][0] for g in group], dtype=str)
    status = np.select([large & (q <= DISCOVERY_RATE), level == "all"], ["watch", "blind"], "ok").astype(str)
    return rows_of(
        {"segment": [segment_name(key) for key in keys], "level": level, "n_ref": ref, "n_cur": cur, "status": status},
        None, "volume", value=cur.astype(float), effect=effect, threshold=np.full(len(keys), VOLUME), p=p, q=q,
        detail=[_volume_words(*line) for line in zip(ref, cur, level, strict=True)],
    )  # fmt: skip


def _volume_words(ref: int, cur: int, level: str) -> str | None:
    """Why a segment could not be judged by itself; None where it was."""
    if not ref:
        return "not in the reference"
    if not cur:
        return "no rows tonight"
    if level == "all":
        return "too few rows to be judged but with the whole portfolio"
    return f"too few rows: judged with the small segments of its {level}" if level != "cell" else None


def judged(
    p: Array, effect: Array, enough: Array, limits: tuple[float, float], rate: float = DISCOVERY_RATE
) -> tuple[Array, Array, Array, Array]:
    """p, q, status and limit of one kind of tests (G,): false discovery controlled, and an effect that matters.

    A test whose effect is below the limit of a watch is no candidate: its p counts as 1. `enough` masks the groups that
    have the rows for a test; the others are blind.
    """
    p = np.where(enough & np.isfinite(p), p, np.nan)
    q = benjamini_hochberg(np.where((effect >= limits[0]) | np.isnan(p), p, 1.0))
    watch, alert = ((q <= rate) & (effect >= limit) for limit in limits)
    status = np.select([~enough, alert, watch], ["blind", "alert", "watch"], "ok").astype(str)
    return p, q, status, np.where(alert, limits[1], limits[0])


def rows_of(
    about: Mapping[str, object],
    feature: str | Sequence[str] | None,
    metric: str,
    **columns: Array | Sequence[str | None],
) -> pl.DataFrame:
    """Rows of SCHEMA of one metric; numbers that are not finite are null, as are columns that are not given."""
    frame = pl.DataFrame(
        {**about, "feature": feature, "metric": metric, **columns},
        schema_overrides={"segment": pl.String, "feature": pl.String, "detail": pl.String},
        strict=False,
    )
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in frame.columns]
    numbers = [pl.when(pl.col(n).is_finite()).then(n).alias(n) for n in columns if SCHEMA[n] == pl.Float64]
    return frame.with_columns(*absent, *numbers).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
