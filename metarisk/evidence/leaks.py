"""Features that tell the outcome: something that was not known when the row was opened.

Evidence alone decides, never a name. The values of one column are looked at in `marks`; here features are compared with
each other, and what was found becomes a sentence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy import stats

from metarisk.bases import encode, relative_rates, values_of
from metarisk.domain import Array, Portfolio, RiskSpec
from metarisk.features import Encoder
from metarisk.marks import CERTAIN_AUC, FEW_VALUES, ODD_AUC, ODD_LOW, SURE_AUC, Rows, mark_findings
from metarisk.metrics import auc
from metarisk.tasks import LABEL, MATURE, teaching

LEAD = 1.25
"""How many times as far apart as by the best honest feature a suspect must set events and others, in deviations."""
OF_A_KIND = 3
"""Suspects that may stand beside each other: more strong features than that are what an honest strong book has."""
MIN_EVENTS = 10
"""Fewer events, or fewer others, among the newer rows tell nothing about a feature's rank."""


@dataclass(frozen=True)
class Suspect:
    """A feature that tells the outcome; `certain` if no honest one can do what it does."""

    feature: str
    certain: bool
    why: str
    """What was seen, in words with figures."""
    vouched: bool = False
    """Whether the portfolio declares it `outcome_free`."""

    @property
    def stops(self) -> bool:
        """Whether nothing may be taught with it."""
        return self.certain and not self.vouched

    @property
    def what(self) -> str:
        """One sentence without an end."""
        tells = "tells" if self.certain else "may tell"
        vouched = "; the portfolio declares it `outcome_free`, so it is used" if self.vouched else ""
        return f"feature {self.feature} {tells} the outcome: {self.why}{vouched}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return (
            f"have the extract give its value as it was known when the row was opened, or take "
            f"[features.{self.feature}] out; if it was known then, set its `outcome_free = true`"
        )


def single_feature_auc(older: pl.DataFrame, newer: pl.DataFrame, portfolio: Portfolio) -> dict[str, float]:
    """AUC on the newer rows of each feature alone: of its values in either direction, missing ones at either end.

    Categories are ranked by their event rates among the older rows.
    """
    y = newer[LABEL].to_numpy()
    if min(y.sum(), len(y) - y.sum()) < MIN_EVENTS:
        return {}
    encoder = Encoder.fit(older, portfolio.features, portfolio.columns.opened_on)
    values = encoder.raw(newer)
    found = {}
    for place, (name, feature) in enumerate(portfolio.features.items()):
        if feature.kind == "categorical":
            found[name] = _by_rates(older, newer, name, y)
        else:
            column = values[:, place]
            ends = (-np.inf, np.inf) if np.isnan(column).any() else (0.0,)  # nothing to put there: one ranking
            found[name] = max(_either_way(np.nan_to_num(column, nan=end), y) for end in ends)
            if feature.kind == "numeric" and older[name].n_unique() <= FEW_VALUES:
                found[name] = max(found[name], _by_rates(older, newer, name, y))
    return found


def suspects(
    teach: pl.DataFrame, older: pl.DataFrame, newer: pl.DataFrame, portfolio: Portfolio, spec: RiskSpec
) -> list[Suspect]:
    """Features that tell the outcome, in the portfolio's order.

    A feature is named for how well it ranks by itself beside the others, on rows of both parts; for values that nearly
    all events, or nearly nothing but events, have; and for values that come once an outcome is known. Where the label
    is a value, rows above its median stand for events, and only what ranks them as no honest feature can is named.

    Args:
        teach: rows that teach with their labels, immature ones too (see `tasks.observed`).
        older, newer: the forward split of `teach`.
        portfolio: says which features there are, and which a person vouches for.
        spec: what the label means.
    """
    features, found = portfolio.features, dict[str, Suspect]()
    if spec.label == "event":
        rows = _rows(teach, portfolio)
        for name, feature in features.items():
            if why := mark_findings(teach[name], rows, feature.kind):
                found[name] = Suspect(name, True, why)
    else:
        above = pl.col(LABEL) > older[LABEL].median()
        older, newer = (part.with_columns(above.cast(pl.Float64).alias(LABEL)) for part in (older, newer))
    # What is sure to leak would hide the others of its kind.
    others = {name: feature for name, feature in features.items() if name not in found}
    ahead = _ahead(*_both_ways(older, newer, replace(portfolio, features=others)))
    found |= {one.feature: one for one in ahead if one.certain or spec.label == "event"}
    return [replace(found[name], vouched=features[name].outcome_free) for name in features if name in found]


