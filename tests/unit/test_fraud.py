"""Fraud is rare: what trains at one in a thousand, and what becomes of books that teach nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from metarisk import training
from metarisk.adapt import RECIPES, adapt
from metarisk.domain import ModelError
from metarisk.metrics import auc
from metarisk.portfolios import load_portfolio
from metarisk.risks.fraud import SPEC
from metarisk.tasks import LABEL, MATURE
from tests.warehouses import ROOT

PORTFOLIO = load_portfolio(ROOT, "card_fraud")
FEATURES = {name: PORTFOLIO.features[name] for name in ("amount", "hour", "terminal_fraud_rate_7")}
SMALL = replace(PORTFOLIO, features=FEATURES)
RARE = 1e-3
DAY = date(2025, 6, 1)


def book(rows: int, seed: int) -> pl.DataFrame:
    """Transactions of which one in a thousand is fraud, most of them of large amounts; a segment has one fraud."""
    rng = np.random.default_rng(seed)
    amount = rng.lognormal(3, 1, rows)
    risk = np.log(amount) * 2.5
    y = rng.random(rows) < expit(risk - np.quantile(risk, 0.9995) - 1.2)
    group = rng.choice(["a", "b", "c"], rows, p=[0.6, 0.38, 0.02])
    y &= group != "c"
    y[np.flatnonzero(group == "c")[0]] = True
    return pl.DataFrame(
        {
            "transaction_id": [f"T{i:06d}" for i in range(rows)],
            "made_on": [DAY - timedelta(days=int(d)) for d in rng.integers(0, 150, rows)],
            "terminal_group": group,
            "card_group": ["x"] * rows,
            "confirmed_on": [DAY if event else None for event in y],
            "settled_on": pl.Series([None] * rows, dtype=pl.Date),
            "amount": amount,
            "hour": rng.integers(0, 24, rows),
            "terminal_fraud_rate_7": rng.exponential(0.001, rows),
            LABEL: y.astype(float),
            MATURE: [True] * rows,
        }
    ).sort("transaction_id")


@pytest.fixture(scope="module")
def teach() -> pl.DataFrame:
    return book(20_000, 0)


def test_the_book_is_as_rare_as_said(teach: pl.DataFrame) -> None:
    assert 0.6 * RARE < teach[LABEL].mean() < 1.6 * RARE  # type: ignore[operator]


@pytest.mark.parametrize("name", ["pooled_logistic", "pooled_lightgbm", "isolation_forest", "map_head", "siamese"])
def test_one_in_a_thousand_is_learned_and_calibrated(
    name: str, teach: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "loop" in RECIPES[name].options:
        options = dict(RECIPES[name].options)
        options["loop"] = options["loop"] | {"steps": 40, "evaluate_every": 20}
        monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], options=options))  # type: ignore[arg-type]
    bases = training.fit_bases([name], teach, SMALL, SPEC)
    model = training.fit(name, teach, bases, SMALL, SPEC, seed=0, progress=lambda *_: None)
    adapted = adapt(model, "m", teach, SMALL, SPEC)
    fresh = book(60_000, 1)
    link, variance = adapted.score(fresh, SMALL)
    assert np.isfinite(link).all()
    assert variance is None or np.isfinite(variance).all()
    assert len(np.unique(np.round(link, 6))) > 100  # no constant
    assert auc(link, fresh[LABEL]) > 0.8
    mean, seen = expit(link).mean(), fresh[LABEL].mean()
    assert seen / 2 < mean < 2 * seen  # type: ignore[operator]
    one = adapted.segments["c", "x"]
    assert one.support_events == 1
    assert (one.status, bool(one.reason)) == ("fallback" if name.startswith(("pooled", "iso")) else "adapted", True)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_book_without_fraud_or_of_fraud_alone_is_refused(label: float, teach: pl.DataFrame) -> None:
    alike = teach.with_columns(pl.lit(label).alias(LABEL))
    with pytest.raises(ModelError, match="at least 10 rows of each class") as caught:
        training.require_labels(alike, SMALL, SPEC, DAY)
    assert caught.value.portfolio == "card_fraud"
    assert "label columns" in caught.value.remedy
