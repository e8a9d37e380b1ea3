"""What stops a night as a whole, at each limit and just inside it, and how seldom it stops a quiet one."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from metarisk.domain import Limits, Thresholds
from metarisk.quality import Result, guarding
from tests.benchmarks.guard import BOOKS, FAULTS, Book, simulated

MONDAY = date(2026, 6, 29)


def verdict(result: Result) -> str:
    """`ok`, or how severe the failure is; `grey` where nothing was judged."""
    if result.success:
        return "grey" if result.detail.startswith("not judged") else "ok"
    return result.severity


def test_a_score_that_is_no_number():
    assert verdict(guarding.finite(10, 0)) == "ok"
    assert verdict(guarding.finite(10, 1)) == "critical"


@pytest.mark.parametrize(
    ("inputs", "high", "modal", "expected"),
    [
        (500, 0.2, 0.1, "ok"),
        (500, 0.1, 0.1, "critical"),
        (500, 0.1, 1.0, "warning"),  # the model gives everybody the same, as when it was registered
        (500, 0.1, 0.99, "warning"),  # 0.99 ^ 500 is 0.7 %
        (7, 0.1, 0.1, "critical"),
        (5, 0.1, 0.1, "warning"),  # a tiny book
        (1, 0.1, 0.1, "ok"),  # nothing tells the rows apart
    ],
)
def test_one_score_for_all(inputs, high, modal, expected):
    assert verdict(guarding.scores_differ(500, inputs, 0.1, high, modal)) == expected


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ({"A": 50, "B": 50}, {"A": 99, "B": 1}, "ok"),
        ({"C": 100}, {"A": 40, "B": 30, "C": 30}, "critical"),
        ({"C": 100}, {"A": 50, "C": 50}, "warning"),  # a step over one border
        ({"C": 100}, {"A": 3, "B": 3, "C": 94}, "warning"),  # two of them hold hardly anybody
        ({"C": 100}, {"C": 100}, "ok"),
        ({"C": 100}, None, "warning"),
        ({"C": 19}, {"A": 7, "B": 6, "C": 6}, "warning"),
        ({"C": 20}, {"A": 7, "B": 7, "C": 6}, "critical"),
    ],
)
def test_one_grade_for_all(now, before, expected):
    assert verdict(guarding.grades_differ(now, before)) == expected


def nights(*rows: int, until: date = MONDAY) -> list[tuple[date, int]]:
    """Nights before a date, the newest first."""
    return [(until - timedelta(days=n), count) for n, count in enumerate(rows, start=1)]


def test_usual_is_the_median_of_the_newest_fourteen_nights():
    assert guarding.usual_rows(nights(*[100] * 14, *[900] * 40), MONDAY, by_weekday=False) == 100
    assert guarding.usual_rows([], MONDAY, by_weekday=False) is None
    old = [(MONDAY - guarding.OLDEST, 100)]
    assert guarding.usual_rows(old, MONDAY, by_weekday=False) == 100
    assert guarding.usual_rows(old, MONDAY + timedelta(days=1), by_weekday=False) is None


def test_where_days_differ_a_night_is_compared_with_those_of_its_kind():
    weeks = [
        (MONDAY - timedelta(days=n), 300 if guarding.weekend(MONDAY - timedelta(days=n)) else 1000)
        for n in range(1, 40)
    ]
    assert guarding.usual_rows(weeks, MONDAY, by_weekday=True) == 1000
    sunday = MONDAY - timedelta(days=1)
    assert guarding.usual_rows([night for night in weeks if night[0] < sunday], sunday, by_weekday=True) == 300
    friday = MONDAY - timedelta(days=3)
    first_week = [(friday - timedelta(days=n), 1000) for n in range(4)]
    assert guarding.usual_rows(first_week, friday + timedelta(days=1), by_weekday=True) is None


@pytest.mark.parametrize(
    ("rows", "usual", "by_chance", "expected"),
    [
        (550, 1000.0, True, "ok"),
        (549, 1000.0, True, "critical"),
        (7, 15.0, False, "critical"),  # half of the assets
        (7, 15.0, True, "warning"),  # transactions of a slow day
        (0, 15.0, True, "critical"),
        (1, None, True, "grey"),
    ],
)
def test_rows_below_the_usual(rows, usual, by_chance, expected):
    assert verdict(guarding.enough(rows, usual, 0.55, by_chance=by_chance)) == expected


def test_a_value_that_is_gone():
    def of(expected: dict[str, float], now: dict[str, float], excused: tuple[str, ...] = ()) -> Result:
        return guarding.values_stay("region", expected, now, 30, excused)

    assert verdict(of({"north": 500, "south": 30}, {"north": 500, "south": 1, "east": 3})) == "ok"
    gone = of({"north": 500, "south": 30, "west": 2}, {"north": 500})
    assert (verdict(gone), gone.column) == ("critical", "region")
    assert gone.detail == "no row of 'south' (30 rows at the last night)"
    assert verdict(of({"north": 500, "south": 29}, {"north": 500})) == "warning"
    assert verdict(of({"north": 500, "south": 80}, {"north": 500}, ("south",))) == "warning"
    assert verdict(of({"north": 500, "south": 0}, {"north": 500})) == "ok"  # its rows have run out of their horizon


SCORES = np.random.default_rng(1).normal(-3.0, 0.8, 1000)
MEAN = SCORES.mean()


@pytest.mark.parametrize(
    ("after", "same_recipe", "expected"),
    [
        (SCORES, True, "ok"),
        (SCORES + 0.69, True, "ok"),
        (SCORES - 0.71, True, "critical"),
        (SCORES - 0.71, False, "ok"),
        (SCORES + 1.41, False, "critical"),
        (MEAN + 1.95 * (SCORES - MEAN), True, "ok"),
        (MEAN + 2.05 * (SCORES - MEAN), True, "critical"),
        (MEAN + 0.49 * (SCORES - MEAN), True, "critical"),
        (MEAN + 0.49 * (SCORES - MEAN), False, "ok"),
        (MEAN - 0.9 * (SCORES - MEAN), True, "critical"),
        (MEAN - 0.9 * (SCORES - MEAN), False, "critical"),
        (np.roll(SCORES, 1), True, "critical"),
        (np.where(np.arange(1000) < 110, SCORES + 2.2, SCORES), True, "critical"),
        (np.where(np.arange(1000) < 90, SCORES + 2.2, SCORES), True, "ok"),
    ],
)
def test_the_same_rows_score_otherwise(after, same_recipe, expected):
    found = guarding.same_scores(SCORES, after, Limits(), scaled=False, same_recipe=same_recipe)
    assert verdict(found) == expected, found.detail
    # On a scale without a unit it is spreads that count, wherever the scores lie and whatever they measure.
    wide = guarding.same_scores(
        1e3 * SCORES, 1e3 * after, Limits(max_score_move=0.7 / SCORES.std()), scaled=True, same_recipe=same_recipe
    )
    assert verdict(wide) == expected, wide.detail


def test_what_cannot_be_compared_is_grey_and_what_was_constant_has_no_order():
    few = guarding.same_scores(SCORES[:19], -SCORES[:19], Limits(), scaled=False, same_recipe=True)
    assert verdict(few) == "grey"
    constant = np.full_like(SCORES, -3.0)
    assert verdict(guarding.same_scores(constant, SCORES, Limits(), scaled=False, same_recipe=True)) == "ok"


def test_a_move_of_a_segment_is_seen_and_stops_nothing():
    before = {"": (1000, -3.0), "north": (500, -3.0), "few": (29, -3.0), "wide": (30, -3.0), "gone": (500, -3.0)}
    now = {"": (1000, -2.9), "north": (500, -2.2), "few": (29, 9.0), "wide": (30, -2.2), "new": (500, 9.0)}

    def judge(then: dict[str, tuple[int, float]], tonight: dict[str, tuple[int, float]]) -> Result:
        spread = {"wide": 2.0}
        both = [{name: (*told, spread.get(name, 0.8)) for name, told in night.items()} for night in (then, tonight)]
        return guarding.level(both[0], both[1], 30)

    found = judge(before, now)
    assert (verdict(found), found.detail) == ("warning", "the mean score moved of north by +0.80")
    assert verdict(judge(before, before)) == "ok"
    assert verdict(judge(before, before | {"north": (500, -2.51)})) == "ok"
    crash = judge(before, {name: (rows, mean + 1.5) for name, (rows, mean) in before.items()})
    assert crash.detail.startswith("the mean score moved of the whole portfolio by +1.50")


def test_limits_of_the_risk_type_hold_where_a_portfolio_says_nothing():
    own = Limits(max_score_move=2.0, min_vanished_rows=5)
    assert Thresholds().limits(own) == own
    assert Thresholds(max_score_move=0.3).limits(own) == Limits(max_score_move=0.3, min_vanished_rows=5)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.risk)
def test_quiet_nights_are_published_and_broken_ones_are_not(book: Book):
    """The short form of the benchmark `guard`: 300 quiet nights, and some dozens of each fault."""
    stopped, rules, power = simulated(book, 300, 8, seed=1)
    assert stopped <= 2, rules
    assert set(power) == set(FAULTS)
    # Half of the rows is near the limit, 55 %, and days of a flow differ by chance.
    assert min(power.values()) >= 0.5, power
    assert np.mean([*power.values()]) >= 0.9, power
