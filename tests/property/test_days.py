"""Every row is there from its own local day on, none lost, none twice: at extract, labels and population."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import psycopg
import pytest

from metarisk import lake
from metarisk.domain import ConfigError, Portfolio, Warehouse
from metarisk.portfolios import Finding, check_portfolio, extract_sql, local_day, zone_differs
from metarisk.portfolios.days import INDEXED, PATTERN
from metarisk.risks import RISKS
from metarisk.tasks import LABEL, labelled, population
from tests.conftest import BOTH, POSTGRESQL
from tests.dated import DAYS, TYPES, drafted, moments, transactions
from tests.warehouses import Server, open_duckdb, open_postgresql


class Opener:
    """One database of a kind for all tests of this file, opened in any time zone."""

    def __init__(self, kind: str, url: str, folder: Path) -> None:
        self.kind, self._url, self.folder = kind, url, folder

    def __call__(self, zone: str) -> Warehouse:
        """The warehouse with its sessions in `zone`."""
        if self.kind == "duckdb":
            return open_duckdb(self.folder, timezone=zone)
        return open_postgresql(self._url, self.folder, timezone=zone)


@pytest.fixture(scope="module", params=BOTH)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Either warehouse."""
    url = ""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        url = server.url(server.create_database())
    opener = Opener(request.param, url, tmp_path_factory.mktemp("days"))
    opener("UTC").load("days", transactions("UTC", [datetime(2025, 1, 1, tzinfo=UTC)], "date").to_reader())
    return opener


def extract(warehouse: Warehouse, project: Path, portfolio: Portfolio, as_of: date) -> pl.LazyFrame:
    with warehouse.stream(extract_sql(project, portfolio), {"as_of": as_of}) as reader:
        found = lake.extract(
            [reader], portfolio, as_of, project / "lake", "0" * 64, memory_mb=256, threads=1,
            progress=lambda done, total, note: None,
        )  # fmt: skip
    return pl.scan_parquet(found.paths)


def names(frame: pl.LazyFrame) -> set[str]:
    return set(frame.select("transaction_id").collect()["transaction_id"])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("zone", DAYS)
def test_every_row_and_label_is_there_from_its_own_day_on(zone: str, kind: str, opened: Opener, tmp_path: Path) -> None:
    middle, made = DAYS[zone], moments(zone, DAYS[zone])
    warehouse = opened(zone)
    warehouse.load("days", transactions(zone, made, kind).to_reader())
    portfolio = drafted(warehouse, "days", zone, tmp_path)
    day = {f"T{number:05}": local_day(at, zone) for number, at in enumerate(made)}
    known = {
        f"T{number:05}": local_day(at + timedelta(hours=20), zone) for number, at in enumerate(made) if number % 3 == 0
    }
    scored: list[str] = []
    for as_of in (middle - timedelta(days=1), middle, middle + timedelta(days=1)):
        rows = extract(warehouse, tmp_path, portfolio, as_of)
        assert names(rows) == {name for name, opened_on in day.items() if opened_on <= as_of}
        told = {name for name, told_on in known.items() if told_on <= as_of}
        assert names(rows.filter(pl.col("known_at").is_not_null())) == told
        labels = labelled(rows, portfolio, RISKS["fraud"], as_of)
        assert names(labels.filter(pl.col(LABEL) == 1)) == {name for name in told if day[name] < as_of}
        tonight = names(population(rows, portfolio, as_of))
        assert tonight == {name for name, opened_on in day.items() if opened_on == as_of} - told
        scored += tonight
    assert len(scored) == len(set(scored)) > 100


LATE = "{column} <= $as_of"
WRONG = {
    "midnight": LATE,
    "the day of London": "CAST(timezone('UTC', {column}) AS DATE) <= $as_of",
    "a night late": "CAST({column} AS DATE) < $as_of",
}


def checked(opened: Opener, zone: str, folder: Path, kind: str, wrong: str, column: str) -> list[Finding]:
    """Findings on the days of a draft in whose SQL the condition on one column was replaced."""
    warehouse, made = opened(zone), moments(zone, DAYS[zone])
    warehouse.load("days", transactions(zone, made, kind).to_reader())
    portfolio = drafted(warehouse, "days", zone, folder)
    file = folder / "sql/extracts/days.sql"
    right = INDEXED if column == "opened_at" else PATTERN
    quoted = f'"{column}"'
    text = file.read_text()
    assert right.format(column=quoted) in text
    file.write_text(text.replace(right.format(column=quoted), wrong.format(column=quoted)))
    found = check_portfolio(portfolio, folder, warehouse, DAYS[zone], check_schema=lake.check_schema)
    return [finding for finding in found if finding.about == "days"]


