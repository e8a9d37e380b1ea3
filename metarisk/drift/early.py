"""The earliest labels against what published scores expected: level and ranking, by segment, months before maturity.

A score published at the opening expects, by the hazard curve, so many events by every month on book. Observed
against expected is an exact test long before the horizon ends; what `performance` cannot see, this does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import polars as pl
from scipy import special, stats
from scipy.sparse import csr_matrix

from metarisk.calibration import binomial_p
from metarisk.domain import Array, ModelError, SegmentKey
from metarisk.drift.decide import DISCOVERY_RATE, SCHEMA, Z95, blind, judged, rows_of
from metarisk.drift.hierarchy import Node, in_blocks, labels_of, nodes, parents, totals
from metarisk.drift.histograms import segment_column
from metarisk.drift.measure import Measure, Night, Week
from metarisk.drift.performance import BINS, LEAST_EVENTS, Estimate, bin_of, ranking
from metarisk.metrics import benjamini_hochberg, calibration_in_the_large
from metarisk.tasks import LABEL, MATURE, observed, periods_known

CURVE = "curve.json"
"""Shares of the horizon's hazard by period, as the model has them."""
WATCH, ALERT = 0.25, 0.50
"""Least rises of observed over expected events of a watch and an alert; equal falls on the log scale are watches."""
RANKING = (0.03, 0.06)
"""Least falls of the observed AUC below the expected one."""
RANKING_RATE = 0.01
"""Of false discoveries among rankings: their test is a normal one, too bold far out in the tail of few events."""
DOUBLED = 2.0
"""A segment in which a doubled rate could not have been seen is blind."""
POWER = 0.8
FEWEST_MATURED = 10
_SUMS = ("rows", "expected", "squares", "event", "mature", "score", "score_squares", "mature_event", "logit")
"""What is summed in a cell: of all rows, of their expected events and squares of these, of events; of mature rows, of
their scores, squares, events and log-odds."""
_ALL, _MATURE = slice(0, 4), slice(4, 8)


