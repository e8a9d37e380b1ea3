"""What an extract loses without a word, on both warehouses: rows by a join, events by a date that is missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pyarrow as pa
import pytest

from metarisk.domain import DataError, Warehouse
from metarisk.lake import check_schema
from metarisk.portfolios import dropped_rows, unknown_events
from tests.unit.loan_examples import PORTFOLIO

AS_OF = date(2024, 6, 30)
BARS = (
    "SELECT b.id, s.name FROM source.bars AS b {join} source.sectors AS s ON s.sector = b.sector WHERE b.day <= $as_of"
)


def load(warehouse: Warehouse) -> None:
    days = [date(2024, 1, 1)] * 5
    bars = {"id": list("abcde"), "day": days, "sector": ["x", "y", None, None, "z"]}
    warehouse.load("bars", pa.table(bars).to_reader())
    warehouse.load("sectors", pa.table({"sector": ["x", "y"], "name": ["X", "Y"]}).to_reader())


@pytest.mark.parametrize("join", ["JOIN", "inner  join", "INNER JOIN"])
def test_an_inner_join_that_drops_rows_is_refused(empty_warehouse: Warehouse, join: str) -> None:
    load(empty_warehouse)
    with pytest.raises(DataError, match=r"drop 3 of 5 rows: .*source\.sectors AS s ON") as caught:
        dropped_rows(BARS.format(join=join), PORTFOLIO, empty_warehouse, AS_OF, extracted=2)
    assert "LEFT JOIN" in caught.value.remedy


@pytest.mark.parametrize(
    "sql",
    [
        BARS.format(join="LEFT JOIN"),
        BARS.format(join="LEFT OUTER JOIN"),
        "SELECT id FROM source.bars WHERE day <= $as_of -- JOIN nothing",
        "SELECT id, 'a JOIN b' AS \"INNER JOIN\" FROM source.bars WHERE day <= $as_of;",
        # Who means to leave rows out says so.
        BARS.format(join="JOIN") + " AND b.sector IN ('x')",
        BARS.format(join="JOIN") + " AND s.name IS NOT NULL",
    ],
)
def test_what_drops_nothing_by_a_join_is_let_be(empty_warehouse: Warehouse, sql: str) -> None:
    load(empty_warehouse)
    for extracted in (0, 5):  # none: all rows came to the source since it was read
        dropped_rows(sql, PORTFOLIO, empty_warehouse, AS_OF, extracted)


def test_a_decimal_key_is_told_as_what_the_table_has(empty_warehouse: Warehouse) -> None:
    """A query hands decimals on as floating-point numbers, of which nobody wrote any."""
    load(empty_warehouse)
    with (
        empty_warehouse.stream("SELECT CAST(12345678901234567 AS DECIMAL(20, 0)) AS id") as reader,
        pytest.raises(DataError, match=r"gives decimal.* where text or whole numbers were declared") as caught,
    ):
        check_schema(reader.schema, replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, entity="id")), AS_OF)
    assert "CAST(... AS VARCHAR)" in caught.value.remedy


def test_events_that_are_never_known_are_found_in_the_table(empty_warehouse: Warehouse) -> None:
    events = [date(2024, 1, number + 1) for number in range(20)]
    sql = "SELECT id FROM \"source\".loans WHERE opened <= $as_of AND 'FROM no.table' <> ''"
    ask = (sql, PORTFOLIO, empty_warehouse, AS_OF)

    def known(values: list[date | None]) -> None:
        table = {"event": events, "known": pa.array(values, pa.date32())}
        empty_warehouse.load("loans", pa.table(table).to_reader())

    known(events)
    assert unknown_events(*ask, 0.001) == ""
    known([None, *events[1:]])
    assert "1 of 20 events" in unknown_events(*ask, 0.05)
    with pytest.raises(DataError, match=r"1 of 20 events .* have no known: they would teach as good"):
        unknown_events(*ask, 0.049)
    same = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, known_date="event"))
    assert unknown_events(sql, same, empty_warehouse, AS_OF, 0.0) == ""
