"""Features that tell the outcome: what is named alone and in company, and what is honest however strong it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from metarisk import evidence, training
from metarisk.domain import Feature, FeatureKind, Portfolio
from metarisk.evidence.leaks import auc_error
from metarisk.risks import RISKS
from metarisk.tasks import LABEL, MATURE
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, at_risk, book

BOOK = book(6_000, seed=11)
EVENT = BOOK["event"].is_not_null().to_numpy()
KNOWN = (BOOK["known"] <= AS_OF).fill_null(False).to_numpy()
INSIDE = BOOK.select((pl.col("event") <= pl.col("opened").dt.offset_by("12mo")).fill_null(False)).to_series().to_numpy()
RNG = np.random.default_rng(5)
AMOUNT = np.exp(RNG.normal(8, 1, BOOK.height))
LEAKS: dict[str, tuple[FeatureKind, pl.Series]] = {
    "date": ("date-age", BOOK["event"]),
    "zero": ("numeric", pl.Series(np.where(EVENT, AMOUNT, 0.0))),
    "gap": ("numeric", pl.Series(np.where(EVENT, AMOUNT, np.nan)).fill_nan(None)),
    "status": (
        "categorical",
        pl.Series(np.where(EVENT, "gone", np.where(RNG.random(BOOK.height) < 0.5, "paid", "runs"))),
    ),
    "code": ("numeric", pl.Series(np.where(EVENT, 1.0, np.where(RNG.random(BOOK.height) < 0.5, 0.0, 2.0)))),
    "noisy": ("numeric", pl.Series(1.4658 * INSIDE + RNG.normal(0, 1, BOOK.height))),
}
"""1.4658 deviations apart is an AUC of .85."""


def named(plants: dict[str, tuple[FeatureKind, pl.Series]], frame: pl.DataFrame = BOOK) -> dict[str, evidence.Suspect]:
    features = dict(PORTFOLIO.features) | {name: Feature(kind) for name, (kind, _) in plants.items()}
    portfolio = replace(PORTFOLIO, features=features)
    return judged(at_risk(frame.with_columns(values.alias(name) for name, (_, values) in plants.items())), portfolio)


def judged(teach: pl.DataFrame, portfolio: Portfolio) -> dict[str, evidence.Suspect]:
    older, newer = training.forward_split(teach, portfolio)
    return {one.feature: one for one in evidence.suspects(teach, older, newer, portfolio, SPEC)}


def test_an_honest_book_is_silent():
    assert named({}) == {}


@pytest.mark.parametrize("plants", [*((name,) for name in LEAKS), ("zero", "status"), ("noisy", "gap", "code")])
def test_what_tells_the_outcome_is_named_alone_and_beside_others_of_its_kind(plants):
    found = named({name: LEAKS[name] for name in plants})
    assert set(found) == set(plants)
    assert {name for name, one in found.items() if one.stops} == set(plants) - {"noisy"}
    assert all(name in one.what and name in one.remedy for name, one in found.items())


def test_a_level_that_comes_once_the_outcome_is_known_is_no_drift():
    """Half of the events get it, and some that were no event: too few to rank or to be sure of by themselves."""
    r = np.random.default_rng(3)
    marked = np.where(EVENT, r.random(BOOK.height) < 0.5, r.random(BOOK.height) < 0.06)
    mature = (BOOK["opened"] < pl.Series([AS_OF]).dt.offset_by("-13mo")[0]).to_numpy()
    filled = marked & (KNOWN | mature)
    as_text = pl.Series(np.where(filled, "letter sent", "none"))
    assert "comes once the outcome is known" in named({"letter": ("categorical", as_text)})["letter"].why
    # The same level, found before anything is known, is a good feature.
    assert named({"letter": ("categorical", pl.Series(np.where(marked, "letter sent", "none")))}) == {}
    # One that is no longer written since then, for anybody, has drifted.
    dropped = marked & mature
    assert named({"letter": ("categorical", pl.Series(np.where(dropped, "letter sent", "none")))}) == {}


def test_a_person_may_vouch_for_a_feature_and_it_stays_told():
    teach = at_risk(BOOK.with_columns(LEAKS["zero"][1].alias("zero")))
    free = {"zero": Feature("numeric", outcome_free=True)}
    one = judged(teach, replace(PORTFOLIO, features=dict(PORTFOLIO.features) | free))["zero"]
    assert (one.certain, one.vouched, one.stops) == (True, True, False)
    assert "declares it `outcome_free`" in one.what


def strong(
    seed: int, score: Callable[[np.random.Generator, np.ndarray], dict[str, np.ndarray]]
) -> dict[str, evidence.Suspect]:
    """Suspects of a mature book of which 3 % have the event."""
    r, n = np.random.default_rng(seed), 12_000
    event = r.random(n) < 0.03
    columns = score(r, event)
    teach = pl.DataFrame(
        {
            "loan": [f"{number:05d}" for number in range(n)],
            "opened": np.datetime64("2020-01-01") + np.arange(n) // 12,
            "event": np.where(event, np.datetime64("2021-01-01"), np.datetime64("NaT")),
            "known": np.where(event, np.datetime64("2021-02-01"), np.datetime64("NaT")),
            LABEL: event.astype(float),
            MATURE: np.ones(n, dtype=bool),
            **columns,
        }
    )
    kinds = {
        name: Feature("categorical" if values.dtype.kind == "U" else "numeric") for name, values in columns.items()
    }
    return judged(teach, replace(PORTFOLIO, features=kinds))


def bureau(r: np.random.Generator, event: np.ndarray) -> dict[str, np.ndarray]:
    """A score with an AUC of .76 among features that know little."""
    return {"score": event + r.normal(0, 1, len(event))} | {f"x{i}": r.normal(0, 1, len(event)) for i in range(5)}


def many(r: np.random.Generator, event: np.ndarray) -> dict[str, np.ndarray]:
    """A fraud book with AUCs from .92 down to .55."""
    return {f"v{step}": step / 10 * event + r.normal(0, 1, len(event)) for step in range(2, 21, 2)}


def structural(r: np.random.Generator, event: np.ndarray) -> dict[str, np.ndarray]:
    """Payments of most kinds cannot be the event at all."""
    kinds = np.where(
        event, r.choice(["transfer", "cash"], len(event)), r.choice(["transfer", "cash", "pay", "debit"], len(event))
    )
    return {"kind": kinds, "x": r.normal(0, 1, len(event))}


@pytest.mark.parametrize("honest", [bureau, many, structural])
@pytest.mark.parametrize("seed", range(3))
def test_a_strong_honest_feature_is_no_leak(honest, seed):
    assert strong(seed, honest) == {}


def test_too_few_events_are_told_and_name_nobody():
    teach = at_risk(BOOK).sort(pl.col(LABEL) == 0, maintain_order=True)[5_000:]
    few = pl.concat([teach.filter(pl.col(LABEL) == 0), at_risk(BOOK).filter((pl.col(LABEL) == 1) & MATURE_ROWS)[:12]])
    older, newer = training.forward_split(few.sort("loan"), PORTFOLIO)
    assert "12 events of pd_12m" in evidence.unjudged(older, newer, PORTFOLIO)
    assert evidence.suspects(few, older, newer, PORTFOLIO, SPEC) == []
    assert evidence.unjudged(*training.forward_split(at_risk(BOOK), PORTFOLIO), PORTFOLIO) == ""


MATURE_ROWS = pl.col(MATURE)


def test_of_values_only_what_is_the_value_is_named():
    r = np.random.default_rng(1)
    value = np.exp(r.normal(0, 1, 4_000))
    rows = pl.DataFrame(
        {
            "loan": [f"{number:05d}" for number in range(len(value))],
            "opened": np.datetime64("2020-01-01") + np.arange(len(value)) // 4,
            "lag": np.log(value) + r.normal(0, 0.7, len(value)),
            "copy": 100 * value,
            LABEL: value,
        }
    )
    features = {name: Feature("numeric") for name in ("lag", "copy")}
    columns = replace(PORTFOLIO.columns, event_date=None, value="value")
    portfolio = replace(PORTFOLIO, features=features, columns=columns)
    older, newer = training.forward_split(rows, portfolio)
    assert [one.feature for one in evidence.suspects(rows, older, newer, portfolio, RISKS["market"])] == ["copy"]


def test_the_error_of_an_area_is_that_of_its_bootstrap():
    r = np.random.default_rng(0)
    y = np.repeat([1, 0], [40, 400])
    areas = [roc_auc_score(y, y + r.normal(0, 1, len(y))) for _ in range(400)]
    assert auc_error(float(np.mean(areas)), 40, 400) == pytest.approx(np.std(areas), rel=0.15)
