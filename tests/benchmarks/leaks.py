"""Features that tell the outcome, planted into honest books: how many are named, and who is named without reason.

Books are the generated ones, and the public ones of `shared/data` where they are. Planted, alone and in twos and
threes, is what a table holds that was filled in later: the date of the event, an amount that is zero or missing without
one, a status of three levels, and copies of the label behind noise with an AUC of .85. Each comes as it was known on
the day of the extract (`known`), and as a table that was exported years later has it (`later`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from scipy import stats

from metarisk import evidence, lake, training
from metarisk.domain import DEMO_AS_OF, Columns, Feature, FeatureKind, Portfolio, Source, Target
from metarisk.portfolios import extract_sql, load_portfolio
from metarisk.risks import RISKS
from metarisk.risks.credit.book import generate
from metarisk.risks.fraud.book import generate as generate_cards
from metarisk.tasks import horizon_end
from metarisk.warehouse import open_warehouse
from tests.benchmarks.harness import ROOT, Figure, main

DATA = ROOT.parent / "shared" / "data"
LATER = date(2030, 1, 1)
AREA = 0.85
PLANTED = (
    ("date",), ("zero",), ("gap",), ("status",), ("noisy",), ("turned",),
    ("zero", "status"), ("noisy", "turned"), ("noisy", "zero"),
    ("date", "gap", "status"), ("noisy", "turned", "status"),
)  # fmt: skip


@dataclass(frozen=True)
class Book:
    """Rows of an extract, and the same with what became known later."""

    portfolio: Portfolio
    as_of: date
    known: pl.DataFrame
    later: pl.DataFrame


def books() -> Iterator[Book]:
    """All that this machine has."""
    loans = load_portfolio(ROOT, "consumer_loans")
    yield _book(loans, generate(0.3), extract_sql(ROOT, loans), DEMO_AS_OF)
    cards = load_portfolio(ROOT, "card_fraud")
    no_verdicts = (
        "(SELECT '' AS portfolio, '' AS entity, '' AS verdict, DATE '2000-01-01' AS decided_on, 1 AS seq WHERE FALSE)"
    )
    yield _book(
        cards, generate_cards(1.0), extract_sql(ROOT, cards).replace("metarisk.feedback", no_verdicts), DEMO_AS_OF
    )
    if not DATA.exists():
        return
    club = load_portfolio(ROOT, "lending_club")
    tables = {name: _table(f"credit_lending_club/{name}.parquet") for name in ("loans", "outcomes")}
    yield _book(club, tables, extract_sql(ROOT, club), date(2011, 12, 31))
    claims = load_portfolio(ROOT, "vehicle_claims")
    tables = {"vehicle_claims": _table("fraud_vehicle_claims/claims.parquet")}
    yield _book(claims, tables, extract_sql(ROOT, claims), date(1995, 12, 31))
    for horizon, as_of in ((24, date(2008, 6, 30)), (60, date(2012, 6, 30))):
        yield _book(_sba(horizon), {"sba": _table("credit_sba/loans.parquet")}, SBA, as_of)


SBA = """
SELECT * REPLACE (
    CASE WHEN known_date <= $as_of THEN event_date END AS event_date,
    CASE WHEN known_date <= $as_of THEN known_date END AS known_date
) FROM source.sba WHERE approved_on BETWEEN DATE '1997-01-01' AND $as_of
"""


def _sba(horizon: int) -> Portfolio:
    numbers = ("employees", "jobs_created", "jobs_retained", "amount", "sba_amount", "sba_share")
    texts = ("new_business", "franchise", "urban", "revolving", "low_doc", "bank_state", "same_state")
    return Portfolio(
        name=f"sba_{horizon}m",
        risk="credit",
        source=Source("sba.sql", "sba.json"),
        columns=Columns("loan_id", "approved_on", ("sector", "state"), "event_date", "known_date"),
        targets=(Target("pd", horizon_months=horizon, reporting_lag_months=1),),
        features={name: Feature("numeric") for name in numbers} | {name: Feature("categorical") for name in texts},
    )


def _table(name: str) -> pa.RecordBatchReader:
    return pl.read_parquet(DATA / name).to_arrow().to_reader()


def _book(portfolio: Portfolio, tables: Mapping[str, pa.RecordBatchReader], sql: str, as_of: date) -> Book:
    with tempfile.TemporaryDirectory() as folder:
        warehouse = open_warehouse(f"duckdb:///{folder}/book.duckdb", Path(folder), threads=1, memory_mb=1024)
        for name, reader in tables.items():
            warehouse.load(name, reader)

        def rows(day: date) -> pl.DataFrame:
            with warehouse.stream(sql, {"as_of": day}) as reader:
                silent = {"memory_mb": 1024, "threads": 1, "progress": lambda done, total, note: None}
                done = lake.extract([reader], portfolio, day, Path(folder) / "lake", "0" * 64, **silent)
            return pl.read_parquet(done.paths)

        return Book(portfolio, as_of, rows(as_of), rows(LATER))


def planted(book: Book, seed: int, *, later: bool) -> tuple[Portfolio, pl.DataFrame]:
    """The book with every plant as a feature `leak_...`."""
    rng, columns, rows = np.random.default_rng(seed), book.portfolio.columns, book.known
    event_date = str(columns.event_date)
    told = rows.select(columns.entity, columns.opened_on)
    told = told.join((book.later if later else rows).select(columns.entity, event_date), on=columns.entity, how="left")
    event = told[event_date].is_not_null().to_numpy()
    inside = pl.col(event_date) <= horizon_end(book.portfolio, book.portfolio.target)
    label = told.select(inside.fill_null(False)).to_series().to_numpy()
    amount = np.exp(rng.normal(8.0, 0.7, rows.height))
    plants: dict[str, tuple[FeatureKind, pl.Series]] = {
        "date": ("date-age", told[event_date]),
        "zero": ("numeric", pl.Series(np.where(event, amount, 0.0))),
        "gap": ("numeric", pl.Series(np.where(event, amount, np.nan)).fill_nan(None)),
        "status": ("categorical", pl.Series(np.where(event, "C", np.where(rng.random(rows.height) < 0.6, "A", "B")))),
        "noisy": ("numeric", pl.Series(label * np.sqrt(2) * stats.norm.ppf(AREA) + rng.normal(0, 1, rows.height))),
        "turned": ("numeric", pl.Series(np.where(rng.random(rows.height) < 1 - AREA, ~label, label).astype(float))),
    }
    features = dict(book.portfolio.features) | {f"leak_{name}": Feature(kind) for name, (kind, _) in plants.items()}
    frame = rows.with_columns(values.alias(f"leak_{name}") for name, (_, values) in plants.items())
    return replace(book.portfolio, features=features), frame


def judged(book: Book, seed: int, *, later: bool) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """For nothing and each set of plants, the features that are named."""
    portfolio, frame = planted(book, seed, later=later)
    spec = RISKS[portfolio.risk]
    teach = training.teaching_rows(frame.lazy(), portfolio, spec, book.as_of)
    older, newer = training.forward_split(teach, portfolio)
    for plants in ((), *PLANTED):
        kept = {
            name: feature
            for name, feature in portfolio.features.items()
            if not name.startswith("leak_") or name.removeprefix("leak_") in plants
        }
        named = evidence.suspects(teach, older, newer, replace(portfolio, features=kept), spec)
        yield plants, {one.feature for one in named}


def benchmark(quick: bool) -> Sequence[Figure]:
    """Share of plants that are named, and honest features named, by book and by how the plants came."""
    figures = []
    for book in books():
        for later in (False, True):
            there, found, wrong = 0, 0, 0
            for seed in range(1 if quick else 5):
                for plants, named in judged(book, seed, later=later):
                    leaks = {f"leak_{name}" for name in plants}
                    there, found, wrong = there + len(leaks), found + len(leaks & named), wrong + len(named - leaks)
            name = f"leaks.{book.portfolio.name}.{'later' if later else 'known'}"
            figures.append(Figure(f"{name}.named", found / there, f"share of {there} plants", aim=1.0, more=True))
            figures.append(Figure(f"{name}.honest_named", float(wrong), "features", aim=0.0))
    return figures


if __name__ == "__main__":
    main(benchmark)
