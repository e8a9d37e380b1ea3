"""What the columns of a table are: told by what their values do, with names as hints. Pure: a Profile in, roles out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from metarisk.domain import ConfigError, did_you_mean
from metarisk.portfolios.profile import Column, Profile
from metarisk.portfolios.telling import Told, outcome_told

MOST_SEGMENT_VALUES = 1_000
LEAST_ROWS_OF_CELL = 20
"""Rows of a cell, on average, that a further segment column must leave."""
MOST_CATEGORIES = 100
SPARSE = 0.8
"""Share of rows that have a date, at most, if it is that of an outcome."""
NEARLY_ALL = 0.99

NAMED: Mapping[str, str] = {
    "entity": r"(^|_)(id|key|number|no|nr|ref)($|_)|^id|id$|number$",
    "opened_on": r"open|orig|issue|start|booked|approv|transaction|trade|price|claimed|made|datetime",
    "exit_date": r"exit|prepa|repaid|closed|redeem|paid_off",
    "known_date": r"known|report|confirm|notif|recorded",
    "event_date": r"event|default|fraud|claim|loss|charge|chg|written",
    "matures_on": r"matur|expir|contract_end|end_date|due",
    "label": r"^(y|label|target|outcome|bad|flag)$|default|fraud|churn|status|charge|chg|loss",
    "value": r"^(value|target|outcome|loss|realised|realized)|^num_|count|injur",
    "exposure": r"hours|hrs_total|exposure_|policies|headcount",
    "segments": r"region|state|country|product|purpose|segment|sector|merchant|branch|channel|line|make|type|commodity",
    "protected": r"gender|sex|^age$|age_band|race|ethnic|religio|national|marital|disab|orient",
    "personal": r"name|mail|phone|address|street|postcode|zip|ssn|iban|birth",
}
Role = Literal["entity", "opened_on", "event_date", "known_date", "exit_date", "label", "value", "exposure"]


@dataclass(frozen=True)
class Decision:
    """What was made of one column, and why; `check`: a person must look."""

    column: str
    role: str
    why: str
    check: bool = False


@dataclass(frozen=True)
class Wanted:
    """What the user says instead of a guess; empty: guess."""

    entity: str = ""
    opened: str = ""
    event: str = ""
    known: str = ""
    label: str = ""
    segments: tuple[str, ...] | None = None
    risk: str = ""


@dataclass
class Roles:
    """The columns of a portfolio to be, and what was decided of each column of the table."""

    entity: str = ""
    opened_on: str = ""
    event_date: str = ""
    known_date: str = ""
    exit_date: str = ""
    label: str = ""
    value: str = ""
    exposure: str = ""
    event_value: str = ""
    """Of a label that is text: the value that is the event."""
    segments: list[str] = field(default_factory=list)
    features: dict[str, str] = field(default_factory=dict)
    protected: list[str] = field(default_factory=list)
    personal: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def take(self, role: Role, column: str, why: str, *, check: bool = False) -> None:
        """Give a column a role that one column has."""
        setattr(self, role, column)
        self.decisions.append(Decision(column, role, why, check))

    def leave(self, column: str, role: str, why: str, *, check: bool = False) -> None:
        """Use a column for nothing."""
        self.left_out.append(column)
        self.decisions.append(Decision(column, role, why, check))

    @property
    def taken(self) -> set[str]:
        """Columns that have been decided."""
        return {decision.column for decision in self.decisions}


def named(role: str, column: str) -> bool:
    """Whether a column's name hints at a role."""
    return re.search(NAMED[role], re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()) is not None


