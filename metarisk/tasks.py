"""Frames to episodes, point in time: the one place that gives labels, and it always takes as_of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from metarisk.domain import MISSING, PERIODS, Array, Episodes, Packed, Portfolio, RiskSpec, SegmentKey, Target

LABEL = "__y"
MATURE = "__mature"
OPPONENT = "__opponent"
"""Of judged rows: the baseline that validation had chosen before any of them."""
WHOLE = "(all)"
"""The one segment of a book without segment columns."""
_BATCH_ROWS = 65_536


def horizon_end(portfolio: Portfolio, target: Target) -> pl.Expr:
    """Date at which the horizon of a row ends: where its contract does, if that is earlier."""
    return _ends(portfolio, target, 0, 0)


def known_end(portfolio: Portfolio, target: Target) -> pl.Expr:
    """Date at which all events inside a row's horizon are known."""
    return _ends(portfolio, target, target.reporting_lag_months, target.reporting_lag_days)


def _ends(portfolio: Portfolio, target: Target, lag_months: int, lag_days: int) -> pl.Expr:
    columns = portfolio.columns
    end = _later(pl.col(columns.opened_on), target.horizon_months + lag_months, target.horizon_days + lag_days)
    if columns.matures_on is None:
        return end
    return pl.min_horizontal(end, _later(pl.col(columns.matures_on), lag_months, lag_days))


def _later(day: pl.Expr, months: int, days: int) -> pl.Expr:
    later = day.dt.offset_by(f"{months}mo") if months else day
    return later + pl.duration(days=days) if days else later


def matured(portfolio: Portfolio, target: Target, as_of: date) -> pl.Expr:
    """Whether a row's outcome over the whole horizon is known by as_of: only such rows teach or judge."""
    over = (known_end(portfolio, target) <= pl.lit(as_of)) | settled(portfolio, pl.lit(as_of))
    # Of a row whose flag is missing nobody knows whether it is good.
    return over if portfolio.columns.label is None else over & pl.col(portfolio.columns.label).is_not_null()


def settled(portfolio: Portfolio, at: pl.Expr) -> pl.Expr:
    """Whether a review had settled a row's label by a date, either way; false for all where nobody reviews."""
    column = portfolio.columns.settled_on
    return pl.lit(False) if column is None else (pl.col(column) <= at).fill_null(False)


def positive(portfolio: Portfolio, target: Target, as_of: date) -> pl.Expr:
    """Whether the event fell inside the horizon and was known by as_of."""
    columns = portfolio.columns
    happened = pl.col(str(columns.event_date)) <= horizon_end(portfolio, target)
    return (happened & (pl.col(str(columns.known_date)) <= pl.lit(as_of))).fill_null(False)


def booked(portfolio: Portfolio, as_of: date) -> pl.Expr:
    """Whether the lender had taken a row on its book by as_of; true for all where the portfolio does not say."""
    column = portfolio.columns.booked_on
    return pl.lit(True) if column is None else (pl.col(column) <= pl.lit(as_of)).fill_null(False)


def as_known(frame: pl.LazyFrame, portfolio: Portfolio, as_of: date) -> pl.LazyFrame:
    """Rows with the outcome columns blanked where they tell what was not known by as_of."""
    columns, today = portfolio.columns, pl.lit(as_of)
    blank = []
    if columns.known_date is not None:
        told = [name for name in (columns.event_date, columns.value, columns.known_date) if name is not None]
        blank += [pl.when(pl.col(columns.known_date) <= today).then(pl.col(name)) for name in dict.fromkeys(told)]
    if columns.label is not None:
        over = (known_end(portfolio, portfolio.target) <= today) | settled(portfolio, today)
        blank.append(pl.when(over).then(pl.col(columns.label)))
    for name in (columns.exit_date, columns.settled_on):
        if name is not None:
            blank.append(pl.when(pl.col(name) <= today).then(pl.col(name)))
    return frame.with_columns(blank)


