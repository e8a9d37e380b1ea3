"""Portfolios against live warehouses of both kinds: the demo, a check that refuses, and one drafted on the fly."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from metarisk import lake, quality
from metarisk.domain import DEMO_AS_OF, ConfigError, Portfolio, Warehouse
from metarisk.portfolios import (
    Finding,
    check_portfolio,
    draft_portfolio,
    extract_sql,
    load_portfolio,
    suite_path,
)
from metarisk.risks import RISKS
from metarisk.risks.credit.book import generate
from tests.warehouses import Server, open_duckdb, open_postgresql

ROOT = Path(__file__).resolve().parents[2]


def seed(warehouse: Warehouse, scale: float = 0.05) -> None:
    for name, reader in generate(scale).items():
        warehouse.load(name, reader)


def extract(warehouse: Warehouse, project: Path, portfolio: Portfolio, as_of: date, root: Path) -> lake.Extract:
    with warehouse.stream(extract_sql(project, portfolio), {"as_of": as_of}) as reader:
        return lake.extract(
            [reader],
            portfolio,
            as_of,
            root,
            "0" * 64,
            memory_mb=256,
            threads=1,
            progress=lambda done, total, note: None,
        )


def check(portfolio: Portfolio, warehouse: Warehouse, as_of: date, project: Path = ROOT) -> dict[str, Finding]:
    found = check_portfolio(portfolio, project, warehouse, as_of, check_schema=lake.check_schema)
    assert all(finding.ok or finding.remedy for finding in found)
    return {finding.about: finding for finding in found}


def test_the_demo_passes_and_its_lag_is_shown(empty_warehouse: Warehouse) -> None:
    seed(empty_warehouse)
    found = check(load_portfolio(ROOT, "consumer_loans"), empty_warehouse, DEMO_AS_OF)
    assert all(finding.ok for finding in found.values()), found
    assert "99th percentile of their delay is 5" in found["reporting lag"].what  # 10 to 55 days by construction
    assert "answers True" in found["source.ready_sql"].what


def test_a_smaller_lag_than_the_observed_one_is_refused(empty_warehouse: Warehouse) -> None:
    seed(empty_warehouse)
    portfolio = load_portfolio(ROOT, "consumer_loans")
    hasty = replace(portfolio, targets=(replace(portfolio.target, reporting_lag_days=30),))
    lag = check(hasty, empty_warehouse, DEMO_AS_OF)["reporting lag"]
    assert not lag.ok
    assert "`targets[0].reporting_lag_days` to 5" in lag.remedy


def test_what_the_warehouse_lacks_is_named(empty_warehouse: Warehouse) -> None:
    portfolio = load_portfolio(ROOT, "consumer_loans")
    assert not check(portfolio, empty_warehouse, DEMO_AS_OF)["extract"].ok  # no table yet
    seed(empty_warehouse)
    early = check(portfolio, empty_warehouse, date(2000, 1, 1))
    assert "empty as of 2000-01-01" in early["rows"].what
    assert "answers False" in early["source.ready_sql"].what
    renamed = replace(portfolio, columns=replace(portfolio.columns, protected=("age_bands",)))
    found = check(renamed, empty_warehouse, DEMO_AS_OF)["extract"]
    assert not found.ok
    assert "column age_bands" in found.what
    assert "did you mean 'age_band'" in found.what


def test_queries_beside_the_extract_are_tried(empty_warehouse: Warehouse) -> None:
    seed(empty_warehouse)
    portfolio = load_portfolio(ROOT, "consumer_loans")
    wrong = replace(
        portfolio,
        source=replace(portfolio.source, ready_sql="SELECT 1 AS one"),
        calendar="table",
        calendar_sql="SELECT 'soon' AS day",
    )
    found = check(wrong, empty_warehouse, DEMO_AS_OF)
    assert not found["source.ready_sql"].ok
    assert not found["calendar_sql"].ok
    right = replace(wrong, calendar_sql="SELECT DISTINCT opened_on FROM source.demo_loans")
    assert check(right, empty_warehouse, DEMO_AS_OF)["calendar_sql"].ok


@pytest.mark.xdist_group("postgresql")
def test_both_warehouses_give_the_same_extract_to_the_bit(postgresql: Server, tmp_path: Path) -> None:
    portfolio = load_portfolio(ROOT, "consumer_loans")
    hashes = []
    for opened in (open_duckdb(tmp_path), open_postgresql(postgresql.url(postgresql.create_database()), tmp_path)):
        seed(opened)
        done = extract(opened, ROOT, portfolio, DEMO_AS_OF, tmp_path / opened.dialect)
        hashes.append((done.extract_hash, done.rows))
    opened_on = generate(0.05)["demo_loans"].read_all().column("opened_on").to_pylist()
    assert hashes[0] == hashes[1]
    assert hashes[0][1] == sum(day <= DEMO_AS_OF for day in opened_on)


# a new portfolio without any Python


def cards() -> pa.RecordBatchReader:
    """A table that nobody wrote a portfolio for, with names that want quoting."""
    rng = np.random.default_rng(7)
    n = 600
    booked = [date(2023, 1, 1) + timedelta(days=int(day)) for day in rng.integers(0, 700, n)]
    bad = rng.random(n) < 0.15
    default = [day + timedelta(days=200) if event else None for day, event in zip(booked, bad, strict=True)]
    known = [day + timedelta(days=20) if day else None for day in default]
    table = pa.table(
        {
            "account_id": [f"A{number}" for number in range(n)],
            "booked_on": booked,
            "default_date": pa.array(default, pa.date32()),
            "reported_on": pa.array(known, pa.date32()),
            "country": rng.choice(["DE", "FR", "IT"], n),
            "product": rng.choice(["gold", "blue"], n),
            'limit "EUR"; --': rng.normal(5000, 900, n),
            "employer kind": rng.choice(["state", "firm"], n),
            "first_card": [day - timedelta(days=2000) for day in booked],
            "gender": rng.choice(["f", "m"], n),
            "email": [f"{number}@example.org" for number in range(n)],
            "constant": ["x"] * n,
        }
    )
    return table.to_reader()


def test_a_drafted_portfolio_runs_without_any_python(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    empty_warehouse.load("cards", cards())
    for path, text in draft_portfolio("cards", "source.cards", empty_warehouse).files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    shutil.copy(ROOT / "expectations/scores.json", tmp_path / "expectations")
    portfolio = load_portfolio(tmp_path, "cards", RISKS)
    columns = portfolio.columns
    assert (columns.entity, columns.opened_on) == ("account_id", "booked_on")
    assert (columns.event_date, columns.known_date) == ("default_date", "reported_on")
    assert columns.segments == ("country", "product")
    assert (columns.protected, columns.personal) == (("gender",), ("email",))
    kinds = {name: feature.kind for name, feature in portfolio.features.items()}
    assert kinds == {'limit "EUR"; --': "numeric", "employer kind": "categorical", "first_card": "date-age"}

    as_of = date(2024, 6, 30)
    found = check(portfolio, empty_warehouse, as_of, tmp_path)
    assert all(finding.ok for finding in found.values()), found
    done = extract(empty_warehouse, tmp_path, portfolio, as_of, tmp_path / "lake")
    judged = quality.check(
        suite_path(tmp_path, portfolio),
        done.paths,
        portfolio=portfolio,
        as_of=as_of,
        quarantine=tmp_path / "quarantine",
    )
    assert judged.failures == []


def test_a_table_that_cannot_be_guessed_says_what_it_lacks(empty_warehouse: Warehouse) -> None:
    empty_warehouse.load("dateless", pa.table({"id": ["a", "b"], "x": [1.0, 2.0]}).to_reader())
    with pytest.raises(ConfigError, match="no date column"):
        draft_portfolio("dateless", "source.dateless", empty_warehouse)
    empty_warehouse.load("keyless", pa.table({"shade": ["a", "a"], "day": [date(2025, 1, 1)] * 2}).to_reader())
    with pytest.raises(ConfigError, match="no unique key"):
        draft_portfolio("keyless", "source.keyless", empty_warehouse)
    empty_warehouse.load("empty", pa.table({"id": pa.array([], pa.string())}).to_reader())
    with pytest.raises(ConfigError, match="no rows"):
        draft_portfolio("empty", "source.empty", empty_warehouse)
    with pytest.raises(ConfigError, match="cannot name a portfolio"):
        draft_portfolio("../x", "source.empty", empty_warehouse)