PLACES = [(zone, column) for zone in ("America/New_York", "Pacific/Kiritimati") for column in ("opened_at", "known_at")]
MISTAKES = (
    ("timestamp", "midnight"),
    ("timestamptz", "midnight"),
    ("timestamptz", "the day of London"),
    ("date", "a night late"),
)
CHECKED = [("duckdb", *mistake, *place) for mistake in MISTAKES for place in PLACES] + [
    pytest.param("postgresql", *mistake, *place, marks=POSTGRESQL)
    for number, mistake in enumerate(MISTAKES)
    for place in (PLACES[number % 2], PLACES[3 - number % 2])
]
"""Every mistake at every place on DuckDB; on PostgreSQL every mistake in each zone, once of each column."""


@pytest.mark.parametrize(("opened", "kind", "wrong", "zone", "column"), CHECKED, indirect=["opened"])
def test_check_sees_rows_and_labels_that_are_not_there_on_their_day(
    zone: str, kind: str, wrong: str, column: str, opened: Opener, tmp_path: Path
) -> None:
    found = checked(opened, zone, tmp_path, kind, WRONG[wrong], column)
    assert found
    assert not any(finding.ok for finding in found)
    # London's day begins after that of Kiritimati: there its rows of the next morning come early.
    early = zone == "Pacific/Kiritimati" and wrong == "the day of London"
    said = "are dated after the as_of" if early else "are not there as of"
    assert any(f"column {column}" in finding.what and said in finding.what for finding in found)
    assert all("AS DATE) <= $as_of" in finding.remedy for finding in found)


def test_check_sees_rows_that_come_before_their_day(opened: Opener, tmp_path: Path) -> None:
    (found,) = checked(opened, "America/New_York", tmp_path, "timestamp", "{column} < $as_of + 2", "opened_at")
    assert not found.ok
    assert "rows are dated after the as_of, 2025-03-10 for one" in found.what


@pytest.mark.parametrize("kind", TYPES)
def test_check_is_content_with_a_draft_as_of_any_date(kind: str, opened: Opener, tmp_path: Path) -> None:
    zone = "America/Havana"
    warehouse, made = opened(zone), moments(zone, DAYS[zone])
    warehouse.load("days", transactions(zone, made, kind).to_reader())
    portfolio = drafted(warehouse, "days", zone, tmp_path)
    for as_of in (DAYS[zone], DAYS[zone] + timedelta(days=200)):
        found = check_portfolio(portfolio, tmp_path, warehouse, as_of, check_schema=lake.check_schema)
        assert [finding.ok for finding in found if finding.about in ("days", "time zone")] == [True] * (
            1 + (kind == "timestamptz")
        )


def test_other_time_zone_data_is_seen(opened: Opener) -> None:
    start, end = date(2025, 3, 1), date(2025, 4, 5)
    berlin = opened("Europe/Berlin")
    assert zone_differs(berlin, "Europe/Berlin", start, end) is None
    # Lagos is an hour ahead of London all year: as Berlin is, but only until summer time begins.
    assert zone_differs(berlin, "Europe/London", start, end) == start
    assert zone_differs(berlin, "Africa/Lagos", start, end) == date(2025, 3, 31)


def test_a_time_zone_that_the_warehouse_does_not_know_is_an_error_with_a_remedy(opened: Opener) -> None:
    with pytest.raises(ConfigError, match="does not know the time zone") as error:
        opened("Mars/Olympus").rows("SELECT 1 AS one")
    assert "`timezone`" in error.value.remedy


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize("kind", TYPES)
def test_the_pattern_uses_an_index(kind: str, postgresql: Server, tmp_path: Path) -> None:
    database, zone = postgresql.create_database(), "America/Havana"
    warehouse = open_postgresql(postgresql.url(database), tmp_path, timezone=zone)
    first = datetime(2020, 1, 1, tzinfo=UTC)
    made = [first + timedelta(minutes=30 * number) for number in range(20_000)]
    warehouse.load("days", transactions(zone, made, kind).to_reader())
    portfolio = drafted(warehouse, "days", zone, tmp_path)
    sql = extract_sql(tmp_path, portfolio).replace("$as_of", "DATE '2020-01-05'")
    ready = (
        "SELECT count(*) FROM source.days WHERE CAST(opened_at AS DATE) = DATE '2020-01-05' "
        "AND opened_at >= DATE '2020-01-05' - 1 AND opened_at < DATE '2020-01-05' + 1"
    )
    with psycopg.connect(postgresql.url(database), autocommit=True) as connection:
        connection.execute(f"SET TimeZone = '{zone}'".encode())
        connection.execute(b"CREATE INDEX ON source.days (opened_at)")
        connection.execute(b"ANALYZE source.days")
        for statement in (sql, ready):
            plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}".encode()).fetchall())
            assert "days_opened_at_idx" in plan, plan
            assert "Index Cond: (" in plan
