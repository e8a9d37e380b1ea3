"""Back-tests by grade, and groups that no model may see."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import special, stats

from metarisk.backtests import (
    SCHEMA,
    adverse_impact,
    calibration_by_group,
    grade_backtests,
    grade_migration,
    swap_set,
)
from metarisk.domain import Grade, Scorecard
from metarisk.metrics import benjamini_hochberg
from metarisk.tasks import LABEL

CARD = Scorecard(grades=(Grade("good", 0.02), Grade("fair", 0.1), Grade("bad", 1.0)))


def outcomes(events: dict[tuple[str, float], tuple[int, int]]) -> pl.DataFrame:
    """Rows of (cohort, score) with so many rows and events."""
    parts = [
        pl.DataFrame({"cohort": [cohort] * n, "score": [score] * n, LABEL: [1.0] * d + [0.0] * (n - d)})
        for (cohort, score), (n, d) in events.items()
    ]
    return pl.concat(parts)


def test_a_line_holds_the_published_numbers():
    found = grade_backtests([outcomes({("2024", 0.01): (1000, 15)})], CARD)
    assert dict(found.schema) == SCHEMA
    (line,) = found.to_dicts()
    assert (line["grade"], line["place"], line["rows"], line["events"]) == ("good", 1, 1000, 15)
    assert line["mean_score"] == pytest.approx(0.01)
    assert line["jeffreys_p"] == pytest.approx(0.06323, abs=5e-6)
    assert line["binomial_p"] == pytest.approx(0.08241, abs=5e-6)
    assert line["vasicek_p"] > 0.15
    assert line["rate_low"] == pytest.approx(stats.beta.ppf(0.025, 15.5, 985.5))


def test_grades_are_those_of_the_scale_and_tests_are_adjusted_over_all_of_them():
    judged = outcomes(
        {
            ("2023", 0.01): (500, 5),
            ("2023", 0.05): (300, 30),
            ("2023", 0.5): (20, 9),
            ("2024", 0.02): (400, 8),
            ("2024", 0.05): (300, 90),
        }
    )
    found = grade_backtests([judged.sample(fraction=1, shuffle=True, seed=1)], CARD)
    places = [("2023", "good"), ("2023", "fair"), ("2023", "bad"), ("2024", "good"), ("2024", "fair")]
    assert found.select("cohort", "grade").rows() == places
    for name in ("jeffreys", "vasicek"):
        np.testing.assert_allclose(found[f"{name}_q"], benjamini_hochberg(found[f"{name}_p"]))
    assert (found["vasicek_p"] >= found["jeffreys_p"] - 0.05).all()
    # twice the rate is a bad year where defaults cluster, six times is a wrong probability
    assert found["status"].to_list() == ["blind", "watch", "ok", "blind", "understated"]


def test_correct_probabilities_are_rejected_no_oftener_than_the_rate_says():
    r = np.random.default_rng(5)
    rejected = {"jeffreys_p": 0, "vasicek_p": 0}
    for _ in range(400):
        # years with a common factor: the asset correlation of the card
        z = r.standard_normal()
        given = special.ndtr((special.ndtri(0.02) + np.sqrt(0.04) * z) / np.sqrt(0.96))
        events = int(r.binomial(2000, given))
        line = grade_backtests([outcomes({("2024", 0.02): (2000, events)})], CARD)
        for name in rejected:
            rejected[name] += line[name][0] < 0.05
    assert rejected["vasicek_p"] / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert rejected["jeffreys_p"] / 400 == pytest.approx(0.25, abs=0.07)


def test_nothing_known_gives_no_line():
    assert grade_backtests([outcomes({("2024", 0.01): (0, 0)})], CARD).equals(pl.DataFrame(schema=SCHEMA))


def test_adverse_impact_is_the_ratio_of_acceptance_rates():
    # the four-fifths rule's textbook case: 48 of 80 and 12 of 40 accepted
    groups = ["a"] * 80 + ["b"] * 40
    declined = np.array([False] * 48 + [True] * 32 + [False] * 12 + [True] * 28)
    a, b = adverse_impact(pl.LazyFrame({"group": groups, "declined": declined}))
    assert (a["slice"], a["value"], a["rows"]) == ("a", 1.0, 80)
    assert (b["slice"], b["value"], b["rows"]) == ("b", pytest.approx(0.5), 40)
    assert "below four fifths" in str(b["note"])
    assert "below" not in str(a["note"])
    (missing,) = adverse_impact(
        pl.LazyFrame({"group": [None, None], "declined": True}, schema_overrides={"group": pl.String})
    )
    assert (missing["slice"], missing["value"]) == ("(missing)", None)


def test_calibration_by_group_is_observed_over_expected():
    found = calibration_by_group(["x", "y", "x", "y"], np.array([0.2, 0.5, 0.3, 0.5]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert [line["value"] for line in found] == pytest.approx([2.0, 1.0])
    assert [line["events"] for line in found] == [1, 1]
    low, high = stats.beta.ppf([0.025, 0.975], 1.5, 1.5) * 2 / 0.5
    assert (found[0]["low"], found[0]["high"]) == pytest.approx((low, high))


def test_a_swap_set_counts_who_is_decided_otherwise():
    segments = pl.Series(["north", "north", "south", "south", "south"])
    before = np.array([True, False, True, False, False])
    after = np.array([False, True, True, True, False])
    found = swap_set(segments, before, after, np.array([0.1, 0.4, 0.9, 0.6, 0.0]))
    assert [(line["slice"], line["metric"], line["rows"], line["value"]) for line in found] == [
        ("all", "newly_accepted", 1, 0.1),
        ("all", "newly_declined", 2, pytest.approx(0.5)),
        ("north", "newly_accepted", 1, 0.1),
        ("north", "newly_declined", 1, 0.4),
        ("south", "newly_declined", 1, 0.6),
    ]
    assert swap_set(segments, before, before, np.zeros(5)) == []


def test_a_migration_counts_every_row_once_in_its_old_grade():
    before, after = np.array([0.01, 0.01, 0.05, 0.5]), np.array([0.01, 0.05, 0.05, 0.05])
    found = grade_migration([(before[:3], after[:3]), (before[3:], after[3:])], CARD)
    assert [(line["slice"], line["rows"], line["value"]) for line in found] == [
        ("good to good", 1, 0.5),
        ("good to fair", 1, 0.5),
        ("fair to fair", 1, 1.0),
        ("bad to fair", 1, 1.0),
    ]
