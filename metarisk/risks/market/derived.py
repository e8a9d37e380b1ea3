"""What a night of market risk publishes beside its scores: volatility, VaR and ES, and their back-tests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from metarisk.domain import Array, Derived, NightView
from metarisk.markets.backtests import (
    acerbi_szekely,
    christoffersen,
    fissler_ziegel,
    green_band,
    kupiec,
    shortfall_ratio,
    tick_loss,
    traffic_light,
)
from metarisk.markets.books import books
from metarisk.markets.comparing import confidence_set, day_means, diebold_mariano
from metarisk.markets.garch import Garch
from metarisk.markets.panel import LEAST_SCENARIOS, WINDOW, Panel
from metarisk.markets.simulation import Tail, book_tail, completed, tail
from metarisk.metrics import paired_bootstrap, qlike

TRADING_YEAR = 252
LOOK_BACK = timedelta(days=760)
"""Calendar days that hold two windows: one of scenarios before the first day of the one that is tested."""
LEAST_DAYS = 60
"""Days of an asset below which its own exceedances are not tested."""
Row = dict[str, Any]
MEASURES: dict[str, type[pl.DataType]] = dict.fromkeys(("kind", "item", "segment", "metric", "note"), pl.String)
MEASURES |= dict.fromkeys(("value", "low", "high"), pl.Float64)


def derive(view: NightView) -> Derived:
    """Volatility of every asset and, where the horizon is one day, VaR and ES of assets and books, and back-tests."""
    volatility = view.scores.select("entity", "segment", pl.col("score").sqrt())
    volatility = volatility.with_columns(target=pl.lit(str(view.options["volatility"])))
    if view.portfolio.target.horizon_days != 1:
        return Derived(volatility)
    rows = _rows(view)
    panel = Panel.of(rows)
    tails = panel.tails()
    now = tails[-1] if tails else tail([])
    risks = [
        volatility.with_columns(pl.col("score") * value, target=pl.lit(name))
        for name, value in (("var_95_1d", now.var_95), ("var_99_1d", now.var_99), ("es_975_1d", now.es_975))
        if np.isfinite(value)
    ]
    measures = list(_books(view, panel))
    if len(panel.days) > WINDOW // 2:
        tested = _Tested(panel, tails)
        measures += [*_coverage(tested, view.seed), *_lights(tested), *_accuracy(rows, view)]
    return Derived(pl.concat([volatility, *risks]), pl.DataFrame(measures, schema=MEASURES) if measures else None)


def _rows(view: NightView) -> pl.DataFrame:
    """Rows of the days that are looked at, with what was expected of the day after each, and what came.

    `early` are the days before the last WINDOW ones: they teach the stand-ins, and none of them is tested.
    """
    columns = view.portfolio.columns
    entity, day = columns.entity, columns.opened_on
    history = view.history.filter(pl.col(day) > pl.lit(view.as_of - LOOK_BACK)).sort(entity, day).collect()
    published = view.published().filter(pl.col("target") == view.portfolio.target.name)
    days = history[day].unique().sort()
    start = days[-min(WINDOW + 1, len(days) // 2 + 1)] if len(days) else view.as_of
    rows = history.with_columns(
        asset=pl.col(entity).cast(pl.String),
        day=pl.col(day).cast(pl.Date),
        group=pl.col(columns.segments[0]).cast(pl.String).fill_null(""),
        realised=pl.col(str(columns.value)),
        following=pl.col("return_1d").shift(-1).over(entity),
        early=pl.col(day) < start,
    )
    inputs = [name for name, feature in view.portfolio.features.items() if feature.kind == "numeric"]
    rows = rows.with_columns(stand_in=_linear(rows, inputs), har=_linear(rows, columns.lags))
    rows = rows.join(
        published.select(asset="entity", day="as_of", published="score"),
        on=["asset", "day"],
        how="left",
        maintain_order="left",
    )
    return rows.with_columns(pl.coalesce("published", pl.col("stand_in").exp()).alias("forecast"))


def _linear(rows: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """Log variance by least squares on columns of all assets, fitted on the early rows; a null counts as the mean."""
    x = np.column_stack([rows[name].fill_null(strategy="mean").fill_null(0.0).to_numpy() for name in names])
    y = rows["realised"].log().fill_null(np.nan).to_numpy()
    known = rows["early"].to_numpy() & np.isfinite(y)
    if not known.any():
        return pl.Series(np.full(rows.height, np.nan))
    middle = x[known].mean(axis=0)
    design = np.column_stack([np.ones(rows.height), x - middle])
    link = design @ np.linalg.lstsq(design[known], y[known], rcond=None)[0]
    # Least squares of logs gives the median; one constant makes it the mean.
    return pl.Series(link + np.log(np.mean(np.exp(y[known] - link[known]))))


class _Tested:
    """The last WINDOW days that are over: returns (D, N), what had been said of them, and where both are known."""

    def __init__(self, panel: Panel, tails: list[Tail]) -> None:
        self.panel = panel
        said = np.array([np.isfinite(one.var_99) for one in tails])
        over = np.isfinite(panel.residuals).any(axis=1) & said
        self.rows = np.flatnonzero(over)[-WINDOW:]
        self.days, self.returns = panel.days[self.rows], panel.following[self.rows]
        sigma = np.sqrt(panel.forecast[self.rows])
        of_days = [tails[row] for row in self.rows]
        self.var_99, self.var_975, self.es_975 = (
            sigma * np.array([getattr(one, name) for one in of_days])[:, None]
            for name in ("var_99", "var_975", "es_975")
        )
        self.known = np.isfinite(self.returns) & np.isfinite(sigma)
        self.hits = self.known & (np.where(self.known, self.returns, 0.0) < -self.var_99)


def _coverage(tested: _Tested, seed: int) -> Iterator[Row]:
    """How often and how far losses went beyond what had been said, over all assets."""
    known, hits = tested.known, tested.hits
    if not known.any():
        return
    about = {"kind": "var_backtest", "item": "all assets"}
    r, var_99, var_975, es = (a[known] for a in (tested.returns, tested.var_99, tested.var_975, tested.es_975))
    days = np.broadcast_to(np.arange(len(tested.days))[:, None], known.shape)[known]
    rate = paired_bootstrap(hits[known].astype(float), days, seed=seed)
    share = hits.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    path = {"day": [str(day) for day in tested.days], "share": np.round(share, 5).tolist()}
    note = json.dumps(path)
    yield about | {
        "metric": "exceedance_rate",
        "value": rate.mean,
        "low": rate.low if np.isfinite(rate.low) else None,
        "high": rate.high if np.isfinite(rate.high) else None,
        "note": note,
    }
    lived = known.sum(axis=0)
    enough = lived >= LEAST_DAYS
    if enough.any():
        lights = traffic_light(hits.sum(axis=0)[enough], lived[enough])
        mean, low, high = green_band(tested.panel.residuals[:, enough], int(np.median(lived[enough])), seed=seed)
        yield about | {"metric": "green_share", "value": float(np.mean(lights == "green"))}
        yield about | {"metric": "green_expected", "value": mean, "low": low, "high": high}
    yield about | {"metric": "tick_loss_bp", "value": 1e4 * float(tick_loss(var_99, r, 0.01).mean())}
    yield about | {"metric": "es_ratio", "value": shortfall_ratio(r, var_975, es)}
    yield about | {"metric": "acerbi_szekely", "value": acerbi_szekely(r, var_975, es)}
    yield about | {"metric": "fissler_ziegel", "value": float(fissler_ziegel(var_975, es, r).mean())}


def _lights(tested: _Tested) -> Iterator[Row]:
    """Back-tests of each asset, those with most exceedances first."""
    counts, lived = tested.hits.sum(axis=0), tested.known.sum(axis=0)
    for asset in sorted(range(len(lived)), key=lambda one: (-counts[one], tested.panel.assets[one])):
        if lived[asset] < LEAST_DAYS:
            continue
        hits = tested.hits[tested.known[:, asset], asset]
        light = str(traffic_light(counts[asset], lived[asset]))
        about = {"kind": "traffic_light", "item": tested.panel.assets[asset], "segment": tested.panel.groups[asset]}
        numbers = {
            "days": float(lived[asset]),
            "exceedances": float(counts[asset]),
            "kupiec_p": kupiec(int(counts[asset]), int(lived[asset]), 0.01)[1],
            "christoffersen_p": christoffersen(hits, 0.01)[1],
            "zone": float(("green", "yellow", "red").index(light)),
        }
        for metric, value in numbers.items():
            yield about | {"metric": metric, "value": value}


def _accuracy(rows: pl.DataFrame, view: NightView) -> Iterator[Row]:
    """Losses of the published forecasts on days that are over, beside those of what a risk team would use.

    Before LEAST_DAYS nights were published, the stand-in's.
    """
    rows = rows.sort("asset", "day").with_columns(
        ewma=pl.col(str(view.portfolio.columns.decayed)), champion=pl.col("published").log()
    )
    names = ["ewma", "har", "stand_in"]
    if view.options["garch"]:
        rows = rows.with_columns(garch=_garch(rows, asymmetric=False), gjr=_garch(rows, asymmetric=True))
        names += ["garch", "gjr"]
    rows = rows.filter(pl.col("realised") > 0).drop_nulls(names).filter(pl.all_horizontal(pl.col(names).is_finite()))
    early, late = rows.filter("early"), rows.filter(~pl.col("early"))
    nights = late.drop_nulls("champion")
    if nights["day"].n_unique() >= LEAST_DAYS:
        late, names = nights, ["champion", *names]
    if early.is_empty() or late.is_empty():
        return
    losses = {}
    for name in names:
        # Squared returns are of another kind of variance: a constant brings a forecast to the mean of what is to come.
        ratio = 0.0 if name == "champion" else np.log(np.mean((early["realised"] / early[name].exp()).to_numpy()))
        losses[name] = qlike(late[name].to_numpy() + ratio, late["realised"].to_numpy())
    by_day = {name: day_means(late["day"].to_numpy(), loss) for name, loss in losses.items()}
    stays, first = confidence_set(by_day, seed=view.seed % 2**31), names[0] if "champion" in names else "stand_in"
    for name in names:
        about = {"kind": "forecast", "item": name}
        yield about | {"metric": "qlike", "value": float(losses[name].mean())}
        if name != first:
            statistic, p = diebold_mariano(by_day[first] - by_day[name])
            yield about | {"metric": f"{first}_against_it", "value": statistic}
            yield about | {"metric": "diebold_mariano_p", "value": p}
        yield about | {"metric": "confidence_set_p", "value": stays.get(name)}
    path = late.group_by("day").agg(pl.col("forecast", "realised").mean().sqrt() * np.sqrt(TRADING_YEAR)).sort("day")
    note = {"day": path["day"].cast(pl.String).to_list()}
    note |= {name: path[name].round(4).to_list() for name in ("forecast", "realised")}
    about = {"kind": "volatility", "item": "all assets"}
    yield about | {"metric": "days", "value": float(path.height), "note": json.dumps(note)}


def _garch(rows: pl.DataFrame, *, asymmetric: bool) -> pl.Series:
    """Log variance of each asset's own GARCH, fitted on its early returns; null where none could be fitted."""
    parts = []
    for (_,), own in rows.group_by("asset", maintain_order=True):
        returns = own["return_1d"].fill_null(np.nan).to_numpy()
        model = Garch.fit(returns[own["early"].to_numpy()], asymmetric=asymmetric)
        parts.append(np.full(len(returns), np.nan) if model is None else np.log(model.filtered(returns)))
    return pl.Series("garch", np.concatenate(parts), dtype=pl.Float64).fill_nan(None)


