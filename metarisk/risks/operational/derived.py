"""What a night of operational losses publishes beside its scores: rates of events and economic capital by cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from metarisk.domain import MISSING, Array, DataError, Derived, ModelError, NightView, Portfolio, segment_name
from metarisk.metrics import Interval
from metarisk.risks.operational.capital import Rates, SumCapital, capital
from metarisk.risks.operational.frequency import dispersion, rate_bounds
from metarisk.risks.operational.severity import PooledSeverity, fit_severity
from metarisk.risks.operational.tails import as_exponential, mean_excess

TABLE = "losses"
FEWEST = 30
"""Fewer losses than these in all give no capital."""
POINTS = 24
"""Points of the mean-excess plot."""
MANY = 0.1
"""Share of parameter draws without a mean from which a cell is said to have them."""
MOST_QQ = 80
"""Points of the QQ plot."""
_Z90 = 1.6448536269514722
"""Half the width of a score's interval, in standard deviations of its link."""
_Row = dict[str, Any]


@dataclass(frozen=True)
class Wrong:
    """One way in which a loss cannot be used."""

    where: pl.Expr
    column: str
    what: str
    remedy: str


def derive(view: NightView) -> Derived:
    """Frequencies with their bounds, severities, and the economic capital of a year by cell and for the sum."""
    cells = sorted(set(view.scores["segment"]))
    book = _book(view, cells)
    measures = list(_frequencies(book, cells))
    if TABLE not in view.tables:
        return Derived(measures=_frame(measures))
    losses, aside = _usable(view)
    measures += aside
    scores = None
    if losses.height < FEWEST:
        note = f"{losses.height} usable losses say too little of their amounts: {FEWEST} are needed; collect more years"
        measures.append(_row("capital", "no capital", "losses", losses.height, note=note))
    else:
        amounts = [losses.filter(pl.col("cell") == cell)["amount"].to_numpy() for cell in cells]
        severity = fit_severity(amounts, floor=float(view.options["collected_from"]))
        measures += _pictures(amounts, severity)
        try:
            measures += _capital(book, severity, cells, float(view.options["correlation"]))
            scores = _expected(view, severity, cells)
        except ModelError as error:
            error.place(view.portfolio.name, view.as_of)
            measures.append(_row("capital", "refused", "losses", losses.height, note=str(error)))
    return Derived(scores, _frame(measures))


# frequencies


@dataclass(frozen=True)
class Book:
    """What is known of each cell, (C,) each: past counts and exposures, and what a year of the scored rows will bring.

    Attributes:
        events, exposure: of all rows whose count is known.
        exposure_year: of the scored rows, over a year.
        rates: expected events of a year, how well they are known, and how far counts scatter.
    """

    events: Array
    exposure: Array
    exposure_year: Array
    rates: Rates


def _book(view: NightView, cells: Sequence[str]) -> Book:
    columns, periods = view.portfolio.columns, periods_a_year(view.portfolio)
    value, exposure = str(columns.value), columns.exposure
    at_risk = pl.lit(1.0) if exposure is None else pl.col(exposure).cast(pl.Float64)
    known = view.history.filter(pl.col(value).is_not_null()).collect()
    past = known.select(pl.col(value).cast(pl.Float64).alias("events"), at_risk.alias("exposure")).with_columns(
        pl.Series("cell", _cells(known, view.portfolio), dtype=pl.String)
    )
    now = view.scores.select("segment", "score", "score_low", "score_high").with_columns(
        view.rows.select(at_risk.alias("exposure"))["exposure"]
    )
    spread = (pl.col("score_high") / pl.col("score_low")).log() / (2 * _Z90)
    total, weight = pl.col("score").sum(), pl.col("score") / pl.col("score").sum()
    by_cell = _in_order(
        cells,
        now.group_by(pl.col("segment").alias("cell")).agg(
            total.alias("mean"),
            pl.col("exposure").sum().alias("exposure_year"),
            (weight * spread).sum().alias("error"),
            spread.is_null().any().alias("unknown"),
            (total**2 / (pl.col("score") ** 2).sum()).alias("rows"),
        ),
    )
    sums = _in_order(cells, past.group_by("cell").agg(pl.col("events").sum(), pl.col("exposure").sum())).fill_null(0.0)
    events, mean = sums["events"].to_numpy(), by_cell["mean"].to_numpy() * periods
    counted = 1 / np.sqrt(events + 0.5)
    error = np.where(by_cell["unknown"].to_numpy(), counted, by_cell["error"].fill_null(0.0).to_numpy())
    size = dispersion(past["events"].to_numpy(), view.score(known)) if known.height else np.inf
    # rows and periods scatter apart from each other, so a year of many of them scatters less
    sizes = size * periods * by_cell["rows"].to_numpy() if np.isfinite(size) else None
    return Book(
        events,
        np.maximum(sums["exposure"].to_numpy(), 1e-12),
        by_cell["exposure_year"].to_numpy() * periods,
        Rates(mean, np.minimum(error, 2.0), sizes),
    )


