"""Which date is which: where the horizon starts, and what follows it. Pure: a Profile in, roles out."""

from collections.abc import Sequence

import polars as pl

from metarisk.domain import ConfigError
from metarisk.portfolios.profile import Profile
from metarisk.portfolios.roles import Roles, Wanted, named

SPARSE = 0.8
"""Share of rows that have a date, at most, if it is that of an outcome."""
NEARLY_ALL = 0.99


def date_roles(roles: Roles, profile: Profile, wanted: Wanted, portfolio: str) -> None:
    """Decide the dates. Raises ConfigError where there is none to start from."""
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
    first, last = (getattr(profile.sample[opened], end)() for end in ("min", "max"))
    why += f"; {first:%Y-%m} to {last:%Y-%m}"
    roles.take("opened_on", opened, why + cast_of(profile, opened), check=not wanted.opened)
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
        roles.take("event_date", event, why + cast_of(profile, event), check=not wanted.event)
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
        full = profile.share(name) >= SPARSE and _order(sample, opened, name) >= NEARLY_ALL
        if name == wanted.matures or (full and named("matures_on", name)):
            roles.contract_end = wanted.matures or roles.contract_end or name
            why = "a date after opening that every row has: the contract's end? --horizon lifetime takes it for one"
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


def cast_of(profile: Profile, name: str) -> str:
    """Words on a text that is cast to a date; none of another column."""
    forms = profile.columns[name].forms
    return f"; text, cast from {forms[0].name}" if forms else ""