def roles_of(profile: Profile, wanted: Wanted, portfolio: str) -> Roles:
    """Decide every column.

    Raises:
        ConfigError: a column that was named does not exist, or the table has no key or no date to start from.
    """
    roles = Roles()
    _dates(roles, profile, wanted, portfolio)
    _entity(roles, profile, wanted, portfolio)
    _label(roles, profile, wanted)
    for column in profile.columns.values():
        if column.name not in roles.taken:
            _without_use(roles, profile, column)
    told = _told(roles, profile)
    free = [name for name in profile.columns if name not in roles.taken]
    for name in free:
        if why := outcome_told(profile.sample[name], told, profile.sample[roles.opened_on]):
            roles.leave(name, "outcome?", f"{why}: no feature unless it was known at opening", check=True)
    _segments(roles, profile, wanted)
    for name in free:
        if name not in roles.taken:
            _feature(roles, profile, profile.columns[name])
    order = list(profile.columns)
    roles.decisions.sort(key=lambda decision: order.index(decision.column))
    return roles


def require_columns(profile: Profile, wanted: Wanted, portfolio: str) -> None:
    """Raise ConfigError where a column that was named does not exist."""
    names = (wanted.entity, wanted.opened, wanted.event, wanted.known, wanted.label, *(wanted.segments or ()))
    for name in filter(None, names):
        if name not in profile.columns:
            raise ConfigError(
                f"{profile.table} has no column {name}{did_you_mean(name, profile.columns)}",
                remedy=f"name one of {', '.join(profile.columns)}",
                portfolio=portfolio,
                column=name,
            )


# dates


def _dates(roles: Roles, profile: Profile, wanted: Wanted, portfolio: str) -> None:
    for column in profile.columns.values():
        if len(column.forms) > 1:
            both = " or ".join(form.name for form in column.forms[:2])
            why = f"text that is a date as {both}: no value tells which; cast it in a view"
            roles.leave(column.name, "date?", why, check=True)
    dates = [name for name, one in profile.columns.items() if one.kind == "date" and one.nulls < profile.rows]
    opened = wanted.opened or _opened(dates, profile, {wanted.event, wanted.known})
    if not opened or profile.columns[opened].kind != "date":
        raise ConfigError(
            f"{profile.table} has no date column to start from among {', '.join(profile.columns)}"
            if not opened
            else f"{opened} holds {profile.columns[opened].type}, which is no date in one form",
            remedy="give the table (or a view of it) a date column, and name it with --opened",
            portfolio=portfolio,
            column=opened or None,
        )
    gaps = profile.columns[opened].nulls
    why = "named by --opened" if wanted.opened else "a date in every row, from which the other dates follow"
    if gaps:
        why += f"; {gaps:,} of {profile.rows:,} rows have none and are left out"
    roles.take("opened_on", opened, why + _cast(profile, opened), check=not wanted.opened)
    _after(roles, profile, wanted, [name for name in dates if name != opened])


def _opened(dates: Sequence[str], profile: Profile, taken: set[str]) -> str:
    """The date from which the others run: the newest of those that (nearly) every row has and no outcome precedes."""
    free = [name for name in dates if name not in taken]
    most = max((profile.share(name) for name in free), default=0.0)
    full = [name for name in free if profile.share(name) >= most - 0.001]
    sparse = [name for name in dates if profile.share(name) < SPARSE]
    fits = [name for name in full if all(_order(profile.sample, name, other) >= 0.95 for other in sparse)] or full
    hinted = [name for name in fits if named("opened_on", name) and not named("matures_on", name)]
    later = [name for name in fits if not named("matures_on", name)] or fits
    newest = sorted(later, key=lambda name: -_middle(profile.sample, name))
    return next(iter([*hinted, *(newest if sparse else later)]), "")


def _middle(sample: pl.DataFrame, name: str) -> float:
    middle = sample[name].cast(pl.Int32).median()
    return float(middle) if isinstance(middle, int | float) else 0.0


def _order(sample: pl.DataFrame, first: str, second: str) -> float:
    """Share of the rows that have both dates in which the second is not before the first; 1 where none has."""
    both = sample.select(first, second).drop_nulls() if first != second else sample.select(first)
    return 1.0 if first == second or both.is_empty() else float((both[first] <= both[second]).mean())  # type: ignore[arg-type]