def periods_a_year(portfolio: Portfolio) -> float:
    """Horizons of the portfolio's target in a year."""
    target = portfolio.target
    return 365.25 / (target.horizon_months * 365.25 / 12 + target.horizon_days)


def _frequencies(book: Book, cells: Sequence[str]) -> Iterator[_Row]:
    """What happened in each cell and what is expected, fewest events first; the bound holds without any event, too."""
    _, high = rate_bounds(book.events, book.exposure)
    half = np.exp(_Z90 * book.rates.log_error)
    for number in np.argsort(book.events, kind="stable").tolist():
        cell = cells[number]
        mean, events = float(book.rates.mean[number]), float(book.events[number])
        yield _row("frequency", cell, "events_known", events)
        yield _row("frequency", cell, "events_year", mean, mean / half[number], mean * half[number])
        note = (
            "no event so far: the bound is one-sided, and what is expected is borrowed from other cells"
            if not events
            else None
        )
        yield _row("frequency", cell, "bound_year", float(high[number] * book.exposure_year[number]), note=note)


# amounts


def _usable(view: NightView) -> tuple[pl.DataFrame, list[_Row]]:
    """Losses (cell, amount) that can be used, and a row for each way in which others cannot."""
    frame = view.tables[TABLE].collect()
    currency, floor = _currency(view, frame), float(view.options["collected_from"])
    amount, twice = pl.col("amount"), pl.col("loss_id").is_first_distinct()
    ways = (
        Wrong(~twice, "loss_id", "came more than once", "send every loss once"),
        Wrong(
            pl.col("currency").ne_missing(pl.lit(currency)),
            "currency",
            f"are not in {currency}",
            "convert amounts in the extract",
        ),
        Wrong(
            ~(amount.is_finite() & (amount > 0)).fill_null(False),
            "amount",
            "have no amount above 0",
            "book recoveries apart from losses",
        ),
        Wrong(
            (amount < floor).fill_null(False),
            "amount",
            f"are below {floor:,.0f}, from which losses are collected",
            "correct options.collected_from, or leave them out of the extract",
        ),
        Wrong(
            (pl.col("known_on") < pl.col("occurred_on")).fill_null(True),
            "known_on",
            "were known before they happened, or on no date",
            "correct the dates",
        ),
    )
    told, left = [], frame
    for way in ways:
        bad, left = left.filter(way.where), left.filter(~way.where)
        if bad.height:
            first = bad.row(0, named=True)
            note = (
                f"portfolio {view.portfolio.name}, column {way.column}, {first['occurred_on']}: {bad.height} losses "
                f"{way.what}, the first is {first['loss_id']}; they are set aside. Remedy: {way.remedy}."
            )
            told.append(_row("losses_aside", way.what, "losses", bad.height, note=note))
    names = pl.Series("cell", _cells(left, view.portfolio), dtype=pl.String)
    return left.select(amount.cast(pl.Float64)).with_columns(names), told


def _currency(view: NightView, frame: pl.DataFrame) -> str:
    """The currency of the amounts: that of the options, or the only one there is."""
    stated = str(view.options["currency"])
    found = sorted(frame["currency"].drop_nulls().unique())
    if stated or len(found) == 1:
        return stated or found[0]
    raise DataError(
        f"losses are in {len(found)} currencies: {', '.join(found[:5])}",
        portfolio=view.portfolio.name,
        column="currency",
        on=view.as_of,
        remedy="state options.currency, and convert amounts in the extract",
    )


