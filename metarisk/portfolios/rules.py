"""Rules between the keys of a portfolio, which types alone cannot state. Pure: no file and no database is read."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from zoneinfo import ZoneInfo

from metarisk.domain import WHOLE_BOOK, Portfolio, RiskSpec

MOST_PARTITIONS = 64
"""Each one is a connection to the warehouse."""
_LABEL_ROLES = ("label", "event_date", "known_date", "value", "exit_date", "booked_on", "settled_on")


@dataclass(frozen=True)
class Broken:
    """A rule that a portfolio breaks: what is wrong and what to do about it."""

    what: str
    remedy: str
    column: str | None = None


def unlike_label(spec: RiskSpec, event: str | None, value: str | None) -> Broken | None:
    """Where a risk type predicts another kind of label than the column that is one."""
    if spec.label == "value" and event and not value:
        what = f"risk {spec.name} predicts a number, and the label {event} is an event or a flag"
        return Broken(what, "name a number as the label (`columns.value`), or take a risk type of events", event)
    if spec.label == "event" and value and not event:
        what = f"risk {spec.name} predicts an event, and the label {value} is a number"
        return Broken(what, "name a date or a flag as the label, or take a risk type of numbers", value)
    return None


def broken_rules(portfolio: Portfolio) -> Iterator[Broken]:
    """The rules that `portfolio` breaks, the most telling first."""
    yield from _targets(portfolio)
    yield from _label(portfolio)
    yield from _roles(portfolio)
    yield from _features(portfolio)
    yield from _time(portfolio)
    yield from _ranges(portfolio)
    yield from _scorecard(portfolio)


def _targets(portfolio: Portfolio) -> Iterator[Broken]:
    if not portfolio.targets:
        yield Broken("there is no [[targets]]", "name at least one target with its horizon")
    for name, times in Counter(target.name for target in portfolio.targets).items():
        if times > 1:
            yield Broken(f"two targets are called {name!r}", "give every target a name of its own")
    for number, target in enumerate(portfolio.targets):
        key = f"targets[{number}]"
        if portfolio.columns.matures_on and re.search(r"_\d+[md]$", target.name):
            remedy = f"call it {target.name.rsplit('_', 1)[0]}_lifetime"
            yield Broken(f"`{key}.name` is {target.name!r}, but its horizon ends with the contract", remedy)
        if not target.name.strip():
            yield Broken(f"`{key}.name` is empty", "name the target")
        lags = (target.reporting_lag_months, target.reporting_lag_days)
        if min(target.horizon_months, target.horizon_days, *lags) < 0:
            yield Broken(f"`{key}` has a negative horizon or reporting lag", "use 0 or more")
        elif target.horizon_months + target.horizon_days == 0:
            yield Broken(f"`{key}` has no horizon", f"set `{key}.horizon_months` or `{key}.horizon_days` above 0")


def _label(portfolio: Portfolio) -> Iterator[Broken]:
    columns = portfolio.columns
    if columns.label is not None:
        for role in ("event_date", "known_date", "value", "settled_on"):
            if getattr(columns, role) is not None:
                yield Broken(
                    f"`columns.label` is a flag without dates, and `columns.{role}` is there too",
                    f"take `columns.{role}` out, or `columns.label` where the dates are to be believed",
                    columns.label,
                )
    elif columns.event_date is None and columns.value is None:
        yield Broken(
            "there is no label",
            "name `columns.event_date` (when the event happened), `columns.value` (a number) or `columns.label` (a "
            "flag)",
        )
    elif columns.known_date is None:
        yield Broken(
            "`columns.known_date` is missing, so nobody could say when a label was known",
            "name the column with the date on which the lender knew of it",
        )


def _roles(portfolio: Portfolio) -> Iterator[Broken]:
    columns = portfolio.columns
    if WHOLE_BOOK in columns.segments:
        remedy = "write `segments = []` for a book without segment columns, or rename the column in the extract"
        yield Broken("it is the segment of a book that has no segment columns", remedy, WHOLE_BOOK)
    if portfolio.population == "application" and columns.booked_on is None:
        yield Broken(
            '`population` is "application" but no `columns.booked_on`: rejected rows would be taken for good ones',
            "name the date column that is null for rows that were never booked",
        )
    role_of: dict[str, str] = {}
    roles = [(role, getattr(columns, role)) for role in ("entity", "opened_on", "matures_on", *_LABEL_ROLES)]
    for role, column in (*roles, *(("segments", column) for column in columns.segments)):
        if column is None:
            continue
        taken = role_of.setdefault(column, role)
        # One date may serve as both: the event is known on the day it happens.
        if taken != role and {taken, role} != {"event_date", "known_date"}:
            yield Broken(f"one column is both `columns.{taken}` and `columns.{role}`", "name two columns", column)
    for column, times in Counter(columns.segments).items():
        if times > 1:
            yield Broken("`columns.segments` names it twice", "name it once", column)
    for group in ("protected", "personal"):
        for column in getattr(columns, group):
            if column in columns.segments:
                yield Broken(
                    f"a {group} column is a segment column, and segment names are published",
                    f"take it out of `columns.segments`, or out of `columns.{group}`",
                    column,
                )


def _features(portfolio: Portfolio) -> Iterator[Broken]:
    columns = portfolio.columns
    if not portfolio.features:
        yield Broken("there are no [features]", "name at least one")
    forbidden = dict.fromkeys(columns.protected, "is protected: it may be watched for fairness, never learned")
    forbidden |= {columns.entity: "is the entity's key", columns.opened_on: "is where the horizon starts"}
    forbidden |= {
        column: f"is `columns.{role}`, which tells the outcome"
        for role in _LABEL_ROLES
        if (column := getattr(columns, role)) is not None
    }
    for name, feature in portfolio.features.items():
        if name in forbidden:
            yield Broken(f"a feature {forbidden[name]}", f"take [features.{name}] out", name)
        if name in columns.segments and feature.kind != "categorical":
            yield Broken(f"a segment column is a {feature.kind} feature", 'make its kind "categorical"', name)
        if feature.kind == "categorical" and feature.monotone:
            yield Broken("a categorical feature has a `monotone` direction", "take `monotone` out", name)


def _time(portfolio: Portfolio) -> Iterator[Broken]:
    try:
        ZoneInfo(portfolio.timezone)
    except (KeyError, ValueError, OSError):  # unknown; not relative; a folder of zones
        yield Broken(
            f"`timezone` is {portfolio.timezone[:80]!r}, which is no time zone", 'use an IANA name: "Europe/Berlin"'
        )
    if portfolio.calendar == "table" and portfolio.calendar_sql is None:
        yield Broken('`calendar` is "table" but there is no `calendar_sql`', "write the SELECT that yields its dates")
    if portfolio.calendar != "table" and portfolio.calendar_sql is not None:
        yield Broken(
            f'`calendar_sql` is there but `calendar` is "{portfolio.calendar}"',
            'set `calendar = "table"` or take `calendar_sql` out',
        )


def _ranges(portfolio: Portfolio) -> Iterator[Broken]:
    limits = portfolio.thresholds
    shares = {
        "source.min_rows_vs_median": portfolio.source.min_rows_vs_median,
        "thresholds.max_unseen_share": limits.max_unseen_share,
    }
    for key, share in shares.items():
        if not 0 <= share <= 1:
            yield Broken(f"`{key}` is {share}", "use a share from 0 to 1")
    least = {
        "source.deadline_minutes": (portfolio.source.deadline_minutes, 0),
        "thresholds.min_support_rows": (limits.min_support_rows, 0),
        "thresholds.min_support_events": (limits.min_support_events, 0),
        "thresholds.max_support_rows": (limits.max_support_rows, 1),
        "thresholds.max_training_rows": (limits.max_training_rows, 1),
        "thresholds.share_events": (limits.share_events, 0),
        "thresholds.max_model_age_days": (limits.max_model_age_days, 1),
        "thresholds.alert_budget": (limits.alert_budget, 0),
        "thresholds.alert_close_nights": (limits.alert_close_nights, 1),
        "thresholds.min_vanished_rows": (1 if limits.min_vanished_rows is None else limits.min_vanished_rows, 1),
        "validation.folds": (portfolio.validation.folds, 1),
        "validation.fold_months": (portfolio.validation.fold_months, 1),
    }
    for key, (value, lowest) in least.items():
        if value < lowest:
            yield Broken(f"`{key}` is {value}", f"use {lowest} or more")
    # Written so that NaN breaks them too.
    if limits.max_score_move is not None and not limits.max_score_move > 0:
        yield Broken(f"`thresholds.max_score_move` is {limits.max_score_move}", "use a number above 0")
    if limits.max_score_stretch is not None and not limits.max_score_stretch > 1:
        yield Broken(f"`thresholds.max_score_stretch` is {limits.max_score_stretch}", "use a number above 1")
    if limits.min_score_agreement is not None and not -1 <= limits.min_score_agreement < 1:
        yield Broken(f"`thresholds.min_score_agreement` is {limits.min_score_agreement}", "use -1 or more, below 1")
    if not 1 <= portfolio.source.partitions <= MOST_PARTITIONS:
        yield Broken(f"`source.partitions` is {portfolio.source.partitions}", f"use 1 to {MOST_PARTITIONS}")
    for recipe, times in Counter(portfolio.candidates).items():
        if times > 1:
            yield Broken(f"`candidates` names {recipe!r} twice", "name it once")


def _scorecard(portfolio: Portfolio) -> Iterator[Broken]:
    card, columns = portfolio.scorecard, portfolio.columns
    # Written so that NaN breaks them too.
    for key, value in (("odds", card.odds), ("pdo", card.pdo)):
        if not 0 < value < float("inf"):
            yield Broken(f"`scorecard.{key}` is {value}", "use a number above 0")
    if not 0 <= card.asset_correlation < 1:
        yield Broken(f"`scorecard.asset_correlation` is {card.asset_correlation}", "use a number from 0 to below 1")
    for key, share in (("scorecard.cut", card.cut), ("reasons.share", portfolio.reasons.share)):
        if not 0 <= share <= 1:
            yield Broken(f"`{key}` is {share}", "use a share from 0 to 1")
    bounds = [0.0, *(grade.upper for grade in card.grades)]
    if bounds[-1] != 1 or not all(low < high for low, high in pairwise(bounds)):
        yield Broken(
            f"the bounds of `scorecard.grades` are {bounds[1:]}", "let them rise from above 0 to 1, best grade first"
        )
    for name, times in Counter(grade.name for grade in card.grades).items():
        if times > 1 or not name.strip():
            yield Broken(f"`scorecard.grades` has {times} grades called {name!r}", "give every grade a name of its own")
    if (columns.lgd is None) != (columns.ead is None):
        there, absent = ("ead", "lgd") if columns.lgd is None else ("lgd", "ead")
        yield Broken(
            f"`columns.{there}` is there but `columns.{absent}` is not, and an expected loss takes both",
            f"name `columns.{absent}`, or take `columns.{there}` out",
        )