def _after(roles: Roles, profile: Profile, wanted: Wanted, dates: Sequence[str]) -> None:
    """Event, known and exit among the dates that follow the opening; what else follows it is no feature."""
    sample, opened = profile.sample, roles.opened_on
    follow = [name for name in dates if _order(sample, opened, name) >= NEARLY_ALL]
    outcomes = [name for name in follow if profile.share(name) < SPARSE and name not in (wanted.event, wanted.known)]
    event = wanted.event or ("" if wanted.label else _event(outcomes, sample, wanted.known))
    if event:
        why = "named by --event" if wanted.event else "a date after opening that few rows have"
        roles.take("event_date", event, why + _cast(profile, event), check=not wanted.event)
        twins = [name for name in outcomes if name != event and _together(sample, event, name) >= 0.9]
        later = [name for name in twins if _order(sample, event, name) >= 0.95]
        known = wanted.known or next(iter(sorted(later, key=lambda name: not named("known_date", name))), "")
        if known:
            share = f"{_order(sample, event, known):.1%} of events are not after it"
            roles.take("known_date", known, ("named by --known; " if wanted.known else "") + share)
    for name in outcomes:
        if name in roles.taken:
            continue
        apart = event and _together(sample, event, name) < 0.1
        if apart and not roles.exit_date and not wanted.label:
            roles.take("exit_date", name, "a date after opening of rows without the event", check=True)
        else:
            roles.leave(name, "outcome?", "a date after opening: no feature", check=True)
    for name in dates:
        after = 1 - _order(sample, name, opened)
        if name in roles.taken or after <= 1 - NEARLY_ALL:
            continue
        if profile.share(name) >= SPARSE and _order(sample, opened, name) >= NEARLY_ALL and named("matures_on", name):
            why = "a date after opening that every row has: the contract's end? See `matures_on` in docs/portfolios.md"
            roles.leave(name, "matures_on?", why, check=True)
        else:
            roles.leave(name, "date after opening", f"after opening in {after:.0%} of rows: no feature", check=True)


def _event(outcomes: Sequence[str], sample: pl.DataFrame, known: str) -> str:
    """Of dates after opening that of the event: the first of a pair that comes together, else the one so named."""
    if known:
        together = [name for name in outcomes if _together(sample, known, name) >= 0.9]
        return next(iter(together), "")
    paired = [
        name
        for name in outcomes
        if any(
            other != name and _together(sample, name, other) >= 0.9 and _order(sample, name, other) >= 0.95
            for other in outcomes
        )
    ]
    hinted = [name for name in outcomes if named("event_date", name) and not named("exit_date", name)]
    others = [name for name in outcomes if not named("exit_date", name)]
    both = [name for name in paired if name in hinted]
    return next(iter([*both, *paired, *hinted, *others]), "")


def _together(sample: pl.DataFrame, first: str, second: str) -> float:
    """Rows that have both dates as a share of those that have either."""
    one, other = sample[first].is_not_null(), sample[second].is_not_null()
    return float((one & other).sum()) / max(float((one | other).sum()), 1.0)


def _cast(profile: Profile, name: str) -> str:
    forms = profile.columns[name].forms
    return f"; text, cast from {forms[0].name}" if forms else ""


# key and label


def _entity(roles: Roles, profile: Profile, wanted: Wanted, portfolio: str) -> None:
    if wanted.entity:
        roles.take("entity", wanted.entity, "named by --entity")
        return
    keys = [
        name
        for name, column in profile.columns.items()
        if column.kind in ("text", "whole") and not column.nulls and not column.forms and name not in roles.taken
    ]
    unique = [name for name in keys if profile.sample[name].n_unique() == profile.sample.height]
    best = next((name for name in unique if named("entity", name)), unique[0] if unique else "")
    if best:
        roles.take("entity", best, "another value in every row", check=not named("entity", best))
        return
    opened = roles.opened_on
    pairs = [name for name in keys if profile.sample.select(name, opened).n_unique() == profile.sample.height]
    best = next((name for name in pairs if named("entity", name)), pairs[0] if pairs else "")
    if not best or profile.sample[best].n_unique() < 2:
        raise ConfigError(
            f"{profile.table} has no unique key among its columns {', '.join(profile.columns)}",
            remedy="give the table (or a view of it) a unique key, and name it with --entity",
            portfolio=portfolio,
        )
    roles.take("entity", best, f"one row for each of its values and {opened}", check=True)


