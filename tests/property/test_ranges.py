"""Wherever a key is cut, each row is in exactly one range, as PostgreSQL compares it; and the ranges are balanced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarisk.warehouse.postgresql.ranges import conditions, quantiles
from metarisk.warehouse.statements import literal
from tests.warehouses import Server

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
number = st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9)


@pytest.fixture(scope="module")
def connection(postgresql: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgresql.url(), autocommit=True) as opened:
        yield opened


def ranges_of(connection: psycopg.Connection, kind: str, keys: Sequence[object], wheres: Sequence[str]) -> list[int]:
    """In how many of the ranges each key is."""
    within = " + ".join(f"coalesce(({where})::int, 0)" for where in wheres).replace("%", "%%")  # psycopg's own sign
    rows = connection.execute(f"SELECT {within} FROM unnest(%s::{kind}[]) AS t(k)".encode(), [list(keys)]).fetchall()
    return [row[0] for row in rows]


@pytest.mark.xdist_group("postgresql")
@settings(max_examples=60, deadline=None)
@given(keys=st.lists(text | st.none(), min_size=1, max_size=30), bounds=st.lists(text, min_size=1, max_size=6))
def test_each_text_is_in_one_range(connection: psycopg.Connection, keys: list[str | None], bounds: list[str]) -> None:
    wheres = conditions('CAST(k AS TEXT) COLLATE "C"', [literal(bound) for bound in bounds])
    assert len(wheres) == len(bounds) + 1
    assert ranges_of(connection, "text", keys, wheres) == [1] * len(keys)


@pytest.mark.xdist_group("postgresql")
@settings(max_examples=60, deadline=None)
@given(keys=st.lists(number | st.none(), min_size=1, max_size=30), bounds=st.lists(number, min_size=1, max_size=6))
def test_each_number_is_in_one_range(connection: psycopg.Connection, keys: list[int | None], bounds: list[int]) -> None:
    wheres = conditions("k", [literal(bound) for bound in bounds])
    assert ranges_of(connection, "bigint", keys, wheres) == [1] * len(keys)


@given(values=st.lists(text) | st.lists(number), count=st.integers(1, 64))
def test_bounds_rise_from_above_the_lowest_value(values: list[str] | list[int], count: int) -> None:
    bounds = quantiles(values, count)  # type: ignore[type-var]
    assert len(bounds) < count
    assert set(bounds) <= set(values)
    assert all(low < high for low, high in pairwise([*sorted(values)[:1], *bounds]))


@given(values=st.sets(number, min_size=1), count=st.integers(1, 64))
def test_ranges_of_different_values_differ_by_one_at_most(values: set[int], count: int) -> None:
    edges = [-(2**64), *quantiles(list(values), count), 2**64]
    sizes = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    assert sum(sizes) == len(values)
    assert len(sizes) == min(count, len(values))
    assert max(sizes) - min(sizes) <= 1
