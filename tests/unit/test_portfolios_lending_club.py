"""The portfolio `lending_club`: SQL, kinds and suite on loans made up here, and on the real ones where they are."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from metarisk import lake, quality
from metarisk.domain import Warehouse
from metarisk.portfolios import check_portfolio, extract_sql, load_portfolio, suite_path
from tests.warehouses import ROOT, open_duckdb

DATA = Path(os.environ.get("METARISK_TEST_DATA", ROOT.parent / "shared" / "data")) / "credit_lending_club"
PORTFOLIO = load_portfolio(ROOT, "lending_club")


def extracted(warehouse: Warehouse, as_of: date, root: Path) -> tuple[lake.Extract, pl.DataFrame]:
    with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": as_of}) as rows:
        done = lake.extract([rows], PORTFOLIO, as_of, root, "q", memory_mb=256, threads=1, progress=lambda *_: None)
    return done, pl.read_parquet(done.paths)


def checked(done: lake.Extract, as_of: date, folder: Path) -> quality.Quality:
    return quality.check(
        suite_path(ROOT, PORTFOLIO), done.paths, portfolio=PORTFOLIO, as_of=as_of, quarantine=folder / "aside"
    )


def made_up(warehouse: Warehouse) -> None:
    """Loan 10 is charged off, 9 is paid back, 11 runs; 12 is issued later. What is numeric is 1, what is text is A."""
    numbers = {name: [1.0] * 4 for name, feature in PORTFOLIO.features.items() if feature.kind == "numeric"}
    texts = {name: ["A"] * 4 for name, feature in PORTFOLIO.features.items() if feature.kind == "categorical"}
    loans = {
        "id": [10, 9, 11, 12],
        "issue_d": [date(2010, 1, 1), date(2010, 2, 1), date(2010, 3, 1), date(2011, 2, 1)],
        "purpose": ["car", "car", "O'Brien", "car"],
        "addr_state": ["CA", "NY", "CA", "CA"],
        "earliest_cr_line": [date(1999, 1, 1)] * 4,
        **numbers,
        **texts,
        "sub_grade": ["A1", "B5", "G5", "C3"],
        "emp_length": ["< 1 year", "10+ years", "3 years", "n/a"],
    }
    outcomes = {
        "id": [10, 9, 11],
        "outcome": ["charged_off", "fully_paid", "charged_off"],
        "event_date": [date(2010, 9, 1), date(2010, 10, 1), date(2010, 12, 1)],
        "known_date": [date(2010, 10, 1), date(2010, 11, 1), date(2011, 1, 3)],
    }
    warehouse.load("loans", pa.table(loans | {"term": pa.array([36] * 4, pa.int16())}).to_reader())
    warehouse.load("outcomes", pa.table(outcomes).to_reader())


def test_only_what_was_known_by_as_of_is_extracted(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    made_up(empty_warehouse)
    _, rows = extracted(empty_warehouse, date(2011, 1, 2), tmp_path)
    nothing = None
    assert rows.select("id", "event_date", "known_date", "exit_date").rows() == [
        ("10", date(2010, 9, 1), date(2010, 10, 1), nothing),
        ("11", nothing, nothing, nothing),  # charged off in December, known a day too late
        ("9", nothing, nothing, date(2010, 10, 1)),
    ]
    # grades and years are numbers, loan 11 after 10 and before 9
    assert rows.select("sub_grade", "emp_length").rows() == [(1, 0), (35, 3), (10, 10)]
    _, later = extracted(empty_warehouse, date(2011, 1, 3), tmp_path)
    assert later.filter(pl.col("id") == "11")["event_date"].to_list() == [date(2010, 12, 1)]


@pytest.mark.xdist_group("great_expectations")
def test_the_suite_can_be_judged(tmp_path: Path) -> None:
    warehouse = open_duckdb(tmp_path)
    made_up(warehouse)
    done, _ = extracted(warehouse, date(2011, 1, 2), tmp_path)
    found = checked(done, date(2011, 1, 2), tmp_path)
    assert [failed.severity for failed in found.failures] == ["info"]  # "A" is no kind of housing


@pytest.mark.real_data
@pytest.mark.xdist_group("great_expectations")
@pytest.mark.skipif(not DATA.is_dir(), reason="the Lending Club data are not here")
def test_real_loans_are_extracted_and_pass(tmp_path: Path) -> None:
    warehouse = open_duckdb(tmp_path)
    for table in ("loans", "outcomes"):
        warehouse.load(table, pl.read_parquet(DATA / f"{table}.parquet").to_arrow().to_reader())
    as_of = date(2011, 1, 2)
    findings = check_portfolio(PORTFOLIO, ROOT, warehouse, as_of, check_schema=lake.check_schema)
    assert all(finding.ok for finding in findings), findings
    done, rows = extracted(warehouse, as_of, tmp_path)
    by_hand = duckdb.sql(
        f"""SELECT count(*), count(*) FILTER (outcome = 'charged_off' AND known_date <= '{as_of}'),
                   count(*) FILTER (outcome = 'fully_paid' AND known_date <= '{as_of}')
            FROM '{DATA}/loans.parquet' JOIN '{DATA}/outcomes.parquet' USING (id) WHERE issue_d <= '{as_of}'"""
    ).fetchone()
    assert by_hand == (rows.height, rows["event_date"].count(), rows["exit_date"].count())
    found = checked(done, as_of, tmp_path)
    assert found.failures == []
