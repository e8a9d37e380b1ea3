"""One SELECT cut by ranges of a key, for a server that gives them side by side. No connection is known here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import pyarrow as pa

from metarisk.domain import KeyRanges
from metarisk.warehouse.statements import literal, quote_identifier

Value = TypeVar("Value", int, str)
_WHOLE = re.compile(r"-?\d{1,19}", re.ASCII)


def cut(statement: str, schema: pa.Schema, ranges: KeyRanges) -> list[str]:
    """The SELECT as several, of which each row of it is in exactly one; alone where it cannot be cut.

    Args:
        statement: one rendered SELECT of PostgreSQL.
        schema: columns of its result. Whole numbers are compared as such, so that an index of the source serves, all
            else as text in binary order.
        ranges: where to cut; a bound stays a text or a number that the sample holds.
    """
    if ranges.column not in schema.names:
        return [statement]
    key, sample = quote_identifier(ranges.column), ranges.sample
    if pa.types.is_integer(schema.field(ranges.column).type):
        bounds = [literal(bound) for bound in quantiles(_whole(sample), ranges.count)]
    else:
        key = f'CAST({key} AS TEXT) COLLATE "C"'
        bounds = [literal(bound) for bound in quantiles([text for text in sample if "\0" not in text], ranges.count)]
    if not bounds:
        return [statement]
    return [f"SELECT * FROM (\n{statement}\n) AS part WHERE {condition}" for condition in conditions(key, bounds)]  # noqa: S608


def quantiles(values: Sequence[Value], count: int) -> list[Value]:
    """At most `count - 1` values, rising and above the lowest, that cut the others into about equal shares."""
    ordered = sorted(values)
    found = {ordered[len(ordered) * number // count] for number in range(1, count)} if ordered else set()
    return sorted(found - set(ordered[:1]))


def conditions(key: str, bounds: Sequence[str]) -> list[str]:
    """A condition a range, of which each row meets exactly one: it belongs below the first bound that is above it."""
    below = [f"{key} < {bound}" for bound in bounds]
    reached = [f"{key} >= {bound}" for bound in bounds]
    # All bounds before it and not the last one alone: a server whose encoding is not UTF-8 may order them otherwise.
    found = [" AND ".join([*below[at : at + 1], *reversed(reached[:at])]) for at in range(len(bounds) + 1)]
    found[0] += f" OR {key} IS NULL"
    return found


def _whole(texts: Sequence[str]) -> list[int]:
    return [number for text in texts if _WHOLE.fullmatch(text) and abs(number := int(text)) < 2**63]
