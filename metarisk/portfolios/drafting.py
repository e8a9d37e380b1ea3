"""A first draft of a portfolio from a table's columns: guesses by name, type and a sample, for a person to correct."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from metarisk.domain import ConfigError, Warehouse, quoted
from metarisk.portfolios.days import INDEXED, PATTERN

_SAMPLE_ROWS = 5_000
_MOST_SEGMENTS = 60
_MOST_CATEGORIES = 100

_NAMED = {
    "entity": r"(^|_)(id|key|number|no|ref)$|^id_",
    "opened_on": r"open|orig|issue|start|booked|transaction|trade|price",
    "exit_date": r"exit|prepa|repaid|closed|redeem",
    "known_date": r"known|report|confirm|notif",
    "event_date": r"event|default|fraud|claim|loss|chargeoff|charged",
    "value": r"^(value|target|outcome|loss|realised|realized)",
    "segments": r"region|state|country|product|purpose|segment|sector|merchant|branch|channel|line",
    "protected": r"gender|sex|^age$|age_band|race|ethnic|religio|national|marital|disab|orient",
    "personal": r"name|mail|phone|address|street|postcode|zip|ssn|iban|birth",
}


@dataclass
class _Draft:
    entity: str = ""
    dates: dict[str, str] = field(default_factory=dict)
    value: str | None = None
    segments: list[str] = field(default_factory=list)
    features: dict[str, str] = field(default_factory=dict)
    protected: list[str] = field(default_factory=list)
    personal: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def draft_portfolio(name: str, table: str, warehouse: Warehouse) -> dict[str, str]:
    """Write a first TOML, extract SQL and suite for a table.

    Args:
        name: name of the new portfolio.
        table: `schema.table` in the warehouse.
        warehouse: where the table is; a sample of it is read.

    Returns:
        Text of each file by its path relative to the project. Lines that need a person say CHECK.

    Raises:
        ConfigError: the name cannot name a portfolio, or the table has no rows, no key or no date to start from.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ConfigError(f"{name!r} cannot name a portfolio", remedy="use a-z, 0-9 and _, beginning with a letter")
    relation = ".".join(quoted(part) for part in table.split("."))
    rows = warehouse.rows(f"SELECT * FROM {relation} LIMIT {_SAMPLE_ROWS}")  # noqa: S608
    if not rows:
        raise ConfigError(f"{table} has no rows to guess from", remedy="load it first", portfolio=name)
    draft = _guessed(rows)
    if not draft.entity or "opened_on" not in draft.dates:
        lacking = "unique key" if not draft.entity else "date column"
        raise ConfigError(
            f"{table} has no {lacking} among its columns {', '.join(rows[0])}",
            remedy=f"give the table (or a view of it) a {lacking}",
            portfolio=name,
        )
    return {
        f"portfolios/{name}.toml": _toml(name, draft),
        f"sql/extracts/{name}.sql": _sql(table, relation, draft),
        f"expectations/{name}.json": _suite(name, draft),
    }


def _guessed(rows: list[dict[str, Any]]) -> _Draft:
    draft = _Draft()
    values = {column: [row[column] for row in rows if row[column] is not None] for column in rows[0]}
    dates = [column for column, seen in values.items() if seen and isinstance(seen[0], date | datetime)]
    draft.dates = _date_roles(dates)
    keys = [column for column in values if column not in dates and _is_key(values[column], len(rows))]
    # A book of daily prices repeats its entity, so a name that says id will do where no column is unique.
    named = [column for column in values if column not in dates and _named("entity", column)]
    draft.entity = next((column for column in [*keys, *named] if _named("entity", column)), keys[0] if keys else "")
    if "event_date" not in draft.dates:
        numbers = [column for column, seen in values.items() if seen and isinstance(seen[0], float)]
        draft.value = next((column for column in numbers if _named("value", column)), None)
    for column, seen in values.items():
        if column in (draft.entity, draft.value, *draft.dates.values()):
            continue
        _place(draft, column, seen)
    if not draft.segments:
        coarse = [column for column, kind in draft.features.items() if kind == "categorical"]
        draft.segments = sorted(coarse, key=lambda column: len(set(values[column])))[:1]
    return draft


def _place(draft: _Draft, column: str, seen: list[Any]) -> None:
    distinct = len(set(seen))
    if _named("protected", column):
        draft.protected.append(column)
    elif _named("personal", column):
        draft.personal.append(column)
    elif not seen or distinct == 1:
        draft.unused.append(column)
    elif isinstance(seen[0], date | datetime):
        draft.features[column] = "date-age"
    elif isinstance(seen[0], str | bool):
        if isinstance(seen[0], str) and _named("segments", column) and distinct <= _MOST_SEGMENTS:
            draft.segments.append(column)
        elif distinct <= _MOST_CATEGORIES:
            draft.features[column] = "categorical"
        else:
            draft.unused.append(column)
    else:
        draft.features[column] = "numeric"