def unjudged(older: pl.DataFrame, newer: pl.DataFrame, portfolio: Portfolio) -> str:
    """Why no feature can be ranked by itself, in a sentence; empty if it can."""
    events = [int((part.filter(MATURE) if MATURE in part.columns else part)[LABEL].sum()) for part in (older, newer)]
    if max(events) >= MIN_EVENTS:
        return ""
    return (
        f"whether a feature tells the outcome is unproven: {sum(events)} events of {portfolio.target.name} among "
        f"mature rows, and it takes {MIN_EVENTS} in the older or the newer part"
    )


def feature_rows(
    found: Mapping[str, float], newer: pl.DataFrame, named: Sequence[Suspect]
) -> Sequence[dict[str, object]]:
    """Rows for the warehouse's `evidence` table, one a feature."""
    notes = {one.feature: "tells the outcome" if one.certain else "may tell the outcome" for one in named}
    about: dict[str, object] = {
        "protocol": "features",
        "slice": "all",
        "metric": "single_feature_auc",
        "low": None,
        "high": None,
    }
    about |= {"rows": newer.height, "events": int(newer[LABEL].sum())}
    return [about | {"candidate": name, "value": value, "note": notes.get(name, "")} for name, value in found.items()]


def _rows(teach: pl.DataFrame, portfolio: Portfolio) -> Rows:
    event = teach[LABEL].to_numpy() > 0
    mature = teach[MATURE].to_numpy() if MATURE in teach.columns else np.ones(teach.height, dtype=bool)
    columns = portfolio.columns
    opened, known = pl.col(columns.opened_on).cast(pl.Date), pl.col(str(columns.known_date)).cast(pl.Date)
    days = teach.select(
        age=(opened.max() - opened).dt.total_days(), took=(known - opened).dt.total_days().fill_null(2**30)
    )
    age, took = days["age"].to_numpy(), days["took"].to_numpy()
    waits = ~mature & ~event
    reached = float(np.median(age[waits])) if waits.any() else 0.0
    return Rows(mature, event, mature & (~event | (took > reached)))


def _both_ways(older: pl.DataFrame, newer: pl.DataFrame, portfolio: Portfolio) -> tuple[dict[str, float], int, int]:
    """AUC of each feature on either part, weighted by its events, with the events and the others of both."""
    older = teaching(older, hazard=False) if MATURE in older.columns else older
    parts = [(newer, single_feature_auc(older, newer, portfolio)), (older, single_feature_auc(newer, older, portfolio))]
    told = [(float(rows[LABEL].sum()), rows.height, found) for rows, found in parts if found]
    events = sum(count for count, _, _ in told)
    mean = {
        name: sum(count * found[name] for count, _, found in told) / events
        for name in (portfolio.features if told else ())
    }
    return mean, int(events), int(sum(height for _, height, _ in told) - events)


def _ahead(found: Mapping[str, float], events: int, others: int) -> list[Suspect]:
    """Features that rank so far ahead of all the rest that none of the rest can be of their kind."""
    ranked = sorted(found, key=lambda name: -found[name])
    low = {name: area - 1.645 * auc_error(area, events, others) for name, area in found.items()}
    group: list[str] = []
    for size in range(1, min(OF_A_KIND, len(ranked)) + 1):
        weakest, best = ranked[size - 1], found[ranked[size]] if size < len(ranked) else 0.5
        far = _apart(found[weakest]) >= LEAD * _apart(best)
        if found[weakest] >= ODD_AUC and low[weakest] >= ODD_LOW and far:
            group = ranked[:size]
    rest = max((found[name] for name in ranked if name not in group), default=0.5)
    beside = f", the best of the others with {rest:.3f}" if len(ranked) > len(group) else ""
    named = [name for name in ranked if name in group or low[name] >= CERTAIN_AUC]
    return [
        Suspect(
            name,
            low[name] >= CERTAIN_AUC or (low[name] >= SURE_AUC and _apart(low[name]) >= LEAD * _apart(rest)),
            f"by itself it ranks rows with an AUC of {found[name]:.3f}{beside} ({events:,} events)",
        )
        for name in named
    ]


def auc_error(area: float, events: int, others: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, Radiology 143, 29-36)."""
    if min(events, others) == 0:
        return math.inf
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (events - 1) * (first - area**2) + (others - 1) * (second - area**2)
    return math.sqrt(max(spread, 0.0) / (events * others))


def _apart(area: float) -> float:
    """Deviations that lie between events and others, if both were normal with equal spread."""
    return math.sqrt(2) * float(stats.norm.ppf(min(max(area, 0.5), 1 - 1e-9)))


def _by_rates(older: pl.DataFrame, newer: pl.DataFrame, name: str, y: Array) -> float:
    known = older[LABEL].to_numpy()
    rates = relative_rates(values_of(older, name), known, np.full(len(known), known.mean()))
    return auc(encode(values_of(newer, name), rates), y)


def _either_way(values: Array, y: Array) -> float:
    area = auc(np.clip(values, -1e300, 1e300), y)
    return max(area, 1 - area)