def _label(roles: Roles, profile: Profile, wanted: Wanted) -> None:
    if wanted.label:
        kind = profile.columns[wanted.label].kind
        few = profile.sample[wanted.label].drop_nulls().n_unique() <= 2
        if few or kind == "flag":
            _flag(roles, profile, wanted.label, "named by --label", check=False)
        else:
            roles.take("value", wanted.label, "named by --label: a number")
    elif not roles.event_date:
        repeated = profile.sample[roles.entity].n_unique() < profile.sample.height
        free = [column for column in profile.columns.values() if column.name not in roles.taken]
        flags = [] if repeated else [one.name for one in free if _is_flag(one, profile.sample[one.name])]
        hinted = [name for name in flags if named("label", name)]
        if hinted or len(flags) == 1:
            others = [name for name in flags if name != (hinted or flags)[0]]
            why = "a flag" + (f"; others are {', '.join(others)}" if others else "")
            _flag(roles, profile, (hinted or flags)[0], why, check=True)
        else:
            numbers = [one.name for one in free if one.kind in ("number", "whole") and named("value", one.name)]
            if numbers:
                roles.take("value", numbers[0], "a number so named", check=True)
    if roles.value:
        for name, column in profile.columns.items():
            if column.kind in ("number", "whole") and name not in roles.taken and named("exposure", name):
                least = profile.sample[name].drop_nulls().min()
                if isinstance(least, int | float) and least > 0 and not column.nulls:
                    roles.take("exposure", name, "above 0 in every row", check=True)
                    break


def _is_flag(column: Column, values: pl.Series) -> bool:
    seen = set(values.drop_nulls().unique().to_list())
    if column.kind == "flag" or (column.kind in ("whole", "number") and seen == {0, 1}):
        return len(seen) == 2
    return column.kind == "text" and len(seen) == 2 and named("label", column.name)


def _flag(roles: Roles, profile: Profile, name: str, why: str, *, check: bool) -> None:
    values = profile.sample[name].drop_nulls()
    counts = values.value_counts().sort("count", name)
    if profile.columns[name].kind == "text" and counts.height:
        roles.event_value = str(counts[name][0])
        why += f"; {roles.event_value!r}, the rarer value, is taken for the event"
        check = True
    gaps = f"; {profile.columns[name].nulls:,} rows have none" if profile.columns[name].nulls else ""
    roles.take("label", name, f"{why}, without dates{gaps}", check=check)


def _told(roles: Roles, profile: Profile) -> Told | None:
    """Labels of the older rows of the sample: those of young ones are still to come."""
    sample = profile.sample
    if roles.event_date:
        y = sample[roles.event_date].is_not_null()
        delay = (sample[roles.event_date] - sample[roles.opened_on]).dt.total_days().quantile(0.5) or 0.0
        last = sample[roles.opened_on].cast(pl.Int32).max()
        old = sample[roles.opened_on].cast(pl.Int32) <= float(last or 0) - delay  # type: ignore[arg-type]
        rows = old if int(y.filter(old).sum()) >= 20 else pl.repeat(True, sample.height, eager=True)
    elif roles.label:
        rows = sample[roles.label].is_not_null()
        flag = sample[roles.label]
        y = flag == roles.event_value if roles.event_value else flag.cast(pl.Float64) == 1
    else:
        return None
    # Years in which most rows have the event are a selected remainder: whatever belongs to them would seem to tell it.
    rates = pl.DataFrame({"year": sample[roles.opened_on].dt.year(), "y": y, "kept": rows})
    usual = rates.select((pl.col("y").filter(pl.col("kept")).mean().over("year") <= 0.5) & pl.col("kept")).to_series()
    if int(y.filter(usual).sum()) >= 20:
        rows = usual
    labels = y.filter(rows).cast(pl.Float64).to_numpy()
    return Told(rows, labels) if 10 <= labels.sum() <= len(labels) - 10 else None