def _date_roles(dates: list[str]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for role in ("opened_on", "known_date", "event_date", "exit_date"):
        found = next((column for column in dates if column not in roles.values() and _named(role, column)), None)
        if found is not None:
            roles[role] = found
    if "opened_on" not in roles and (free := [column for column in dates if column not in roles.values()]):
        roles["opened_on"] = free[0]
    return roles


def _is_key(seen: list[Any], rows: int) -> bool:
    return len(seen) == rows and len(set(seen)) == rows and not isinstance(seen[0], float | bool)


def _named(role: str, column: str) -> bool:
    return re.search(_NAMED[role], column.lower()) is not None


def _toml(name: str, draft: _Draft) -> str:
    def quote(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def listed(columns: list[str]) -> str:
        return f"[{', '.join(map(quote, columns))}]"

    event, known = draft.dates.get("event_date"), draft.dates.get("known_date")
    label = [f"event_date = {quote(event)}"] if event else []
    label += [f"value = {quote(draft.value)}"] if draft.value and not event else []
    label = label or ['# CHECK: name the label: event_date = "...", or value = "..."']
    # Without a date of its own the event counts as known on the day it happens.
    known = known or event
    label.append(f"known_date = {quote(known)}" if known else '# CHECK: known_date = "..."')
    if exit_date := draft.dates.get("exit_date"):
        label.append(f"exit_date = {quote(exit_date)}")
    protected = [f"{group} = {listed(getattr(draft, group))}" for group in ("protected", "personal")]
    features = [f'[features.{quote(column)}]\nkind = "{kind}"\n' for column, kind in draft.features.items()]
    unused = [f"# Not used: {', '.join(draft.unused)}."] if draft.unused else []
    return "\n".join(
        [
            "# A first draft, guessed from names, types and a sample. Every line with CHECK is for a person.",
            f"title = {quote(name.replace('_', ' ').capitalize())}",
            'risk = "credit"  # CHECK: the risk type',
            'timezone = "UTC"  # CHECK: where the book\'s days begin; times without a zone are read as local there',
            'calendar = "daily"  # CHECK: daily, business, month_end or table',
            "",
            "[source]",
            f'extract = "{name}.sql"',
            f'suite = "{name}.json"',
            "",
            "[columns]",
            f"entity = {quote(draft.entity)}",
            f"opened_on = {quote(draft.dates['opened_on'])}  # CHECK: where the horizon starts",
            f"segments = {listed(draft.segments)}  # CHECK: parents of the cell",
            *label,
            *protected,
            "",
            "[[targets]]",
            'name = "pd_12m"  # CHECK: the target and its horizon',
            "horizon_months = 12",
            "reporting_lag_days = 30  # CHECK: `metarisk portfolio check` shows the observed lag",
            "",
            *unused,
            *features,
        ]
    )


def _sql(table: str, relation: str, draft: _Draft) -> str:
    opened = quoted(draft.dates["opened_on"])
    known = draft.dates.get("known_date") or draft.dates.get("event_date")
    lines = [quoted(column) for column in (draft.entity, draft.dates["opened_on"])]
    for role in ("event_date", "known_date", "exit_date"):
        if column := draft.dates.get(role):
            guard = quoted(column if role == "exit_date" or known is None else known)
            lines.append(f"CASE WHEN {PATTERN.format(column=guard)} THEN {quoted(column)} END AS {quoted(column)}")
    if draft.value:
        guard = PATTERN.format(column=quoted(known)) if known else "TRUE /* CHECK: known by $as_of? */"
        lines.append(f"CASE WHEN {guard} THEN {quoted(draft.value)} END AS {quoted(draft.value)}")
    others = [*draft.segments, *draft.features, *draft.protected, *draft.personal]
    lines += [quoted(column) for column in dict.fromkeys(others)]
    return (
        f"-- Every row of {table} opened by $as_of; what became known later is null.\n"
        "-- CAST gives a row's day in the portfolio's time zone; the bound beside it lets an index serve.\nSELECT\n    "
        + ",\n    ".join(lines)
        + f"\nFROM {relation}\nWHERE {INDEXED.format(column=opened)}\n"
    )


def _suite(name: str, draft: _Draft) -> str:
    def rule(kind: str, severity: str, **kwargs: object) -> dict[str, object]:
        return {"type": kind, "severity": severity, "kwargs": kwargs}

    opened = draft.dates["opened_on"]
    rules = [
        rule("expect_column_values_to_not_be_null", "critical", column=opened),
        rule("expect_column_values_to_be_between", "critical", column=opened, max_value="$as_of"),
    ]
    if known := draft.dates.get("known_date") or draft.dates.get("event_date"):
        rules.append(rule("expect_column_values_to_be_between", "critical", column=known, max_value="$as_of"))
    rules += [
        rule("expect_column_values_to_not_be_null", "warning", column=column, mostly=0.5) for column in draft.features
    ]
    return json.dumps({"name": name, "expectations": rules}, indent=2, ensure_ascii=False) + "\n"
