"""What the columns of a table are: told by what their values do, with names as hints. Pure: a Profile in, roles out."""

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from metarisk.domain import Array, ConfigError, did_you_mean
from metarisk.portfolios.dating import cast_of, date_roles
from metarisk.portfolios.profile import Column, Profile
from metarisk.portfolios.roles import Decision, Roles, Wanted, named
from metarisk.portfolios.telling import Told, outcome_told

MOST_SEGMENT_VALUES = 1_000  # more look like a key
LEAST_ROWS_OF_CELL = 20
"""Rows of a cell, on average, that a further segment column must leave."""
MOST_CATEGORIES = 100  # more are free text or a key
AMOUNT = r"^[^0-9A-Za-z]*[0-9][0-9 '.,]*[.,][0-9]+[^0-9A-Za-z]*$"
"""A text that is written like an amount: where nearly all are, a person must look."""
MOST_PARENTS = 2
"""Segment columns that are proposed."""
LEAST_SHARE = 0.25
"""Share of the rows whose value is the least one from which that is set against all others."""
KIND_SHARE = 0.05
"""Share of the rows with the event that a status must have to be another kind of event, and no slip."""


def roles_of(profile: Profile, wanted: Wanted, portfolio: str) -> Roles:
    """Decide every column.

    Raises:
        ConfigError: a column that was named does not exist, or the table has no key or no date to start from.
    """
    roles = Roles()
    date_roles(roles, profile, wanted, portfolio)
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
    roles.kinds = _kinds_of_event(roles, profile)
    _segments(roles, profile, wanted)
    for name in free:
        if name not in roles.taken:
            _feature(roles, profile, profile.columns[name])
    order = list(profile.columns)
    roles.decisions.sort(key=lambda decision: order.index(decision.column))
    if not roles.segments:
        said = wanted.segments is not None
        why = ("as --segments says" if said else "no column has few enough values") + ": the book is one segment"
        roles.decisions.append(Decision("(none)", "segments", why, check=not said))
    return roles


def require_columns(profile: Profile, wanted: Wanted, portfolio: str) -> None:
    """Raise ConfigError where a column that was named does not exist."""
    columns = (wanted.entity, wanted.opened, wanted.event, wanted.known, wanted.label, wanted.matures)
    for name in filter(None, (*columns, *(wanted.segments or ()))):
        if name not in profile.columns:
            raise ConfigError(
                f"{profile.table} has no column {name}{did_you_mean(name, profile.columns)}",
                remedy=f"name one of {', '.join(profile.columns)}",
                portfolio=portfolio,
                column=name,
            )


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
    elif roles.value:
        rows = sample[roles.value].is_not_null()
        values = sample[roles.value].filter(rows).cast(pl.Float64).to_numpy()
        if not len(values):
            return None
        # Of counts with many zeros the question is whether there was any.
        zeros = (values == values.min()).mean() >= LEAST_SHARE
        labels = (values > (values.min() if zeros else np.median(values))).astype(np.float64)
        return Told(rows, labels, value=True) if _both(labels) else None
    else:
        return None
    # Years in which most rows have the event are a selected remainder: whatever belongs to them would seem to tell it.
    rates = pl.DataFrame({"year": sample[roles.opened_on].dt.year(), "y": y, "kept": rows})
    usual = rates.select((pl.col("y").filter(pl.col("kept")).mean().over("year") <= 0.5) & pl.col("kept")).to_series()
    if int(y.filter(usual).sum()) >= 20:
        rows = usual
    labels = y.filter(rows).cast(pl.Float64).to_numpy()
    return Told(rows, labels) if _both(labels) else None


def _both(labels: Array) -> bool:
    """Whether there are rows enough with and without the event."""
    return bool(10 <= labels.sum() <= len(labels) - 10)


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


def _kinds_of_event(roles: Roles, profile: Profile) -> str:
    """Where a text that tells the outcome has several values among rows with the event: which, and of how many."""
    if not roles.event_date:
        return ""
    events = profile.sample.filter(pl.col(roles.event_date).is_not_null())
    for name in roles.left_out:
        if profile.columns[name].kind != "text" or name not in events.columns or profile.columns[name].forms:
            continue
        counts = events[name].drop_nulls().value_counts().sort("count", name, descending=True)
        kinds = [f"{value!r} {rows / events.height:.0%}" for value, rows in counts.head(4).iter_rows()
                 if rows >= KIND_SHARE * events.height]  # fmt: skip
        if len(kinds) >= 2 and counts.height <= MOST_CATEGORIES:
            return f"of its rows {name} says {', '.join(kinds)}: keep the dates of the event alone, in a view"
    return ""


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
        if len(roles.segments) < MOST_PARENTS and profile.sample.height / cells >= LEAST_ROWS_OF_CELL:
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
            Decision(name, "feature", f"date-age: a date before opening{cast_of(profile, name)}{gaps}")
        )
    elif column.kind in ("text", "flag"):
        if distinct > MOST_CATEGORIES:
            why = f"{distinct:,} different texts in {profile.sample.height:,} rows"
            values = profile.sample[name].drop_nulls().cast(pl.String)
            if numbers := int(values.str.contains(AMOUNT).sum()) > 0.9 * len(values):
                why += ": numbers that are text? `metarisk load --types` reads them, or a CAST in a view"
            roles.leave(name, "not used", why, check=numbers)
            return
        roles.features[name] = "categorical"
        roles.decisions.append(Decision(name, "feature", f"categorical: {distinct} values{gaps}"))
    elif column.kind == "whole" and distinct == profile.sample.height and named("entity", name):
        roles.leave(name, "not used", "another key: it differs in every row")
    else:
        roles.features[name] = "numeric"
        roles.decisions.append(Decision(name, "feature", f"numeric{gaps}"))