# segments, features and the rest


def _without_use(roles: Roles, profile: Profile, column: Column) -> None:
    """Columns that are no input whatever they tell: nested ones, empty ones, constants, personal and protected data."""
    name = column.name
    if column.kind == "other":
        roles.leave(name, "not used", f"{column.type} has no place in a portfolio: unnest it in a view", check=True)
    elif column.nulls == profile.rows:
        roles.leave(name, "not used", "no row has a value")
    elif named("protected", name):
        roles.protected.append(name)
        roles.decisions.append(Decision(name, "protected", "by its name: watched, never learned"))
    elif named("personal", name):
        roles.personal.append(name)
        roles.decisions.append(Decision(name, "personal", "by its name: never a segment"))
    elif not column.nulls and profile.sample[name].n_unique() == 1:
        roles.leave(name, "not used", "one value in every row")


def _segments(roles: Roles, profile: Profile, wanted: Wanted) -> None:
    if wanted.segments is not None:
        for name in wanted.segments:
            roles.decisions = [decision for decision in roles.decisions if decision.column != name]
            roles.left_out = [one for one in roles.left_out if one != name]
            roles.segments.append(name)
            roles.decisions.append(Decision(name, "segments", "named by --segments"))
        return
    values: dict[str, int] = {}
    for name, column in profile.columns.items():
        if name in roles.taken or column.forms or column.kind not in ("text", "whole"):
            continue
        distinct = profile.sample[name].n_unique()
        hinted = named("segments", name)
        if not 2 <= distinct <= MOST_SEGMENT_VALUES or (column.kind == "whole" and not hinted):
            continue
        if profile.sample.height / distinct >= LEAST_ROWS_OF_CELL:
            values[name] = distinct
    cells = 1
    for name in _wanted_first(values):
        cells *= values[name]
        if len(roles.segments) < 3 and profile.sample.height / cells >= LEAST_ROWS_OF_CELL:
            roles.segments.append(name)
            why = f"{values[name]:,} values, {profile.rows / values[name]:,.0f} rows each"
            roles.decisions.append(Decision(name, "segments", why, check=True))


def _wanted_first(values: Mapping[str, int]) -> Iterable[str]:
    """Columns so named in the table's order; where none is, the thinnest one that still has rows enough."""
    hinted = [name for name in values if named("segments", name)]
    return hinted or sorted(values, key=lambda name: -values[name])[:1]


def _feature(roles: Roles, profile: Profile, column: Column) -> None:
    name, distinct = column.name, profile.sample[column.name].n_unique()
    gaps = f"; {column.nulls:,} rows have none" if column.nulls else ""
    if column.kind == "date":
        roles.features[name] = "date-age"
        roles.decisions.append(
            Decision(name, "feature", f"date-age: a date before opening{_cast(profile, name)}{gaps}")
        )
    elif column.kind in ("text", "flag"):
        if distinct > MOST_CATEGORIES:
            roles.leave(name, "not used", f"{distinct:,} different texts in {profile.sample.height:,} rows")
            return
        roles.features[name] = "categorical"
        roles.decisions.append(Decision(name, "feature", f"categorical: {distinct} values{gaps}"))
    elif column.kind == "whole" and distinct == profile.sample.height and named("entity", name):
        roles.leave(name, "not used", "another key: it differs in every row")
    else:
        roles.features[name] = "numeric"
        roles.decisions.append(Decision(name, "feature", f"numeric{gaps}"))
