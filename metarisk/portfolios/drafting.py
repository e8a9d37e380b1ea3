"""A first draft of a portfolio from a whole table, for a person to correct: TOML, extract SQL and suite.

What the columns mean is `deciding`; here it becomes text.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from metarisk.domain import ConfigError, quoted
from metarisk.domain.database import Source
from metarisk.portfolios.bars import RISKS as RISKS_OF_BARS
from metarisk.portfolios.bars import bars_of, draft_bars, rule
from metarisk.portfolios.days import INDEXED, PATTERN
from metarisk.portfolios.deciding import require_columns, roles_of
from metarisk.portfolios.horizons import Horizon, horizon_of
from metarisk.portfolios.profile import Profile, read_profile
from metarisk.portfolios.roles import Decision, Roles, Wanted
from metarisk.portfolios.rules import unlike_label
from metarisk.risks import RISKS


@dataclass(frozen=True)
class Draft:
    """Files of a portfolio to be, by path relative to the project, and what was decided of each column."""

    files: Mapping[str, str]
    decisions: Sequence[Decision]


def draft_portfolio(name: str, table: str, source: Source, wanted: Wanted | None = None) -> Draft:
    """Write a first TOML, extract SQL and suite for a table.

    Args:
        name: name of the new portfolio.
        table: `schema.table` of the source.
        source: where the table is; all of it is read, and nothing is written.
        wanted: what the user says instead of a guess.

    Returns:
        Files and decisions. Lines and decisions that need a person say CHECK.

    Raises:
        ConfigError: the name cannot name a portfolio, a column that was named does not exist, or the table has no rows,
            no key, no date to start from, or columns that case alone tells apart.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ConfigError(f"{name!r} cannot name a portfolio", remedy="use a-z, 0-9 and _, beginning with a letter")
    profile = read_profile(table, source, name)
    wanted = wanted or Wanted()
    require_columns(profile, wanted, name)
    if (bars := bars_of(profile, wanted)) is not None:
        return Draft(*draft_bars(name, profile, bars, wanted))
    if wanted.risk in RISKS_OF_BARS and not wanted.label:
        raise ConfigError(
            f"{table} has no bars: a row for each asset and day, with a price or a return",
            remedy="name asset and day with --entity and --opened, or the value that is predicted with --label",
            portfolio=name,
        )
    roles = roles_of(profile, wanted, name)
    if roles.kinds:
        roles.decisions = [
            replace(one, why=f"{one.why}; {roles.kinds}", check=True) if one.column == roles.event_date else one
            for one in roles.decisions
        ]
    horizon = horizon_of(roles, profile, wanted, name)
    risk = _risk(roles, horizon, wanted)
    if broken := unlike_label(RISKS[risk], roles.label or roles.event_date, roles.value):
        raise ConfigError(broken.what, remedy=broken.remedy, portfolio=name, column=broken.column)
    files = {
        f"portfolios/{name}.toml": _toml(name, roles, horizon, risk),
        f"sql/extracts/{name}.sql": _sql(roles, profile, horizon),
        f"expectations/{name}.json": _suite(name, roles, profile),
    }
    return Draft(files, roles.decisions)


def _risk(roles: Roles, horizon: Horizon, wanted: Wanted) -> str:
    if wanted.risk:
        return wanted.risk
    if roles.value:
        return "operational"
    names = (roles.event_date, roles.known_date, roles.label)
    at_once = horizon.days and not wanted.horizon
    return "fraud" if at_once or any("fraud" in name.lower() for name in names) else "credit"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _listed(columns: list[str]) -> str:
    return f"[{', '.join(map(_quote, columns))}]"


def _toml(name: str, roles: Roles, horizon: Horizon, risk: str) -> str:
    protected = [f"{group} = {_listed(getattr(roles, group))}" for group in ("protected", "personal")]
    features = [f'[features.{_quote(column)}]\nkind = "{kind}"\n' for column, kind in roles.features.items()]
    asked = {decision.column: decision for decision in roles.decisions if decision.check}
    doubts = [
        f"# CHECK: {_quote(column)} is left out: {asked[column].why}" for column in roles.left_out if column in asked
    ]
    rest = [column for column in roles.left_out if column not in asked]
    unused = [f"# Not used: {', '.join(rest)}."] if rest else []
    length = f"horizon_months = {horizon.months}" if horizon.months else f"horizon_days = {horizon.days}"
    ends = [f"matures_on = {_quote(roles.matures_on)}  # CHECK: the contract's end, and the horizon's"]
    return "\n".join(
        [
            "# A first draft, guessed from the whole table by what values do. Every line with CHECK is for a person.",
            f"title = {_quote(name.replace('_', ' ').capitalize())}",
            f'risk = "{risk}"  # CHECK: the risk type',
            'timezone = "UTC"  # CHECK: where the book\'s days begin; times without a zone are read as local there',
            'calendar = "daily"  # CHECK: daily, business, month_end or table',
            "",
            "[source]",
            f'extract = "{name}.sql"',
            f'suite = "{name}.json"',
            "",
            "[columns]",
            f"entity = {_quote(roles.entity)}",
            f"opened_on = {_quote(roles.opened_on)}  # CHECK: where the horizon starts",
            f"segments = {_listed(roles.segments)}  # CHECK: parents of the cell; [] is one segment",
            *(ends if roles.matures_on else []),
            *_label_lines(roles),
            *protected,
            "",
            "[[targets]]",
            f'name = "{_target(risk, roles, horizon)}"  # CHECK: the target and its horizon',
            f"{length}  # CHECK: {horizon.why or 'the time in which the event counts'}",
            f"reporting_lag_days = {horizon.lag}  # {'' if horizon.lag_seen else 'CHECK: '}{horizon.lag_why}",
            "",
            *doubts,
            *unused,
            *([""] if doubts or unused else []),
            *features,
        ]
    )