def _pictures(amounts: Sequence[Array], severity: PooledSeverity) -> Iterator[_Row]:
    """Mean excesses of all losses over their cells' scales, and how the tails' excesses lie against the exponential."""
    fitted = severity.estimate
    scaled = np.concatenate([cell / unit for cell, unit in zip(amounts, fitted.scale, strict=True)])
    first, last = np.quantile(scaled, [0.3, max(0.5, 1 - 20 / len(scaled))])
    places = np.geomspace(first, max(last, 2 * first), POINTS)
    for place, mean, low, high in zip(places, *mean_excess(scaled, places), strict=True):
        yield _row("mean_excess", f"{place:.6g}", "mean_excess", mean, float(low), float(high))
    yield _row("mean_excess", "threshold", "threshold", float(np.median(fitted.threshold / fitted.scale)))
    over = np.sort(
        np.concatenate(
            [
                as_exponential(cell[cell > fitted.threshold[number]] - fitted.threshold[number], shape, scale)
                for number, (cell, shape, scale) in enumerate(
                    zip(amounts, fitted.shape, fitted.tail_scale, strict=True)
                )
            ]
        )
    )
    # of many, the largest ones and fewer and fewer of the others
    ranks = np.unique(np.round(np.geomspace(1, max(len(over), 1), MOST_QQ)).astype(int))
    for place in (len(over) - ranks[ranks <= len(over)]).tolist():
        modelled = -np.log(1 - (place + 0.5) / len(over))
        yield _row("tail_qq", f"{modelled:.6g}", "observed", float(over[place]))


# capital


def _capital(book: Book, severity: PooledSeverity, cells: Sequence[str], correlation: float) -> Iterator[_Row]:
    """Expected loss, 99.9 % year and economic capital, which is the difference, of every cell and of the sum."""
    found, sums = capital(book.rates, severity, cells, (0.0, correlation) if correlation else (0.0,))
    low, high = severity.shape_interval()
    for every in sums:
        yield from _whole(every)
    for number in sorted(range(len(cells)), key=lambda number: -found[number].quantile.mean):
        name, cell = cells[number], found[number]
        note = "a tail shape above 0.5: losses have no variance" if cell.heavy else None
        if cell.infinite > MANY:
            note = f"{name}: {cell.infinite:.0%} of the parameter draws have a tail shape of 1 or more, and so no mean"
        yield from _year(name, cell.expected, cell.quantile)
        yield _row("capital", name, "tail_shape", cell.shape, float(low[number]), float(high[number]), note)
        yield _row("capital", name, "losses", float(severity.events[number]))


def _whole(every: SumCapital) -> Iterator[_Row]:
    name = "all cells, " + (f"correlation {every.correlation:.2f}" if every.correlation else "independent")
    yield from _year(name, every.expected, every.parameters)
    # the 95 % interval of the simulation alone
    yield _row("capital", name, "simulated_year_999", every.quantile.mean, every.quantile.low, every.quantile.high)


def _year(name: str, expected: float, at: Interval) -> Iterator[_Row]:
    yield _row("capital", name, "expected_loss", expected)
    yield _row("capital", name, "year_999", at.mean, at.low, at.high)
    mean, low, high = (max(value - expected, 0.0) for value in (at.mean, at.low, at.high))
    yield _row("capital", name, "economic_capital", mean, low, high)


def _expected(view: NightView, severity: PooledSeverity, cells: Sequence[str]) -> pl.DataFrame:
    """Expected loss of a year of every scored row, as scores of a further target."""
    mean = dict(zip(cells, (severity.estimate.mean() * periods_a_year(view.portfolio)).tolist(), strict=True))
    one = pl.col("segment").replace_strict(mean, return_dtype=pl.Float64)
    return view.scores.select("entity", "segment", target=pl.lit("expected_loss_12m"), score=pl.col("score") * one)


# frames


def _cells(frame: pl.DataFrame, portfolio: Portfolio) -> list[str]:
    """Printable name of each row's segment."""
    columns = [pl.col(name).cast(pl.String).fill_null(MISSING) for name in portfolio.columns.segments]
    return [segment_name(key) for key in frame.select(columns).iter_rows()]


def _in_order(cells: Sequence[str], found: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"cell": cells}).join(found, on="cell", how="left", maintain_order="left")


def _row(
    kind: str,
    item: str,
    metric: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    note: str | None = None,
) -> _Row:
    bounds = {"low": low, "high": high}
    return {"kind": kind, "item": item, "metric": metric, "value": float(value), **bounds, "note": note}


def _frame(rows: Sequence[_Row]) -> pl.DataFrame:
    texts, numbers = ("kind", "item", "metric", "note"), ("value", "low", "high")
    return pl.DataFrame(rows, dict.fromkeys(texts, pl.String) | dict.fromkeys(numbers, pl.Float64))
