"""Rules that hold for every book, whatever its suite says: dates in order, shares that are shares, keys that are exact.

`FINDINGS` is the one table of what is looked for and what happens then. `metarisk portfolio check`, weeks, nights and
docs/portfolios.md say it in these words. What stops a book is critical; what is set aside is neither taught nor scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import duckdb

from metarisk.domain import MISSING, Portfolio, quoted
from metarisk.quality.engine import VIEW
from metarisk.quality.results import Result

Happens = Literal["book stops", "row set aside", "told"]

MAX_UNKNOWN_EVENTS = 0.001
"""Share of events without the date on which they were known above which the book stops: each would teach as good."""
MAX_OUTSIDE = 0.01
"""Share of rows with an impossible amount above which the column, not the rows, is taken to be wrong."""
TWINS_SHOWN = 5  # as many as a sentence holds


@dataclass(frozen=True)
class Line:
    """One line of the table: what is found, and what happens."""

    finding: str
    happens: Happens
    limit: float | None = None
    """Share above which the book stops all the same."""

    @property
    def words(self) -> str:
        """What happens, in words."""
        over = f"; above {self.limit:.2g} of them the book stops" if self.limit is not None else ""
        return f"{self.happens}{', counted' if self.limit is not None else ''}{over}"


FINDINGS: Mapping[str, Line] = {
    "key": Line("a key twice, a key without a value, a key that went through a floating-point number", "book stops"),
    "suite": Line(
        "a suite or scores suite that cannot be judged, a missing or failing SQL or `source.also`", "book stops"
    ),
    "opened": Line("an event dated before its row was opened", "book stops"),
    "foreseen": Line("an event known before it happened; event and known date swapped", "book stops"),
    "unknown": Line("an event without the date on which it was known", "row set aside", MAX_UNKNOWN_EVENTS),
    "ead": Line("an exposure at default below 0 or not finite", "row set aside", MAX_OUTSIDE),
    "lgd": Line("a loss given default outside 0 to 1 or not finite", "row set aside", MAX_OUTSIDE),
    "exposure": Line("an exposure that is missing, not above 0 or not finite", "row set aside", MAX_OUTSIDE),
    "joins": Line("rows that a join of the extract drops", "book stops"),
    "leak": Line("a feature that tells the outcome for certain", "book stops"),
    "suspect": Line("a feature that may tell the outcome", "told"),
    "twins": Line("segment values that differ by case or spaces, a literal `(missing)` beside missing values", "told"),
    "cells": Line("thousands of segments", "told"),
    "unproven": Line("too few events to prove anything", "told"),
}
"""By a short name: what a book may be found to have."""


@dataclass(frozen=True)
class BookRule:
    """A rule of FINDINGS on the columns of one portfolio, as SQL over the extract."""

    key: str
    name: str
    column: str
    broken: str
    """SQL that is true for a row that breaks it."""
    of: str = "TRUE"
    """SQL that is true for the rows that its share is one of."""
    remedy: str = ""

    @property
    def line(self) -> Line:
        """What happens."""
        return FINDINGS[self.key]


def book_rules(portfolio: Portfolio, as_of: date, columns: Sequence[str]) -> list[BookRule]:
    """The rules that a portfolio's columns allow, of those that an extract has.

    What was not known by as_of is not looked at: it may not stop a night of before.
    """
    roles, sql = portfolio.columns, portfolio.source.extract
    entity, opened = quoted(roles.entity), quoted(roles.opened_on)
    rules = [
        BookRule(
            "key",
            f"{roles.entity} is exact",
            roles.entity,
            # What a warehouse makes of 1.2345678901234567e16 when it is asked for text.
            f"regexp_full_match({entity}, '-?[0-9]([.][0-9]+)?[eE][+][0-9]+')",
            remedy=f"load the key as text or whole numbers, and do not calculate with it in {sql}",
        )
    ]
    if roles.ead:
        ead = quoted(roles.ead)
        rules.append(_amount("ead", f"{roles.ead} is 0 or more", roles.ead, f"{ead} < 0 OR NOT isfinite({ead})"))
    if roles.lgd:
        lgd = quoted(roles.lgd)
        share = f"{lgd} < 0 OR {lgd} > 1 OR NOT isfinite({lgd})"
        remedy = f"give a share in {sql}: {roles.lgd} / 100 if it is in per cent"
        rules.append(_amount("lgd", f"{roles.lgd} is a share from 0 to 1", roles.lgd, share, remedy))
    if roles.exposure:
        size = quoted(roles.exposure)
        none = f"{size} IS NULL OR {size} <= 0 OR NOT isfinite({size})"
        rules.append(_amount("exposure", f"{roles.exposure} is above 0", roles.exposure, none))
    if roles.event_date:
        event, known = quoted(roles.event_date), quoted(roles.known_date or roles.event_date)
        today = f"DATE '{as_of.isoformat()}'"
        rules += [
            BookRule(
                "unknown",
                f"every event has a {roles.known_date}",
                str(roles.known_date),
                f"{event} <= {today} AND {known} IS NULL",
                of=f"{event} <= {today}",
                remedy="give the date on which each event was known; without it the event is taught as good",
            ),
            BookRule(
                "foreseen",
                f"no event is known before its {roles.event_date}",
                str(roles.known_date),
                f"{known} <= {today} AND {known} < {event}",
                of=f"{known} IS NOT NULL",
                remedy=f"correct the source or {sql}; nobody knows an event before it happens",
            ),
            BookRule(
                "opened",
                f"no event is dated before {roles.opened_on}",
                roles.event_date,
                f"{known} <= {today} AND {event} < {opened}",
            ),
        ]
    needed = {"ead": roles.ead, "lgd": roles.lgd, "exposure": roles.exposure, "key": roles.entity}
    return [rule for rule in rules if {needed.get(rule.key, roles.event_date), roles.opened_on} <= set(columns)]


def _amount(key: str, name: str, column: str, broken: str, remedy: str = "") -> BookRule:
    return BookRule(key, name, column, broken, remedy=remedy or "correct the source")


def judge_book(
    connection: duckdb.DuckDBPyConnection, rules: Sequence[BookRule], entity: str, suite: str, total: int
) -> list[Result]:
    """Judge rules over the view in one pass.

    Args:
        connection: has the view, and in `kept` its rows that no rule of the suite sets aside.
        rules: see `book_rules`.
        entity: column of the key, of which one is shown.
        suite: name for the results.
        total: rows of the view.
    """
    if not rules:
        return []
    counts = ", ".join(
        f"count(*) FILTER ({rule.broken}), count(*) FILTER ({rule.of}), min({quoted(entity)}) FILTER ({rule.broken})"
        for rule in rules
    )
    found = connection.execute(f"SELECT {counts} FROM kept").fetchone() or ()  # noqa: S608
    return [_judged(rule, found[3 * at : 3 * at + 3], suite, total) for at, rule in enumerate(rules)]


def _judged(rule: BookRule, counts: tuple[int, int, str | None], suite: str, total: int) -> Result:
    broken, of, example = counts
    aside = rule.line.happens == "row set aside"
    share = broken / of if of else 0.0
    good = share <= (rule.line.limit or 0.0) if aside else not broken
    detail = f"{broken:,} rows, {example} for one" if broken else ""
    if aside and broken:
        detail = f"{broken:,} of {of:,} rows, {example} for one" + (" are set aside" if good else "")
    if rule.key == "foreseen" and broken > of / 2:
        detail += f"; {rule.column} and the event's date look swapped"
    # A rule that sets its rows aside without stopping has failed, too: it is told.
    severity: Literal["critical", "warning"] = "warning" if aside and good else "critical"
    success = not broken
    remedy = "" if success else rule.remedy
    return Result(
        suite, rule.name, rule.column, severity, success, broken, total, detail, remedy=remedy, excludes=aside
    )


def segment_values(
    connection: duckdb.DuckDBPyConnection, portfolio: Portfolio, suite: str, total: int, missing: Mapping[str, int]
) -> list[Result]:
    """Whether values of a segment column are the same but for case or spaces, or read like a missing one.

    Args:
        connection: has the view.
        portfolio: names the segment columns.
        suite: name for the results.
        total: rows of the view.
        missing: rows of each column whose value was missing before it became MISSING.
    """
    results = []
    for column in portfolio.columns.segments:
        name = quoted(column)
        values = f"SELECT {name} AS value, count(*) AS n FROM {VIEW} GROUP BY {name}"  # noqa: S608
        same = "lower(regexp_replace(trim(value), '\\s+', ' ', 'g'))"
        twins = connection.execute(
            f"WITH v AS ({values}) SELECT list(value ORDER BY n DESC, value), CAST(sum(n) - max(n) AS BIGINT) "  # noqa: S608
            f"FROM v WHERE value IS NOT NULL GROUP BY {same} HAVING count(*) > 1 ORDER BY 2 DESC"
        ).fetchall()
        told = [" beside ".join(repr(value[:30]) for value in group) for group, _ in twins[:TWINS_SHOWN]]
        rows = sum(count for _, count in twins)
        literal = connection.execute(f"SELECT count(*) FROM {VIEW} WHERE {name} = ?", [MISSING]).fetchone()  # noqa: S608
        spelt = (literal[0] if literal else 0) - missing.get(column, 0)
        if spelt and missing.get(column):
            told.append(f"{spelt:,} rows say {MISSING!r} beside {missing[column]:,} without a value")
            rows += spelt
        more = f", and {len(twins) - TWINS_SHOWN} more" if len(twins) > TWINS_SHOWN else ""
        rule = "segment values differ by more than case and spaces"
        remedy = "" if not told else f"make them one in {portfolio.source.extract}, as in upper(trim({column}))"
        detail = ", ".join(told) + more
        results.append(Result(suite, rule, column, "warning", not told, rows, total, detail, remedy=remedy))
    return results
