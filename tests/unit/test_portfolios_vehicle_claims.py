"""The portfolio `vehicle_claims`: dates from weeks and months, on claims made up here and on the real ones."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from metarisk import lake, quality
from metarisk.domain import Warehouse
from metarisk.portfolios import check_portfolio, extract_sql, load_portfolio, suite_path
from metarisk.risks import RISKS
from tests.warehouses import ROOT, open_duckdb

DATA = Path(os.environ.get("METARISK_TEST_DATA", ROOT.parent / "shared" / "data"))
FILE = DATA / "fraud_vehicle_claims" / "claims.parquet"
PORTFOLIO = load_portfolio(ROOT, "vehicle_claims", risks=RISKS)
NUMBERS = ("WeekOfMonth", "WeekOfMonthClaimed", "Age", "PolicyNumber", "Deductible", "DriverRating", "Year", "fraud")
TEXTS = (
    "Month", "DayOfWeek", "Make", "AccidentArea", "DayOfWeekClaimed", "MonthClaimed", "Sex", "MaritalStatus", "Fault",
    "PolicyType", "VehicleCategory", "VehiclePrice", "Days:Policy-Accident", "Days:Policy-Claim", "PastNumberOfClaims",
    "AgeOfVehicle", "AgeOfPolicyHolder", "PoliceReportFiled", "WitnessPresent", "AgentType", "NumberOfSuppliments",
    "AddressChange-Claim", "NumberOfCars", "BasePolicy",
)  # fmt: skip


def load(warehouse: Warehouse, claims: pl.DataFrame) -> None:
    warehouse.load("vehicle_claims", claims.to_arrow(compat_level=pl.CompatLevel.oldest()).to_reader())


def extracted(warehouse: Warehouse, as_of: date, root: Path) -> tuple[lake.Extract, pl.DataFrame]:
    with warehouse.stream(extract_sql(ROOT, PORTFOLIO), {"as_of": as_of}) as rows:
        done = lake.extract([rows], PORTFOLIO, as_of, root, "q", memory_mb=256, threads=1, progress=lambda *_: None)
    return done, pl.read_parquet(done.paths)


def test_a_claim_is_dated_by_its_week_and_known_a_month_later(empty_warehouse: Warehouse, tmp_path: Path) -> None:
    rows = 4
    claims = pl.DataFrame({name: [1] * rows for name in NUMBERS} | {name: ["A"] * rows for name in TEXTS}).with_columns(
        PolicyNumber=pl.Series([1, 2, 3, 4]),
        Year=pl.Series([1994, 1994, 1995, 1995]),
        Month=pl.Series(["Mar", "Dec", "Jun", "Nov"]),
        MonthClaimed=pl.Series(["Apr", "Jan", "0", "Nov"]),
        WeekOfMonth=pl.Series([2, 5, 3, 1]),
        WeekOfMonthClaimed=pl.Series([5, 1, 1, 4]),
        fraud=pl.Series([1, 0, 1, 1]),
    )
    load(empty_warehouse, claims)
    _, found = extracted(empty_warehouse, date(1995, 7, 14), tmp_path)
    assert found.select("policy_number", "claimed_on", "found_on", "months_to_claim").rows() == [
        ("1", date(1994, 4, 29), date(1994, 5, 29), 1),
        ("2", date(1995, 1, 1), None, 1),  # an accident of December, claimed in the next year
        ("3", date(1995, 6, 15), None, 0),  # fraud, found a day too late; without a month it has that of the accident
    ]
    _, later = extracted(empty_warehouse, date(1995, 7, 15), tmp_path)
    assert later.filter(pl.col("policy_number") == "3")["found_on"].to_list() == [date(1995, 7, 15)]


@pytest.mark.real_data
@pytest.mark.xdist_group("great_expectations")
@pytest.mark.skipif(not FILE.is_file(), reason="the vehicle claims are not here")
def test_real_claims_are_extracted_and_pass(tmp_path: Path) -> None:
    warehouse = open_duckdb(tmp_path)
    claims = pl.read_parquet(FILE)
    load(warehouse, claims)
    as_of = date(1997, 1, 31)
    findings = check_portfolio(PORTFOLIO, ROOT, warehouse, as_of, check_schema=lake.check_schema)
    assert all(finding.ok for finding in findings), findings
    done, rows = extracted(warehouse, as_of, tmp_path)
    assert (rows.height, rows["found_on"].count()) == (claims.height, claims["fraud"].sum())
    found = quality.check(
        suite_path(ROOT, PORTFOLIO), done.paths, portfolio=PORTFOLIO, as_of=as_of, quarantine=tmp_path / "aside"
    )
    assert [failed.severity for failed in found.failures] in ([], ["info"])  # some ages are 0
