"""What passes the quoting functions comes back unchanged from both databases, and is never read as SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarisk.domain import ConfigError, DataError, Scalar
from metarisk.warehouse import statements
from tests.conftest import BOTH
from tests.warehouses import Server

Ask = Callable[[str], Any]
HOSTILE = st.sampled_from(
    ["'", '"', ";", "--", "/*", "*/", "\\", "\\'", "$as_of", "$$", "%s", "🦀", "é", "\n", " OR 1=1"]
)
TEXT = st.lists(
    HOSTILE | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5), max_size=6
)
WORDS = TEXT.map("".join)
NAMES = WORDS.filter(lambda name: 0 < len(name.encode()) <= 63)
ZONES = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | ZONES)  # noqa: DTZ001
SCALARS: st.SearchStrategy[Scalar] = st.one_of(
    WORDS, st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.dates(), MOMENTS, st.none()
)
RUN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=BOTH, scope="module")
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Run one SELECT of one value on an open connection, without the code under test."""
    if request.param == "duckdb":
        with closing(duckdb.connect()) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield lambda sql: connection.execute(sql).to_arrow_table().column(0)[0].as_py()
        return
    server: Server = request.getfixturevalue("postgresql")
    with closing(adbc.connect(server.url(), autocommit=True)) as connection, closing(connection.cursor()) as cursor:
        yield lambda sql: cursor.execute(sql).fetch_arrow_table().column(0)[0].as_py()


@RUN
@given(value=SCALARS)
def test_a_literal_is_the_value(ask: Ask, value: Scalar) -> None:
    found = ask(f"SELECT {statements.literal(value)} AS value")
    if isinstance(value, float) and math.isnan(value):
        assert math.isnan(found)
    else:
        assert found == value
        assert type(found) is type(value) or isinstance(value, datetime)


@RUN
@given(name=NAMES)
def test_an_identifier_is_the_name(ask: Ask, name: str) -> None:
    quoted = statements.quote_identifier(name)
    assert ask(f"SELECT a.{quoted} AS found FROM (SELECT 42 AS {quoted}) AS a") == 42


@RUN
@given(first=WORDS, second=WORDS, name=NAMES)
def test_parameters_are_replaced_where_they_stand_and_nowhere_else(
    ask: Ask, first: str, second: str, name: str
) -> None:
    quoted = statements.quote_identifier(name)
    sql = f"""
        SELECT $first || '|$first|' || $$ $first $$ || $tag$ $first; $tag$ || $second AS {quoted}
        /* $none; /* $none */ ; */
        -- $none; it's
        ;
    """
    rendered = statements.render_select(sql, {"first": first, "second": second})
    assert ask(rendered) == f"{first}|$first| $first  $first; {second}"


@given(values=st.lists(WORDS, min_size=1, max_size=4))
def test_a_script_is_split_at_its_own_semicolons_only(values: list[str]) -> None:
    parts = [f"SELECT {statements.literal(value)} AS {statements.quote_identifier('a;b')}" for value in values]
    assert statements.split(";\n-- one; two\n".join(parts) + "; ;") == parts


@given(text=st.text(max_size=30) | WORDS)
def test_any_text_is_split_without_loss(text: str) -> None:
    assert "".join(part for _, part in statements.tokens(text)) == text


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "é" * 32, "\ud800"])
def test_names_that_a_database_would_change_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a table or column"):
        statements.quote_identifier(name)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 2**63, -(2**63) - 1, b"bytes", [1], object()])
def test_values_that_no_literal_holds_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match="Remedy: "):
        statements.literal(value)


def test_a_local_time_stays_local() -> None:
    moment = datetime.fromisoformat("2026-03-29T02:30:00.000001")
    assert statements.literal(moment) == "TIMESTAMP '2026-03-29 02:30:00.000001'"
    assert statements.literal(date(7, 1, 2)) == "DATE '0007-01-02'"


def test_a_table_is_schema_and_name() -> None:
    assert statements.quote_table('source.a "b".c') == '"source"."a ""b"".c"'
    for name in ("loans", ".loans", "source."):
        with pytest.raises(ConfigError, match="does not name a table"):
            statements.quote_table(name)
