"""Cases within a day's review budget, and what detection is worth: precision, recall and value at that budget.

Pure numpy: rows in, numbers out. Shapes: N rows, C cases. A *case* is what is reviewed as one (a card, a claimant).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metarisk.domain import Array, floats


@dataclass(frozen=True)
class Selection:
    """Which cases of one day are reviewed, as positions in the cases' order.

    Attributes:
        names: the cases (C,), sorted.
        worst: the riskiest row of each case (C,).
        rows: rows of each case (C,).
        alerts: the riskiest cases, most risky first.
        explored: cases drawn at random from the others.
        chance: probability with which each case was to be reviewed (C,): 1 of an alert.
    """

    names: Array
    worst: Array
    rows: Array
    alerts: Array
    explored: Array
    chance: Array


def select(case: ArrayLike, score: ArrayLike, budget: int, explore_share: float, seed: int) -> Selection:
    """Choose the cases to be reviewed: the riskiest, and a share of the budget (rounded up) drawn from the others.

    A case is as risky as its riskiest row. Of equal cases the first name comes first. The same arguments give the same
    selection, whatever the order of the rows.

    Args:
        case, score: of each row (N,).
        budget: cases in all; 0: none.
        explore_share: from 0, nothing is drawn, to 1, everything is.
    """
    z = floats(score)
    names, code = np.unique(np.asarray(case), return_inverse=True)
    # The riskiest row of each case comes first; of equal ones the first in order.
    order = np.lexsort((-z, code))
    worst = order[np.searchsorted(code[order], np.arange(len(names)))]
    ranked = np.argsort(-z[worst], kind="stable")
    budget = min(max(budget, 0), len(names))
    drawn = math.ceil(budget * explore_share)
    alerts, others = ranked[: budget - drawn], np.sort(ranked[budget - drawn :])
    explored = np.sort(np.random.default_rng(seed).choice(others, drawn, replace=False)) if drawn else others[:0]
    chance = np.full(len(names), drawn / len(others) if len(others) else 0.0)
    chance[alerts] = 1.0
    return Selection(names, worst, np.bincount(code, minlength=len(names)), alerts, explored, chance)


@dataclass(frozen=True)
class AtBudget:
    """What was caught within a budget of cases; rates are NaN where their denominator is zero.

    Attributes:
        alerts: cases that were alerts.
        hits: alerts with at least one event.
        events: cases with an event, alerts or not.
        value, value_caught: sum of the amounts of events, and of those in alerts.
    """

    alerts: int
    hits: int
    events: int
    value: float
    value_caught: float

    @property
    def precision(self) -> float:
        """Share of the alerts that were right."""
        return _ratio(self.hits, self.alerts)

    @property
    def recall(self) -> float:
        """Share of the cases with an event that were alerts."""
        return _ratio(self.hits, self.events)

    @property
    def value_recall(self) -> float:
        """Share of the amount of all events that was in alerts."""
        return _ratio(self.value_caught, self.value)

    @property
    def false_positive_ratio(self) -> float:
        """False alerts for each right one."""
        return _ratio(self.alerts - self.hits, self.hits)

    def __add__(self, other: AtBudget) -> AtBudget:
        """Both days together."""
        return AtBudget(
            self.alerts + other.alerts, self.hits + other.hits, self.events + other.events,
            self.value + other.value, self.value_caught + other.value_caught,
        )  # fmt: skip


NOTHING = AtBudget(0, 0, 0, 0.0, 0.0)


def at_budget(case: ArrayLike, score: ArrayLike, y: ArrayLike, amount: ArrayLike, budget: int) -> AtBudget:
    """What the riskiest `budget` cases of one day catch, given case, score, label and amount of each row (N,)."""
    chosen = select(case, score, budget, 0.0, 0)
    label, value = floats(y), floats(amount)
    code = np.unique(np.asarray(case), return_inverse=True)[1]
    events = np.bincount(code, label, minlength=len(chosen.names)) > 0
    values = np.bincount(code, label * value, minlength=len(chosen.names))
    hit = events[chosen.alerts]
    return AtBudget(
        len(chosen.alerts), int(hit.sum()), int(events.sum()), float(values.sum()), float(values[chosen.alerts].sum())
    )


def weighted_rates(alert: ArrayLike, y: ArrayLike, chance: ArrayLike) -> tuple[float, float]:
    """Precision and recall of alerts from reviewed cases alone, each counted 1 / chance times.

    The events among cases that nobody alerted are estimated from those drawn at random (Horvitz and Thompson 1952, JASA
    47, 663-685): with the labels of the reviewed cases alone a model would seem to miss nothing.

    Args:
        alert, y, chance: of each reviewed case (C,): whether it was an alert, whether it was the event, and with what
            probability it was to be reviewed, above 0.
    """
    is_alert, label = np.asarray(alert, dtype=bool), floats(y)
    weight = 1.0 / floats(chance)
    caught = float((weight * label)[is_alert].sum())
    return _ratio(caught, float(weight[is_alert].sum())), _ratio(caught, float(weight @ label))


def time_to_first_catch(group: ArrayLike, day: ArrayLike, y: ArrayLike, caught: ArrayLike) -> Array:
    """Days from a group's first event to its first caught event; infinite where none was caught; one a group (G,).

    Args:
        group: what is attacked (card, terminal), day (whole number), label and whether an alert covered it, (N,).
    """
    event = np.asarray(y, dtype=bool)
    names, code = np.unique(np.asarray(group)[event], return_inverse=True)
    days, seen = floats(day)[event], np.asarray(caught, dtype=bool)[event]
    first, hit = np.full(len(names), np.inf), np.full(len(names), np.inf)
    np.minimum.at(first, code, days)
    np.minimum.at(hit, code[seen], days[seen])
    return np.asarray(hit - first)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