def labelled(frame: pl.LazyFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> pl.LazyFrame:
    """Matured rows with their label in LABEL, as they were known at as_of; what is immature is left out.

    Outcomes that were not known by as_of are blanked, so that nothing learned later can be read off them. What was
    never booked has no outcome, and no label is made up for it.
    """
    target, columns = portfolio.target, portfolio.columns
    mature = as_known(frame.filter(matured(portfolio, target, as_of), booked(portfolio, as_of)), portfolio, as_of)
    if spec.label == "value":
        known = pl.col(str(columns.known_date)) <= pl.lit(as_of)
        return mature.filter(known & pl.col(str(columns.value)).is_not_null()).with_columns(
            pl.col(str(columns.value)).cast(pl.Float64).alias(LABEL)
        )
    return mature.with_columns(positive(portfolio, target, as_of).cast(pl.Float64).alias(LABEL))


def observed(frame: pl.LazyFrame, portfolio: Portfolio, spec: RiskSpec, as_of: date) -> pl.LazyFrame:
    """Rows that were at risk for at least one whole period known by as_of, with LABEL, PERIODS and MATURE.

    A period (a month of a horizon in months, a day of one in days) is known a reporting lag after its end, so that no
    row is taken as good for a period whose events are still to be reported. LABEL says whether the event fell into
    the PERIODS known ones, the last of which is that of the event. A competing exit keeps a row at risk: the hazard is
    that of the cumulative incidence (Fine and Gray 1999, JASA 94, 496-509). The rows with MATURE and their LABEL are
    those of `labelled`; where the horizon cannot be cut into equal periods there are no others, and it is one period.
    """
    target, columns = portfolio.target, portfolio.columns
    if spec.label != "event":
        return labelled(frame, portfolio, spec, as_of)
    if not portfolio.periods:
        return labelled(frame, portfolio, spec, as_of).with_columns(
            pl.lit(1, pl.Int64).alias(PERIODS), pl.lit(True).alias(MATURE)
        )
    opened, event = pl.col(columns.opened_on), pl.col(str(columns.event_date))
    by_review, day = settled(portfolio, pl.lit(as_of)), pl.duration(days=1)
    seen = pl.when(by_review).then(target.periods).otherwise(periods_known(portfolio, as_of))
    last = (_periods_between(opened, event - day, target) + 1).clip(lower_bound=1)
    happened = (event.is_not_null() & (last <= seen)).fill_null(False)
    known = as_known(frame.filter(seen >= 1, booked(portfolio, as_of)), portfolio, as_of)
    return known.with_columns(
        happened.cast(pl.Float64).alias(LABEL),
        pl.when(happened).then(last).otherwise(seen).cast(pl.Int64).alias(PERIODS),
        (seen == target.periods).alias(MATURE),
    )


def periods_known(portfolio: Portfolio, at: date | pl.Expr) -> pl.Expr:
    """Periods of a row's horizon, counted from its opening, whose events are all known at a date; at most all."""
    target, opened = portfolio.target, pl.col(portfolio.columns.opened_on)
    last_day = (pl.lit(at) if isinstance(at, date) else at) - pl.duration(days=target.reporting_lag_days)
    if target.horizon_months:
        seen = _periods_between(opened, last_day, target) - target.reporting_lag_months
    else:
        seen = _periods_between(opened, last_day.dt.offset_by(f"-{target.reporting_lag_months}mo"), target)
    return seen.clip(upper_bound=target.periods)


def _periods_between(start: pl.Expr, end: pl.Expr, target: Target) -> pl.Expr:
    """Whole periods from one date to another: the largest a with start + a periods <= end."""
    if not target.horizon_months:
        return (end.cast(pl.Date) - start.cast(pl.Date)).dt.total_days()
    months = 12 * (end.dt.year() - start.dt.year()).cast(pl.Int64) + (
        end.dt.month().cast(pl.Int64) - start.dt.month().cast(pl.Int64)
    )
    # The day at which a month of this row ends: that of its opening, or the last one of a shorter month.
    turn = pl.min_horizontal(start.dt.day(), end.dt.month_end().dt.day())
    return months - (end.dt.day() < turn).cast(pl.Int64)


def tells(y: Array, spec: RiskSpec) -> Array:
    """How much each row (N,) with label y tells: an event one, a row without one nothing, a value one."""
    return y if spec.label == "event" else np.ones(len(y))


def tells_of(spec: RiskSpec) -> pl.Expr:
    """The same as an expression over a labelled frame."""
    return pl.col(LABEL) if spec.label == "event" else pl.col(LABEL).is_not_null().cast(pl.Float64)


def teaching(frame: pl.DataFrame, *, hazard: bool) -> pl.DataFrame:
    """The rows of `observed` that teach a hazard (all of them) or a label over the whole horizon (the mature ones)."""
    return frame if hazard or MATURE not in frame.columns else frame.filter(MATURE)


def population(
    frame: pl.LazyFrame, portfolio: Portfolio, as_of: date, latest: pl.LazyFrame | None = None
) -> pl.LazyFrame:
    """Rows to be scored: opened by as_of, still inside the horizon, no outcome, verdict or exit known by as_of.

    Outcomes that were not known by as_of are blanked. With `population = "latest"` these are the rows whose keys stand
    in `latest`, by default those of `latest_rows`.
    """
    columns, target = portfolio.columns, portfolio.target
    stale = timedelta(days=portfolio.thresholds.max_stale_days if portfolio.population == "latest" else 0)
    at_risk = (pl.col(columns.opened_on) <= pl.lit(as_of)) & (horizon_end(portfolio, target) > pl.lit(as_of - stale))
    for ended in (columns.known_date, columns.exit_date, columns.settled_on):
        if ended is not None:
            at_risk &= ~(pl.col(ended) <= pl.lit(as_of)).fill_null(False)
    if portfolio.population == "latest":
        keys = latest_rows(frame, portfolio, as_of) if latest is None else latest
        frame = frame.join(keys, on=keys.collect_schema().names(), how="semi", maintain_order="left")
    return as_known(frame.filter(at_risk), portfolio, as_of)


def latest_rows(frame: pl.LazyFrame, portfolio: Portfolio, as_of: date) -> pl.LazyFrame:
    """Entity and opening date of the latest row of each entity that had opened by as_of."""
    entity, opened = portfolio.columns.entity, pl.col(portfolio.columns.opened_on)
    return frame.filter(opened <= pl.lit(as_of)).group_by(entity).agg(opened.max())


def newest(frame: pl.LazyFrame, portfolio: Portfolio, *, per_segment: int, total: int) -> pl.DataFrame:
    """The newest rows, at most `per_segment` a segment and `total` in all, sorted by entity and opening date.

    Of `observed` rows the mature ones and the others are counted apart, and a quarter of `total` is left to the others.
    Ties are settled by entity. Keys alone are ranked, and what stays is then picked, both a batch at a time: what is
    held does not grow with the rows, which it would in a streamed join.
    """
    columns = portfolio.columns
    order = [columns.opened_on, columns.entity]
    apart = [MATURE] if MATURE in frame.collect_schema().names() else []
    groups = [(pl.col(MATURE), total), (~pl.col(MATURE), total // 4)] if apart else [(pl.lit(True), total)]
    keys = frame.select(*order, *columns.segments, *apart)
    ranks = [(of, _Ranks(order, columns.segments, per_segment, most)) for of, most in groups]
    for batch in _batches(keys):
        for of, rank in ranks:
            rank.add(batch.filter(of))
    kept = pl.concat([rank.kept().select(order) for _, rank in ranks])
    stay = pl.any_horizontal(of & rank.may_stay for of, rank in ranks)
    rows = (batch.filter(stay) for batch in _batches(frame))
    if per_segment < total:
        rows = (batch.join(kept, on=order, how="semi") for batch in rows)
    return pl.concat(list(rows)).sort(columns.entity, columns.opened_on)


def _batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in any order; one batch at least, for the columns."""
    yield pl.DataFrame(schema=frame.collect_schema())
    yield from frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=False, engine="streaming")


class _Ranks:
    """The first `most` of the keys added so far, newest first, at most `per_segment` a segment.

    Parts may be ranked alone: a row that so many newer ones keep out of a part is kept out of the whole.
    """

    def __init__(self, order: Sequence[str], segments: Sequence[str], per_segment: int, most: int) -> None:
        self._order, self._segments, self._per_segment, self._most = list(order), list(segments), per_segment, most
        self._held: list[pl.DataFrame] = []
        self._ranked = 0
        self.may_stay = pl.lit(True)
        """Whether a row may be kept: no row of a later key than the last kept one is left out but for its segment."""

    def add(self, keys: pl.DataFrame) -> None:
        """Hold keys, and rank as soon as so many have come since the last time."""
        self._held.append(keys.filter(self.may_stay))
        if sum(part.height for part in self._held) - self._ranked >= max(self._most, _BATCH_ROWS):
            self.kept()

    def kept(self) -> pl.DataFrame:
        """The keys that stay, of one addition at least."""
        keys = pl.concat(self._held).sort(self._order, descending=True)
        if self._per_segment < self._most:
            keys = keys.filter(pl.int_range(pl.len()).over(self._segments) < self._per_segment)
        keys = keys.head(self._most)
        self._held, self._ranked = [keys], keys.height
        if not self._most:
            self.may_stay = pl.lit(False)
        elif keys.height == self._most:
            (opened, entity), last = (pl.col(name) for name in self._order), keys.row(-1, named=True)
            day, key = (last[name] for name in self._order)
            self.may_stay = (opened > day) | ((opened == day) & (entity >= key))
        return keys


def segment_keys(frame: pl.DataFrame, portfolio: Portfolio) -> tuple[tuple[SegmentKey, ...], Array]:
    """Distinct segment keys in sorted order, and the number of each row's key, int64 (N,)."""
    names = list(portfolio.columns.segments)
    values = frame.select(pl.col(name).cast(pl.String).fill_null(MISSING) for name in names)
    distinct = values.unique().sort(names).with_row_index("__segment")
    codes = values.join(distinct, on=names, how="left", maintain_order="left")["__segment"]
    return tuple(distinct.select(names).iter_rows()), codes.to_numpy().astype(np.int64)


def pack(
    keys: Sequence[SegmentKey], codes: Array, x: Array, y: Array, base: Array, weight: Array | None = None
) -> tuple[Packed, Array]:
    """Rows laid end to end by segment, keeping their order inside it, and the order (N,) that did it."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(keys) + 1)).astype(np.int64)
    weights = np.ones(len(codes)) if weight is None else weight
    rows = np.ascontiguousarray(x[order])
    return Packed(tuple(keys), starts, rows, y[order], weights[order], base[order]), order


@dataclass(frozen=True)
class Fold:
    """One walk-forward cut: teach with what is known at `cut`, judge on rows opened after it and by `end`."""

    cut: date
    end: date


def forward_folds(portfolio: Portfolio, as_of: date) -> list[Fold]:
    """Walk-forward folds, oldest first, whose judged rows are all mature at as_of."""
    target, rule = portfolio.target, portfolio.validation
    days = timedelta(days=target.reporting_lag_days + target.horizon_days)
    end = _months_before(as_of - days, target.horizon_months + target.reporting_lag_months)
    folds: list[Fold] = []
    for _ in range(rule.folds):
        cut = _months_before(end, rule.fold_months)
        folds.append(Fold(cut, end))
        end = cut
    return folds[::-1]


def _months_before(day: date, months: int) -> date:
    """The same day of an earlier month, or that month's last day."""
    found: date = pl.select(pl.lit(day).dt.offset_by(f"-{months}mo")).item()
    return found


def opened_within(portfolio: Portfolio, fold: Fold) -> pl.Expr:
    """Whether a row was opened in the fold's window."""
    opened = pl.col(portfolio.columns.opened_on)
    return (opened > pl.lit(fold.cut)) & (opened <= pl.lit(fold.end))


@dataclass(frozen=True)
class Matrix:
    """Labelled rows of one frame with what a learner needs: codes into keys, inputs, label, base score."""

    keys: tuple[SegmentKey, ...]
    codes: Array
    x: Array
    y: Array
    base: Array
    opened: Array
    """datetime64[D] (N,)."""
    mature_at: Array
    """datetime64[D] (N,): first date at which the label was known."""
    dispersion: float = 1.0
    """By which a row's weight is divided, see metrics.dispersion."""

    def packed(self, rows: Array | None = None) -> Packed:
        """All rows, or those of a boolean mask, packed by segment."""
        chosen = np.ones(len(self.y), dtype=bool) if rows is None else rows
        weight = None if self.dispersion == 1.0 else np.full(int(chosen.sum()), 1 / self.dispersion)
        return pack(self.keys, self.codes[chosen], self.x[chosen], self.y[chosen], self.base[chosen], weight)[0]


def matrix(frame: pl.DataFrame, portfolio: Portfolio, x: Array, base: Array, dispersion: float = 1.0) -> Matrix:
    """Attach inputs (N, D) and base scores (N,) to a labelled frame (N rows)."""
    keys, codes = segment_keys(frame, portfolio)
    columns, target = portfolio.columns, portfolio.target
    known = known_end(portfolio, target)
    if columns.settled_on is not None:
        known = pl.min_horizontal(known, pl.col(columns.settled_on))
    if columns.known_date is not None:
        # An event may become known later than its row's maturity: until then the row would have taught another label.
        says = pl.col(LABEL) > 0 if columns.event_date is not None else pl.lit(True)
        known = pl.max_horizontal(known, pl.when(says).then(pl.col(columns.known_date)))
    dates = frame.select(opened=pl.col(columns.opened_on).cast(pl.Date), known=known.cast(pl.Date))
    opened, mature_at = (dates[name].to_numpy().astype("datetime64[D]") for name in ("opened", "known"))
    return Matrix(keys, codes, x, frame[LABEL].to_numpy(), base, opened, mature_at, dispersion)


def episodes(rows: Matrix, *, cuts: int, fold_months: int) -> tuple[Episodes, Episodes | None]:
    """Tasks for meta-training (segment x cut-off) and the latest cut as validation tasks.

    At each cut the support is what was mature by then and the query is what opened in the months after it: the same
    question that a night asks. With no cut that leaves rows on both sides, support and query are the older and the
    newer half of the rows.
    """
    made = [task for task in (_cut(rows, cut, fold_months) for cut in _cuts(rows, cuts, fold_months)) if task]
    if not made:
        middle = np.sort(rows.opened)[len(rows.opened) // 2]
        return Episodes(rows.packed(rows.opened < middle), rows.packed(rows.opened >= middle)), None
    *taught, last = made
    if not taught:
        return last, None
    return Episodes(concat([task.support for task in taught]), concat([task.query for task in taught])), last


def _cuts(rows: Matrix, cuts: int, fold_months: int) -> list[np.datetime64]:
    if not len(rows.opened):
        return []
    end = rows.opened.max().astype("datetime64[M]") + 1
    return [(end - fold_months * i).astype("datetime64[D]") for i in range(cuts, 0, -1)]


def _cut(rows: Matrix, cut: np.datetime64, fold_months: int) -> Episodes | None:
    end = (cut.astype("datetime64[M]") + fold_months).astype("datetime64[D]")
    support = rows.mature_at <= cut
    query = (rows.opened >= cut) & (rows.opened < end)
    if not rows.y[support].any() or not rows.y[query].any():
        return None
    chosen = np.unique(rows.codes[query])
    return Episodes(rows.packed(support).select(chosen), rows.packed(query).select(chosen))


def concat(parts: Sequence[Packed]) -> Packed:
    """The segments of all parts, one after the other."""
    sizes = np.concatenate([part.sizes for part in parts])
    return Packed(
        tuple(key for part in parts for key in part.keys),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.ascontiguousarray(np.concatenate([part.x for part in parts])),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.base for part in parts]),
    )
