"""A small loan book, its portfolio, and models fitted on it once a process."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import lru_cache

import numpy as np
import polars as pl

from metarisk import training
from metarisk.adapt import Adapted, FittedModel, adapt
from metarisk.domain import Columns, Feature, Portfolio, Source, Target, Thresholds
from metarisk.risks import RISKS
from metarisk.tasks import population, teaching

SPEC = RISKS["credit"]
AS_OF = date(2023, 3, 15)
REGIONS, PRODUCTS = ("north", "south", "west"), ("card", "car", "home")
PORTFOLIO = Portfolio(
    name="loans",
    risk="credit",
    source=Source("loans.sql", "loans.json"),
    columns=Columns("loan", "opened", ("region", "product"), "event", "known", exit_date="left"),
    targets=(Target("pd_12m", horizon_months=12, reporting_lag_days=30),),
    features={
        "burden": Feature("numeric", monotone=1),
        "income": Feature("numeric"),
        "channel": Feature("categorical"),
        "born": Feature("date-age"),
    },
    thresholds=Thresholds(min_support_rows=30, min_support_events=2),
)


def silent(done: int, total: int, note: str) -> None:
    pass


def days(start: str, offsets: np.ndarray) -> np.ndarray:
    return np.datetime64(start, "D") + offsets.astype("timedelta64[D]")


def book(rows: int = 1_500, seed: int = 0) -> pl.DataFrame:
    """Loans opened in 2020-2023 with segment effects; a third leaves early, events become known up to 40 days late."""
    r = np.random.default_rng(seed)
    region, product = r.choice(3, rows, p=[0.6, 0.3, 0.1]), r.choice(3, rows, p=[0.7, 0.27, 0.03])
    burden, income = r.normal(0, 1, rows), np.exp(r.normal(8, 1, rows))
    logit = -1.6 + 0.9 * burden + np.array([0.0, 0.5, -0.5])[region] + np.array([0.0, -0.3, 0.6])[product]
    opened = days("2020-01-01", r.integers(0, 1200, rows))
    event = opened + r.integers(1, 540, rows).astype("timedelta64[D]")
    known = event + r.integers(0, 41, rows).astype("timedelta64[D]")
    bad, gone = r.random(rows) < 1 / (1 + np.exp(-logit)), r.random(rows) < 0.3
    never = np.datetime64("NaT")
    left = np.where(gone & ~bad, opened + r.integers(30, 900, rows).astype("timedelta64[D]"), never)
    frame = pl.DataFrame(
        {
            "loan": [f"L{i:05d}" for i in range(rows)],
            "opened": opened,
            "region": np.array(REGIONS)[region],
            "product": np.array(PRODUCTS)[product],
            "event": np.where(bad, event, never),
            "known": np.where(bad, known, never),
            "left": left,
            "burden": burden,
            "income": np.where(r.random(rows) < 0.1, np.nan, income),
            "channel": r.choice(["branch", "web", "broker"], rows),
            "born": days("1960-01-01", r.integers(0, 14_000, rows)),
        }
    )
    return frame.with_columns(pl.col("income").fill_nan(None))


def fitted(recipe: str, frame: pl.DataFrame, portfolio: Portfolio = PORTFOLIO, as_of: date = AS_OF) -> FittedModel:
    """One recipe trained on what was known at as_of."""
    teach = training.teaching_rows(frame.lazy(), portfolio, SPEC, as_of)
    bases = training.fit_bases([recipe], teach, portfolio, SPEC)
    return training.fit(recipe, teach, bases, portfolio, SPEC, seed=0, progress=silent)


@lru_cache
def model(recipe: str = "map_head") -> FittedModel:
    """A recipe trained on the book."""
    return fitted(recipe, book())


@lru_cache
def adapted(recipe: str = "map_head") -> Adapted:
    """The same, adapted to the book's support."""
    return adapt(model(recipe), "model", support(), PORTFOLIO, SPEC)


def support(frame: pl.DataFrame | None = None) -> pl.DataFrame:
    """Mature labelled rows of the book at AS_OF."""
    return teaching(at_risk(frame), hazard=False)


def at_risk(frame: pl.DataFrame | None = None) -> pl.DataFrame:
    """Rows of the book that were at risk by AS_OF, mature or not."""
    return training.teaching_rows((book() if frame is None else frame).lazy(), PORTFOLIO, SPEC, AS_OF)


def to_score(frame: pl.DataFrame | None = None) -> pl.DataFrame:
    """The population of the book at AS_OF."""
    return population((book() if frame is None else frame).lazy(), PORTFOLIO, AS_OF).collect()


def with_limits(**limits: int) -> Portfolio:
    """The portfolio with other thresholds."""
    return replace(PORTFOLIO, thresholds=replace(PORTFOLIO.thresholds, **limits))