def _target(risk: str, roles: Roles, horizon: Horizon) -> str:
    length = f"{horizon.months}m" if horizon.months else f"{horizon.days}d"
    length = "lifetime" if roles.matures_on else length
    return {"credit": f"pd_{length}", "fraud": f"fraud_{length}"}.get(risk, f"{risk}_{length}")


def _label_lines(roles: Roles) -> list[str]:
    if roles.label:
        lines = [f"label = {_quote(roles.label)}  # CHECK: a flag without dates (docs/portfolios.md)"]
    elif roles.event_date:
        # Without a date of its own the event counts as known on the day it happens.
        known = f"known_date = {_quote(roles.known_date or roles.event_date)}"
        doubt = f"  # CHECK: {roles.kinds}" if roles.kinds else ""
        lines = [f"event_date = {_quote(roles.event_date)}{doubt}"]
        lines.append(known if roles.known_date else f"{known}  # CHECK: no column says when it was known")
    elif roles.value:
        known = roles.known_date or _known_of(roles)
        lines = [f"value = {_quote(roles.value)}  # CHECK: the number that is predicted"]
        lines.append(f"known_date = {_quote(known)}" + ("" if roles.known_date else "  # CHECK: the horizon's end"))
        lines += [f"exposure = {_quote(roles.exposure)}"] if roles.exposure else []
    else:
        lines = ['# CHECK: name the label: event_date = "...", label = "..." or value = "..."']
        lines.append('# CHECK: known_date = "..."')
    return lines + ([f"exit_date = {_quote(roles.exit_date)}"] if roles.exit_date else [])


def _known_of(roles: Roles) -> str:
    return f"{roles.value}_known_on"


def _sql(roles: Roles, profile: Profile, horizon: Horizon) -> str:
    columns = profile.columns
    opened = columns[roles.opened_on].sql

    def plain(name: str) -> str:
        sql = columns[name].sql
        return sql if sql == quoted(name) else f"{sql} AS {quoted(name)}"

    def guarded(name: str, guard: str, sql: str = "") -> str:
        known = PATTERN.format(column=columns[guard].sql)
        return f"CASE WHEN {known} THEN {sql or columns[name].sql} END AS {quoted(name)}"

    lines = [plain(roles.entity), plain(roles.opened_on)]
    if roles.event_date:
        known = roles.known_date or roles.event_date
        lines += [guarded(name, known) for name in dict.fromkeys((roles.event_date, known))]
    if roles.exit_date:
        lines.append(guarded(roles.exit_date, roles.exit_date))
    lines += [plain(roles.matures_on)] if roles.matures_on else []
    months, days = horizon.months, horizon.days
    if roles.label or (roles.value and not roles.known_date):
        lag = horizon.lag + days
        due = f"CAST({opened} + INTERVAL '{months} months' + INTERVAL '{lag} days' AS DATE)"
        if roles.matures_on:
            ends = columns[roles.matures_on].sql
            due = f"LEAST({due}, CAST({ends} + INTERVAL '{horizon.lag} days' AS DATE))"
        told = quoted(roles.label or roles.value)
        if roles.event_value:
            event = "'" + roles.event_value.replace("'", "''") + "'"
            told = f"CASE WHEN {told} = {event} THEN 1 WHEN {told} IS NOT NULL THEN 0 END"
        lines.append(f"CASE WHEN {due} <= $as_of THEN {told} END AS {quoted(roles.label or roles.value)}")
        if roles.value:
            lines.append(f"CASE WHEN {due} <= $as_of THEN {due} END AS {quoted(_known_of(roles))}")
    elif roles.value:
        lines += [guarded(name, roles.known_date) for name in (roles.value, roles.known_date)]
    lines += [plain(roles.exposure)] if roles.exposure else []
    others = [*roles.segments, *roles.features, *roles.protected, *roles.personal]
    lines += [plain(column) for column in dict.fromkeys(others)]
    return (
        f"-- Every row of {profile.table} opened by $as_of; what became known later is null.\n"
        "-- CAST gives a row's day in the portfolio's time zone; the bound beside it lets an index serve.\nSELECT\n    "
        + ",\n    ".join(lines)
        + f"\nFROM {profile.relation}\nWHERE {INDEXED.format(column=opened)}\n"
    )


def _suite(name: str, roles: Roles, profile: Profile) -> str:
    """Rules that the table keeps as it is."""
    opened = roles.opened_on
    rules = [
        rule("expect_column_values_to_not_be_null", "critical", column=opened),
        rule("expect_column_values_to_be_between", "critical", column=opened, max_value="$as_of"),
    ]
    if known := roles.known_date or roles.event_date:
        rules.append(rule("expect_column_values_to_be_between", "critical", column=known, max_value="$as_of"))
    for column in roles.features:
        # A column may lose some of what it has before somebody must look: a fifth of its gap, or of its values.
        share = profile.share(column)
        mostly = max(0.0, math.floor(100 * (share - max(0.01, 0.2 * min(share, 1 - share)))) / 100)
        if mostly > 0:
            rules.append(rule("expect_column_values_to_not_be_null", "warning", column=column, mostly=mostly))
    return json.dumps({"name": name, "expectations": rules}, indent=2, ensure_ascii=False) + "\n"