@dataclass(frozen=True)
class Known:
    """What is known by now of entities whose score was published at their opening, added up; parts can be joined.

    Attributes:
        keys: segment keys.
        cells: number of a key times BINS plus the bin of a score, int64 (C,), in order.
        sums: of the rows of each cell, (C, 9) in the order of _SUMS.
        months: rows, expected events and events (P, 3) by number of known periods.
    """

    keys: tuple[SegmentKey, ...] = ()
    cells: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    sums: Array = field(default_factory=lambda: np.zeros((0, len(_SUMS))))
    months: Array = field(default_factory=lambda: np.zeros((0, 3)))

    @classmethod
    def of(
        cls,
        keys: tuple[SegmentKey, ...],
        codes: Array,
        score: Array,
        expected: Array,
        event: Array,
        periods: Array,
        matured: Array,
    ) -> Known:
        """Add up entities; arrays (N,).

        Args:
            keys, codes: segment keys, and the number of each row's key.
            score: published probability of the event over the whole horizon.
            expected: probability of the event within the periods that are known by now.
            event: whether it fell into them.
            periods: number of known periods.
            matured: whether the whole horizon is known.
        """
        ones, mature = np.ones(len(score)), np.asarray(matured, dtype=float)
        logit = special.logit(np.clip(score, 1e-9, 1.0 - 1e-9))
        bins = pl.DataFrame({"score": score}).select(bin_of(pl.col("score")))["score"].to_numpy()
        of_mature = (mature * value for value in (ones, score, score**2, event, logit))
        values = np.stack([ones, expected, expected**2, event, *of_mature], axis=1)
        known = np.asarray(periods, dtype=np.int64)
        months = np.stack([np.bincount(known, column) for column in (ones, expected, event)], axis=1)
        return cls(keys, *_added(codes * BINS + bins, values), months)

    def plus(self, other: Known) -> Known:
        """Both together."""
        keys = tuple(sorted({*self.keys, *other.keys}))
        place = {key: number for number, key in enumerate(keys)}
        cells = [
            np.array([place[key] for key in part.keys], dtype=np.int64)[part.cells // BINS] * BINS + part.cells % BINS
            for part in (self, other)
        ]
        months = np.zeros((max(len(self.months), len(other.months)), 3))
        for part in (self, other):
            months[: len(part.months)] += part.months
        return Known(keys, *_added(np.concatenate(cells), np.concatenate([self.sums, other.sums])), months)


def _added(place: Array, values: Array) -> tuple[Array, Array]:
    """Distinct places (C,) of rows (N,), in order, and the sums (C, V) of their values (N, V)."""
    cells, numbers = np.unique(place, return_inverse=True)
    sums = [np.bincount(numbers, column, minlength=len(cells)) for column in values.T]
    return cells, np.stack(sums, axis=1)


def expected_events(score: Array, share_from: Array, share_to: Array) -> Array:
    """Probability (N,) of the event between two shares of the horizon's hazard, for a row at risk at the first.

    1 - exp(-H (s2 - s1)) with H = -ln(1 - score): proportional hazards.
    """
    return np.asarray(-np.expm1(np.log1p(-np.minimum(score, 1.0 - 1e-12)) * (share_to - share_from)))


def min_detectable_ratio(rows: Array, expected: Array, alpha: float | Array) -> Array:
    """Least ratio (G,) of the true to the expected rate that the exact one-sided test sees with 80 % power.

    Args:
        rows: entities of each group (G,).
        expected: their expected events (G,).
        alpha: level of the test.

    The test rejects at k or more events; the rate at which that has probability 0.8 is a quantile of the beta
    distribution. Infinite where no number of events would be enough.
    """
    n, e = np.asarray(rows, dtype=float), np.asarray(expected, dtype=float)
    rate = np.divide(e, n, out=np.zeros_like(e), where=n > 0)
    least = stats.binom.isf(alpha, n, rate) + 1
    possible = (least <= n) & (e > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        needed = special.betaincinv(np.where(possible, least, 1.0), np.where(possible, n - least + 1, 1.0), POWER)
        return np.where(possible, needed / rate, np.inf)


def judge(segments: Sequence[str], known: Known) -> pl.DataFrame:
    """Rows of `drift_metric`: events and ranking of every node; by month on book and of matured rows for some.

    The metrics are `early_events` (observed over expected; exact binomial test that the rate was not understated, with
    a Jeffreys interval; n_ref is the expected number, rounded, n_cur the rows), `early_auc`, `month_on_book` (of the
    whole portfolio; `feature` is the month), `matured_auc` and `calibration_in_the_large` (the shift of the log-odds
    that matured rows ask for). Empty where nothing is known.
    """
    if not len(known.cells):
        return pl.DataFrame(schema=SCHEMA)
    of = nodes(known.keys, segments)
    level = _events(of, known)
    parts = [level, _ranking(of, known, _ALL, "early_auc"), _by_month(known, level["status"][0])]
    if known.sums[:, _SUMS.index("mature")].any():
        parts += [_ranking(of, known, _MATURE, "matured_auc"), _in_the_large(of, known)]
    return pl.concat(parts)


def _events(of: Sequence[Node], known: Known) -> pl.DataFrame:
    codes = known.cells // BINS
    sums = (np.bincount(codes, known.sums[:, _SUMS.index(name)]) for name in ("rows", "expected", "event"))
    n, e, o = (totals(of, value) for value in sums)
    rate = e / np.maximum(n, 1)
    more, fewer = binomial_p(rate, o, n), stats.binom.cdf(o, n, rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = o / e
        high_enough, low_enough = ratio >= 1.0 + WATCH, ratio <= 1.0 / (1.0 + WATCH)
    # as in the tests of features: a difference without importance is no candidate and lends nobody its discovery
    q_more = benjamini_hochberg(np.where(high_enough, more, 1.0))
    q_fewer = benjamini_hochberg(np.where(low_enough, fewer, 1.0))
    seen = min_detectable_ratio(n, e, DISCOVERY_RATE / len(of))
    overstated = low_enough & (q_fewer <= DISCOVERY_RATE)
    watch = (high_enough & (q_more <= DISCOVERY_RATE)) | overstated
    alert = watch & ~overstated & (ratio >= 1.0 + ALERT)
    status = np.select([alert, watch, seen > DOUBLED], ["alert", "watch", "blind"], "ok").astype(str)
    level, detail = _judged_at(of, status, n, e, o)
    return rows_of(
        {"level": level, "segment": [node.segment for node in of], "status": status,
         "n_ref": np.rint(e).astype(np.int64), "n_cur": n.astype(np.int64)},
        None, "early_events", value=ratio, effect=ratio - 1.0, threshold=np.where(alert, ALERT, WATCH),
        p=np.where(overstated, fewer, more), q=np.where(overstated, q_fewer, q_more),
        low=stats.beta.ppf(0.025, o + 0.5, n - o + 0.5) / rate, high=stats.beta.ppf(0.975, o + 0.5, n - o + 0.5) / rate,
        min_detectable_ratio=seen, detail=detail,
    )  # fmt: skip


def _judged_at(of: Sequence[Node], status: Array, n: Array, e: Array, o: Array) -> tuple[list[str], list[str]]:
    """Level and words of every node: one that is blind by itself is judged with the nearest node above that is not."""
    levels, details = [], []
    for place, (node, above) in enumerate(zip(of, parents(of), strict=True)):
        words = f"{o[place]:,.0f} events, {e[place]:,.1f} expected of {n[place]:,.0f} rows"
        judge = next((other for other in above if status[other] != "blind"), None)
        if status[place] == "blind" and judge is not None:
            where = of[judge].segment or "the whole portfolio"
            words += f"; too few to see a doubled rate: judged with {where}: {status[judge]}"
        levels.append(of[judge].level if status[place] == "blind" and judge is not None else node.level)
        details.append(words)
    return levels, details


def _ranking(of: Sequence[Node], known: Known, which: slice, metric: str) -> pl.DataFrame:
    """The AUC that known events show, against the one that their own probabilities expect, of all or of mature rows."""

    def measured(rows: Array, p: Array, squares: Array, seen: Array) -> list[Array]:
        sums = [rows.sum(axis=1), seen.sum(axis=1), p.sum(axis=1)]
        estimates = ranking(rows, p, squares), ranking(rows, seen, seen)
        return sums + [part for each in estimates for part in (each.value, each.spread, each.error)]

    where = (known.cells // BINS, known.cells % BINS)
    values = [csr_matrix((each, where), shape=(len(known.keys), BINS)) for each in known.sums[:, which].T]
    n, o, expected, *estimates = in_blocks(of, values, measured)
    due, found = Estimate(*estimates[:3]), Estimate(*estimates[3:])
    enough = np.minimum(o, n - o) >= LEAST_EVENTS
    effect = due.value - found.value
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = stats.norm.sf(effect / due.spread)
    p_value, q, status, threshold = judged(p_value, effect, enough, RANKING, RANKING_RATE)
    return rows_of(
        labels_of(of) | {"status": status, "n_ref": _whole(expected), "n_cur": _whole(n)},
        None, metric, value=np.where(enough, found.value, np.nan), effect=np.where(enough, effect, np.nan),
        threshold=threshold, p=p_value, q=q,
        low=due.value - Z95 * due.spread, high=due.value + Z95 * due.spread,
        detail=[
            f"AUC {found.value[g]:.3f}, {due.value[g]:.3f} expected" if enough[g] else f"{o[g]:,.0f} events: too few"
            for g in range(len(of))
        ],
    )  # fmt: skip


def _by_month(known: Known, status: str) -> pl.DataFrame:
    """Observed over expected events of the whole portfolio by months on book known; no tests of their own."""
    n, e, o = known.months.T
    held = np.flatnonzero(e > 0)
    n, e, o = n[held], e[held], o[held]
    rate = e / n
    return rows_of(
        {"level": "all", "n_ref": _whole(e), "n_cur": n.astype(np.int64), "status": status},
        [str(month) for month in held], "month_on_book", value=o / e, effect=o / e - 1.0,
        low=stats.beta.ppf(0.025, o + 0.5, n - o + 0.5) / rate, high=stats.beta.ppf(0.975, o + 0.5, n - o + 0.5) / rate,
        detail=[f"{o[i]:,.0f} events, {e[i]:,.1f} expected of {n[i]:,.0f} rows" for i in range(len(held))],
    )  # fmt: skip


def _whole(values: Array) -> Array:
    return np.asarray(np.rint(values).astype(np.int64))


def _in_the_large(of: Sequence[Node], known: Known) -> pl.DataFrame:
    """Calibration in the large of mature rows, of every node with ten events or more; described, not tested.

    The rows of a cell stand at their mean log-odds, which moves the shift by some 1e-5.
    """
    mature = known.sums[:, _SUMS.index("mature")] > 0
    starts = np.searchsorted(known.cells[mature], BINS * np.arange(len(known.keys) + 1))
    n, score, _, event, logit = known.sums[mature, 4:].T
    frames = []
    for node in of:
        cells = np.concatenate([np.arange(starts[m], starts[m + 1]) for m in node.members])
        rows, events = n[cells].sum(), event[cells].sum()
        if min(events, rows - events) < FEWEST_MATURED:
            continue
        weight = n[cells]
        shift = calibration_in_the_large(logit[cells] / weight, event[cells] / weight, weight)
        about = {"level": [node.level], "segment": [node.segment], "status": "ok", "n_cur": [int(rows)]}
        words = [f"{events:,.0f} events, {score[cells].sum():,.1f} expected of {rows:,.0f} matured rows"]
        frames.append(rows_of(about, None, "calibration_in_the_large", value=np.array([shift]), detail=words))
    return pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)


def _keep(week: Week) -> Mapping[str, bytes]:
    return {CURVE: json.dumps(week.adapted.model.shares().tolist()).encode()}


def _judge(night: Night) -> pl.DataFrame:
    if night.spec.label != "event":  # the curve stands beside every model
        return pl.DataFrame(schema=SCHEMA)
    known = _known(night)
    if not len(known.cells):
        reason = "no published score has known months on book yet: the first are judged a month and the lag after it"
        return blind(reason, metric="early_events")
    return judge(night.portfolio.columns.segments, known)


def _known(night: Night) -> Known:
    """Entities scored soon after their opening in the last horizon, with what is known of them at as_of."""
    portfolio, as_of, target, columns = night.portfolio, night.as_of, night.portfolio.target, night.portfolio.columns
    found = Known()
    if not portfolio.periods:
        return found
    months, days = target.horizon_months + target.reporting_lag_months, target.horizon_days + target.reporting_lag_days
    first: date = pl.select(pl.lit(as_of - timedelta(days=days)).dt.offset_by(f"-{months + 1}mo")).item()
    frame = night.extract.filter(pl.col(columns.opened_on) > pl.lit(first))
    rows = observed(frame.with_columns(__seen=periods_known(portfolio, as_of)), portfolio, night.spec, as_of)
    at_risk = rows.select(
        pl.col(columns.entity).alias("entity"), pl.col(columns.opened_on).cast(pl.Date).alias("opened"),
        *(segment_column(name).alias(f"__{name}") for name in columns.segments), LABEL, MATURE, "__seen",
    )  # fmt: skip
    curves: dict[str, Array] = {}
    for joined in night.first_scores(at_risk, first, as_of - timedelta(days=1)):
        for name in joined["model_id"].unique(maintain_order=True).drop_nulls():
            if name not in curves:
                curves[name] = _curve(night, name)
        begun = periods_known(portfolio, pl.col("published"))
        part = joined.rename({"opened": columns.opened_on}).with_columns(begun.clip(lower_bound=0).alias("__from"))
        found = found.plus(_as_known(part, curves, [f"__{name}" for name in columns.segments], target.periods))
    return found


def _as_known(joined: pl.DataFrame, curves: Mapping[str, Array], segments: list[str], periods: int) -> Known:
    """Sums of rows whose expectation is known: by the curve of the model that scored, or of the whole horizon."""
    seen, begun = joined["__seen"].to_numpy(), joined["__from"].to_numpy()
    share = np.full((joined.height, 2), np.nan)
    models = joined["model_id"].fill_null("").to_numpy()
    for name, curve in curves.items():
        mine = np.flatnonzero(models == name)
        if len(curve) > periods:
            share[mine] = np.stack([curve[begun[mine]], curve[seen[mine]]], axis=1)
    share[np.isnan(share[:, 0]) & (seen >= periods)] = (0.0, 1.0)
    kept = (share[:, 1] > share[:, 0]) & joined["score"].is_between(0.0, 1.0).fill_null(False).to_numpy()
    rows, share = joined.filter(pl.Series(kept)), share[kept]
    keyed = rows.select(segments)
    keys = keyed.unique().sort(segments)
    codes = keyed.join(keys.with_row_index("__code"), on=segments, how="left", maintain_order="left")["__code"]
    score = rows["score"].to_numpy()
    return Known.of(
        tuple(keys.iter_rows()), codes.to_numpy().astype(np.int64), score,
        expected_events(score, share[:, 0], share[:, 1]), rows[LABEL].to_numpy(), rows["__seen"].to_numpy(),
        rows[MATURE].to_numpy(),
    )  # fmt: skip


def _curve(night: Night, model_id: str) -> Array:
    """The hazard curve of a model that once scored; empty where it has none, or is no longer whole."""
    try:
        files = night.beside_of(model_id).files
    except ModelError as error:
        night.beside.warn(f"early labels of its scores are not judged: {error.what}")
        return np.zeros(0)
    return np.array(json.loads(files.get(CURVE, b"[]")), dtype=float)


MEASURE = Measure("early", _judge, _keep, tests=("early_events", "early_auc", "matured_auc"))