def _books(view: NightView, panel: Panel) -> Iterator[Row]:
    """Value at risk of each book by joint scenarios; what cannot be valued is said and left out."""
    if "positions" not in view.tables:
        return
    positions = view.tables["positions"].collect()
    variance = dict(view.scores.select("entity", "score").iter_rows())
    scenarios, place = panel.last_scenarios(), {name: number for number, name in enumerate(panel.assets)}
    joint = completed(scenarios, panel.groups, seed=view.seed) if len(scenarios) >= LEAST_SCENARIOS else None
    for book, known, left_out in books(positions, variance.keys() & place.keys()):
        about = {"kind": "book", "item": book}
        yield from left_out
        yield about | {"metric": "gross", "value": float(known["held"].abs().sum())}
        if joint is None or known.is_empty():
            continue
        chosen = [place[asset] for asset in known["asset"]]
        sigma = np.sqrt([variance[asset] for asset in known["asset"]])
        yield from _book(about, joint[:, chosen], sigma, known["held"].to_numpy())


def _book(about: Row, joint: Array, sigma: Array, held: Array) -> Iterator[Row]:
    """VaR and ES of one book, and the sum of its positions' own: what diversification takes off."""
    whole = book_tail(joint, sigma, held)
    apart = sum(book_tail(joint[:, [one]], sigma[[one]], held[[one]]).var_99 for one in range(len(held)))
    numbers = {"var_95_1d": whole.var_95, "var_99_1d": whole.var_99, "es_975_1d": whole.es_975, "undiversified": apart}
    for metric, value in numbers.items():
        yield about | {"metric": metric, "value": float(value)}
