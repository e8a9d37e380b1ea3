"""How long a drafted target looks ahead, and how late its label is known: read off a table's dates. Pure."""

import math
import re
from dataclasses import dataclass

import polars as pl

from metarisk.domain import ConfigError
from metarisk.portfolios.profile import Profile
from metarisk.portfolios.roles import Roles, Wanted

MONTHS = (12, 24, 36, 48, 60, 84, 120)
"""Horizons in months that are tried, shortest first."""
INSIDE = 0.3
"""Share of all events that a horizon must hold to be drafted: 12 months, where that is enough."""
SHORT_DAYS = 45
"""Where nearly all events come within so many days, the horizon is one of days."""
MONTH = 30.44
"""Days of an average month."""
UNEVEN = 3
"""Days by which months of the calendar differ from as many average ones."""
LIFETIME = "lifetime"
USUAL = (1, 2, 3, 6, 9, 12, 18, *MONTHS[1:])
"""Horizons in months of flags; what is left of the age at which they are settled is the reporting lag."""
SETTLED = 0.8
"""Share of the rows older than the youngest flag that must have one, if its age is that of all."""
LEAST_ROWS = 20
"""Rows that must be too young for a flag before their age says anything."""
UNSEEN = "nothing in the table shows how late it is known"


@dataclass(frozen=True)
class Horizon:
    """Of a drafted target: its length, how late events are known, and how that was found."""

    months: int
    days: int
    lag: int
    why: str = ""
    """How the length was found; empty where it was not."""
    lag_why: str = UNSEEN
    lag_seen: bool = False
    """Whether the table shows the lag."""


def horizon_of(roles: Roles, profile: Profile, wanted: Wanted, portfolio: str) -> Horizon:
    """The horizon that was asked for, or the one that the label's dates show.

    A target of the contract's whole life takes the contract's end as a role.

    Raises:
        ConfigError: a horizon that nobody can read, or a lifetime without a date at which contracts end.
    """
    fixed = _fixed(roles, profile, wanted)
    if wanted.horizon and wanted.horizon != LIFETIME:
        months, days = _asked(wanted.horizon, portfolio)
        return Horizon(months, days, fixed.lag, "as --horizon says", fixed.lag_why, fixed.lag_seen)
    if wanted.horizon == LIFETIME and not roles.contract_end:
        raise ConfigError(
            f"{profile.table} has no date after opening that every row has and that is named like a contract's end",
            remedy="name it with --matures, give it one in a view (opened_on plus the term), or ask for --horizon 36m",
            portfolio=portfolio,
        )
    if not (wanted.matures or wanted.horizon or _outlasts(roles, fixed)):
        return fixed
    life = (profile.sample[roles.contract_end] - profile.sample[roles.opened_on]).dt.total_days()
    months = max(1, math.ceil(((life.quantile(0.99, "linear") or 0.0) - UNEVEN) / MONTH))
    by = "" if wanted.horizon or wanted.matures else "; --horizon 12m drafts a fixed one"
    roles.take("matures_on", roles.contract_end, f"the contract's end, until when the event counts{by}", check=True)
    why = f"months at most, as long as 99 % of contracts; the event counts until {roles.contract_end}{by}"
    return Horizon(months, 0, fixed.lag, why, fixed.lag_why, fixed.lag_seen)


def _outlasts(roles: Roles, fixed: Horizon) -> bool:
    """Whether the label is one of the whole contract: a flag of no certain age, or events that a year does not hold."""
    if not roles.contract_end or roles.value:
        return False
    return not fixed.why if roles.label else fixed.months > MONTHS[0]


def _asked(text: str, portfolio: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,3})([md])", text)
    if match is None:
        remedy = f"use months or days as in 12m and 30d, or {LIFETIME}"
        raise ConfigError(f"{text!r} is no horizon", remedy=remedy, portfolio=portfolio)
    length = int(match[1])
    return (length, 0) if match[2] == "m" else (0, length)


def _fixed(roles: Roles, profile: Profile, wanted: Wanted) -> Horizon:
    """The shortest usual horizon that holds events enough, and the delay within which 99 % of them are known."""
    if roles.label:
        return _of_flags(roles, profile, wanted)
    if not roles.event_date:
        return _unseen(roles, wanted)
    dates = profile.sample.drop_nulls([roles.event_date])
    delay = (dates[roles.event_date] - dates[roles.opened_on]).dt.total_days()
    lag, lag_why = 30, "nothing in the table shows how late events are known"
    if roles.known_date:
        late = (dates[roles.known_date] - dates[roles.event_date]).dt.total_days()
        lag = max(0, math.ceil(late.quantile(0.99, "linear") or 0.0))
        lag_why = f"the 99th percentile of {roles.known_date} less {roles.event_date}"
    seen = bool(roles.known_date)
    if delay.is_empty():
        return Horizon(12, 0, lag, "", lag_why, seen)
    if (nearly := delay.quantile(0.99) or 0.0) <= SHORT_DAYS:
        days = max(1, math.ceil(nearly))
        return Horizon(0, days, lag, f"99 % of events come within {days} days", lag_why, seen)
    inside = {months: (delay <= MONTH * months).sum() / len(delay) for months in MONTHS}
    months = next((months for months, share in inside.items() if share >= INSIDE), MONTHS[-1])
    told = ", ".join(f"{share:.0%} within {one}" for one, share in inside.items() if one <= max(24, months))
    return Horizon(months, 0, lag, f"months; of all events {told}", lag_why, seen)


def _of_flags(roles: Roles, profile: Profile, wanted: Wanted) -> Horizon:
    """The age at which flags are settled, where the youngest rows have none and older ones do; else a usual one."""
    opened, flag = profile.sample[roles.opened_on].cast(pl.Int32), profile.sample[roles.label]
    # Quantiles, so that a flag entered early or a date of the future decides nothing.
    newest, youngest = opened.quantile(0.999), opened.filter(flag.is_not_null()).quantile(0.999)
    if newest is None or youngest is None:
        return _unseen(roles, wanted)
    young, age = opened > youngest, round(newest - youngest)
    if min(int((young & flag.is_null()).sum()), age) < LEAST_ROWS or flag.filter(~young).is_not_null().mean() < SETTLED:  # type: ignore[operator]
        return _unseen(roles, wanted)
    why = f"rows have their flag from an age of {age} days on: horizon and lag together"
    rest = "what is left of the age from which rows have their flag"
    if months := max((one for one in USUAL if MONTH * one <= age + UNEVEN), default=0):
        return Horizon(months, 0, max(0, math.ceil(age - MONTH * months)), f"months; {why}", rest)
    return Horizon(0, age, 0, why, rest)


def _unseen(roles: Roles, wanted: Wanted) -> Horizon:
    """A usual horizon where no date shows one."""
    if wanted.risk == "fraud" or (not wanted.risk and "fraud" in roles.label.lower()):
        return Horizon(0, 30, 30)
    return Horizon(12, 0, 0 if roles.value else 30)
