"""What an extract loses without a word: rows that a join drops, and events whose known date is missing.

Neither shows in the extract itself, so the SQL is read and its tables are asked. Counts alone are read.
"""

import re
from collections.abc import Iterator
from datetime import date

from metarisk.domain import DataError, MetariskError, Portfolio, Warehouse, quoted
from metarisk.portfolios.live import nested

_SILENT = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_NAMES = re.compile(r'"(?:[^"]|"")*"')
_JOIN = re.compile(r"(?:\b([A-Za-z_]+)\s+)?\bJOIN\b", re.IGNORECASE)
_KEEPING = {"LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "NATURAL", "ASOF", "SEMI", "ANTI", "POSITIONAL", "LATERAL"}
_TABLE = re.compile(r'\b(?:FROM|JOIN)\s+((?:"[^"]+"|\w+)\.(?:"[^"]+"|\w+))', re.IGNORECASE)


def dropped_rows(sql: str, portfolio: Portfolio, warehouse: Warehouse, as_of: date, extracted: int) -> None:
    """Raise DataError if the extract has fewer rows than it would if its inner joins were left ones.

    A row whose key is missing, or has no counterpart, is not read and nobody sees it. A SELECT that means to leave rows
    out says so in its WHERE.

    Args:
        extracted: rows that the extract had. Where they are all, one count is all that is asked of the warehouse.
    """
    joins = list(_inner_joins(sql))
    if not joins or (kept := _count(_left(sql, joins), warehouse, as_of)) <= extracted:
        return
    # Rows that came to the source since it was read were not dropped.
    rows = _count(sql, warehouse, as_of)
    if kept <= rows:
        return
    each = {one: _count(_left(sql, [one]), warehouse, as_of) - rows for one in joins}
    worst = max(joins, key=lambda one: each[one])
    line = " ".join(sql[worst[0] :].splitlines()[0].split())
    raise DataError(
        f"joins of {portfolio.source.extract} drop {kept - rows:,} of {kept:,} rows: {line}",
        remedy="make it a LEFT JOIN, with coalesce(column, '(missing)') on both sides of its ON where a key may be "
        "missing; if such rows do not belong to the book, leave them out by the WHERE",
        portfolio=portfolio.name,
        on=as_of,
    )


def unknown_events(sql: str, portfolio: Portfolio, warehouse: Warehouse, as_of: date, limit: float) -> str:
    """What tables of the extract hold of events without a known date, in words; empty if there are none.

    An extract that gives an event once it is known never gives these, and their rows are taught as good. Only tables
    that have both columns by their names are asked. Raises DataError if more than a share `limit` of events is such.
    """
    event, known = portfolio.columns.event_date, portfolio.columns.known_date
    if event is None or known is None or event == known:
        return ""
    told = ""
    for table in dict.fromkeys(_TABLE.findall(_SILENT.sub(_blank, sql))):
        if not {event, known} <= _columns(table, warehouse):
            continue
        query = (
            f"SELECT count({quoted(event)}) AS events, "  # noqa: S608
            f"count(CASE WHEN {quoted(known)} IS NULL THEN {quoted(event)} END) AS unknown FROM {table}"
        )
        (found,) = warehouse.rows(query)
        if not found["unknown"]:
            continue
        told = f"{found['unknown']:,} of {found['events']:,} events of {table} have no {known}"
        if found["unknown"] > limit * found["events"]:
            raise DataError(
                f"{told}: they would teach as good",
                remedy=f"give them a {known} in the source, or take their rows out by the WHERE",
                portfolio=portfolio.name,
                column=known,
                on=as_of,
            )
    return told


def _inner_joins(sql: str) -> Iterator[tuple[int, int]]:
    """Where each begins and where its JOIN ends."""
    plain = _NAMES.sub(_blank, _SILENT.sub(_blank, sql))
    for found in _JOIN.finditer(plain):
        before = (found[1] or "").upper()
        if before not in _KEEPING:
            yield (found.start(1) if before == "INNER" else found.end() - len("JOIN")), found.end()


def _left(sql: str, joins: list[tuple[int, int]]) -> str:
    for start, end in reversed(joins):
        sql = f"{sql[:start]}LEFT JOIN{sql[end:]}"
    return sql


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _count(sql: str, warehouse: Warehouse, as_of: date) -> int:
    (found,) = warehouse.rows(f"SELECT count(*) AS n FROM {nested(sql)} AS extract", {"as_of": as_of})  # noqa: S608
    return int(found["n"])


def _columns(table: str, warehouse: Warehouse) -> set[str]:
    try:
        with warehouse.stream(f"SELECT * FROM {table} LIMIT 0") as reader:  # noqa: S608
            return set(reader.schema.names)
    except MetariskError:
        return set()  # a name of the query's own, which reads like a table's
