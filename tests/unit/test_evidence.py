"""The evidence table against scikit-learn and a plain bootstrap, and the table of decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from scipy import special, stats
from sklearn import metrics as sk

from metarisk.domain import LearnerChoice, Portfolio, Promotion
from metarisk.evidence import (
    Decision,
    against,
    by_segment,
    decide,
    decision,
    decision_rows,
    evidence_rows,
    intervals,
    summarise,
    table,
)
from metarisk.evidence.spread import GROUPS, jackknife
from metarisk.metrics import Interval, judge_of
from metarisk.tasks import LABEL, OPPONENT
from tests.unit import loan_examples
from tests.unit.loan_examples import PORTFOLIO, days

SPEC = replace(loan_examples.SPEC, default="map_head")
BASELINES = frozenset({"plain", "segments"})
NAMES = ("plain", "segments", "map_head", "copy")
KEPT = Decision("plain", True, "")


def judged_rows(rows: int = 4_000, seed: int = 0, events: int | None = None) -> pl.DataFrame:
    """`map_head` knows the truth, `segments` a part of it, `plain` less; `copy` is `map_head` with a little noise."""
    r = np.random.default_rng(seed)
    truth = r.normal(-2, 1.2, rows)
    y = (r.random(rows) < special.expit(truth)).astype(float)
    if events is not None:
        y = (np.arange(rows) < events).astype(float)
    opened = days("2022-01-01", r.integers(0, 270, rows))
    later = opened >= np.datetime64("2022-05-01")
    return pl.DataFrame(
        {
            "loan": [f"L{i}" for i in range(rows)],
            "region": r.choice(["north", "south", None], rows).tolist(),
            "product": r.choice(["card", "car"], rows),
            "opened": opened,
            LABEL: y,
            "fold": np.where(later, "2022-05-01", "2022-01-01"),
            OPPONENT: np.where(later, "segments", "plain"),
            "support_rows": r.integers(0, 100, rows),
            "support_events": r.choice([0.0, 1.0, 4.0, 5.0, 19.0, 20.0, 300.0], rows),
            "plain": -2 + 0.4 * (truth + 2),
            "segments": -2 + 0.7 * (truth + 2),
            "map_head": truth,
            "copy": truth + r.normal(0, 0.15, rows),
        }
    )


JUDGED = judged_rows()
EVIDENCE = summarise(JUDGED, NAMES, BASELINES, PORTFOLIO, SPEC)


def loss(frame: pl.DataFrame, name: str) -> np.ndarray:
    p = special.expit(frame[name].to_numpy())
    return -np.where(frame[LABEL].to_numpy() == 1, np.log(p), np.log1p(-p))


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_of_scikit_learn(name):
    y, p = JUDGED[LABEL].to_numpy(), special.expit(JUDGED[name].to_numpy())
    false, true, _ = sk.roc_curve(y, p, drop_intermediate=False)
    found = EVIDENCE.candidate(name).metrics
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p), rel=1e-12)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, p), rel=1e-12)
    assert found["gini"] == pytest.approx(2 * sk.roc_auc_score(y, p) - 1, rel=1e-12)
    assert found["ks"] == pytest.approx((true - false).max(), rel=1e-12)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(y, p), rel=1e-12)


def test_the_table_is_sorted_by_loss_and_names_what_validation_chose_and_what_was_best_in_hindsight():
    losses = [line.metrics["log_loss"] for line in EVIDENCE.candidates]
    assert losses == sorted(losses)
    assert EVIDENCE.oracle == "segments"
    assert EVIDENCE.opponents == {"2022-01-01": "plain", "2022-05-01": "segments"}
    assert EVIDENCE.opponent == "plain (1 of 2 folds), segments (1 of 2 folds)"
    assert [line.name for line in EVIDENCE.candidates if line.baseline] == ["segments", "plain"]
    assert (EVIDENCE.rows, EVIDENCE.events) == (JUDGED.height, int(JUDGED[LABEL].sum()))
    assert EVIDENCE.folds == ("2022-01-01", "2022-05-01")
    assert EVIDENCE.candidate("nobody") is None


def plain_bootstrap(frame: pl.DataFrame, one: str, other: str) -> tuple[float, float, float]:
    """Draw whole blocks of opening month and segment, a loop over draws."""
    blocks: dict[tuple, list[float]] = {}
    for row, difference in zip(frame.iter_rows(named=True), loss(frame, one) - loss(frame, other), strict=True):
        blocks.setdefault((row["opened"].strftime("%Y%m"), row["region"], row["product"]), []).append(difference)
    values = list(blocks.values())
    r = np.random.default_rng(99)
    means = []
    for _ in range(2_000):
        drawn = [values[i] for i in r.integers(0, len(values), len(values))]
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    return float(np.mean(np.concatenate(values))), *np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("name", ["map_head", "plain"])
def test_the_interval_is_that_of_a_plain_bootstrap_over_months_and_segments(name):
    mean, low, high = plain_bootstrap(JUDGED, name, "segments")
    found = EVIDENCE.candidate(name).against_oracle
    assert found.mean == pytest.approx(mean, rel=1e-9)
    # two bootstraps of 2,000 draws: the error of a 2.5 % quantile is near a twentieth of the width
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))
    assert against(JUDGED, name, "segments", PORTFOLIO, SPEC) == found


def opposed(frame: pl.DataFrame) -> np.ndarray:
    """Loss of each fold's opponent."""
    return np.where(frame["fold"] == "2022-01-01", loss(frame, "plain"), loss(frame, "segments"))


def test_the_reported_difference_is_to_each_folds_own_opponent():
    for name in NAMES:
        found = EVIDENCE.candidate(name).against_opponent
        assert found.mean == pytest.approx((loss(JUDGED, name) - opposed(JUDGED)).mean(), rel=1e-9)
        # hindsight knows the better one of two, so what is left to gain on it is less
        assert found.mean < EVIDENCE.candidate(name).against_oracle.mean
    later = JUDGED.filter(fold="2022-05-01")
    same = summarise(later, NAMES, BASELINES, PORTFOLIO, SPEC)
    assert same.opponent == same.oracle == "segments"
    assert same.candidate("map_head").against_opponent == same.candidate("map_head").against_oracle


def test_against_itself_there_is_no_difference_and_against_the_unknown_no_answer():
    same = EVIDENCE.candidate("segments").against_oracle
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert against(JUDGED, "map_head", "retired", PORTFOLIO, SPEC) is None
    assert against(JUDGED, "retired", "map_head", PORTFOLIO, SPEC) is None


def test_bands_of_support_part_the_rows():
    bands = EVIDENCE.candidate("map_head").by_support
    limits = {"0 events": (0, 0), "1-4 events": (1, 4), "5-19 events": (5, 19), "20+ events": (20, 1e9)}
    assert list(bands) == list(limits)
    difference = loss(JUDGED, "map_head") - opposed(JUDGED)
    for band, (low, high) in limits.items():
        inside = JUDGED["support_events"].is_between(low, high).to_numpy()
        assert bands[band].mean == pytest.approx(difference[inside].mean(), rel=1e-9)


def test_the_order_of_judged_rows_changes_no_decision_number():
    mixed = summarise(JUDGED.sample(fraction=1, shuffle=True, seed=1), NAMES, BASELINES, PORTFOLIO, SPEC)
    for line in EVIDENCE.candidates:
        other = mixed.candidate(line.name).against_opponent
        for bound in ("mean", "low", "high"):
            assert getattr(other, bound) == pytest.approx(getattr(line.against_opponent, bound), abs=1e-12)


def test_without_rows_there_is_a_table_without_candidates():
    nothing = summarise(pl.DataFrame(), NAMES, BASELINES, PORTFOLIO, SPEC)
    assert nothing.candidates == ()
    assert evidence_rows(nothing) == decision_rows(KEPT, nothing) == table(nothing) == []


def test_rows_for_the_warehouse_hold_every_number_and_no_nan():
    one_class = summarise(judged_rows(300, events=0), NAMES, BASELINES, PORTFOLIO, SPEC)
    for evidence in (EVIDENCE, one_class):
        rows = evidence_rows(evidence)
        assert len({(row["candidate"], row["slice"], row["metric"]) for row in rows}) == len(rows)
        numbers = [row[name] for row in rows for name in ("value", "low", "high")]
        assert all(number is None or np.isfinite(number) for number in numbers)
    by_name = {(row["candidate"], row["slice"], row["metric"]): row for row in evidence_rows(EVIDENCE)}
    row = by_name["map_head", "all", "loss_minus_opponent"]
    found = EVIDENCE.candidate("map_head").against_opponent
    assert (row["value"], row["low"], row["high"]) == (found.mean, found.low, found.high)
    assert (row["rows"], row["events"], row["protocol"]) == (4_000, EVIDENCE.events, "walk_forward")
    assert row["note"] == "opponent: plain from 2022-01-01, segments from 2022-05-01; oracle: segments"
    assert by_name["plain", "all", "auc"]["value"] == EVIDENCE.candidate("plain").metrics["auc"]
    lost = {row["metric"] for row in evidence_rows(one_class) if row["slice"] == "all" and row["value"] is None}
    assert lost == {"auc", "pr_auc", "gini", "ks", "calibration_in_the_large"}


def test_people_read_differences_in_ten_thousandths():
    (best, *_) = table(EVIDENCE)
    found = EVIDENCE.candidates[0]
    assert best["candidate"] == found.name
    assert best["minus opponent"].startswith(f"{1e4 * found.against_opponent.mean:+.1f} [")
    assert {"log-loss", "AUC", "Gini", "KS", "Brier", "ECE", "level"} <= set(best)
    assert [line["candidate"] for line in table(EVIDENCE)][2:] == ["segments (baseline)", "plain (baseline)"]


# decisions


def portfolio(rule: str = "interval", pinned: str = "auto") -> Portfolio:
    return replace(PORTFOLIO, promotion=Promotion(rule, weeks=1), learner=LearnerChoice(pinned))


def decided(book: Portfolio, champion: str | None, *, names=NAMES, rows: pl.DataFrame = JUDGED) -> Decision:
    return decide(rows, summarise(rows, names, BASELINES, book, SPEC), book, SPEC, champion)


@pytest.mark.parametrize(
    ("what", "rule", "pinned", "champion", "names", "recipe", "promote", "because"),
    [
        ("the default is best", "interval", "auto", None, NAMES[:3], "map_head", True, "lowest validation loss"),
        ("the incumbent is best", "interval", "auto", "map_head", NAMES[:3], "map_head", True, "map_head stays"),
        ("a better one, surely", "interval", "auto", "plain", NAMES[:3], "map_head", True, "wholly below zero"),
        ("a better one, by luck", "interval", "auto", "copy", NAMES, "copy", True, "not wholly below zero"),
        ("the same, but at once", "always", "auto", "copy", NAMES, "map_head", True, "the rule is `always`"),
        ("surely, but a person decides", "manual", "auto", "plain", NAMES[:3], "map_head", False, "must approve"),
        ("by luck, a person is not asked", "manual", "auto", "copy", NAMES, "copy", True, "copy stays"),
        ("the incumbent was not judged", "interval", "auto", "gone", NAMES, "gone", True, "not judged on the same"),
        ("pinned, first", "manual", "plain", None, NAMES, "plain", True, "pinned"),
        ("pinned, again", "manual", "plain", "plain", NAMES, "plain", True, "pinned"),
        ("newly pinned", "interval", "plain", "map_head", NAMES, "plain", True, "pinned"),
        ("newly pinned, a person decides", "manual", "plain", "map_head", NAMES, "plain", False, "pinned"),
    ],
)
def test_decisions(what, rule, pinned, champion, names, recipe, promote, because):
    found = decided(portfolio(rule, pinned), champion, names=names)
    assert (found.recipe, found.promote) == (recipe, promote), what
    assert because in found.reason


@pytest.mark.parametrize(("champion", "recipe"), [(None, "map_head"), ("plain", "plain")])
@pytest.mark.parametrize("rule", ["interval", "always"])
def test_too_few_events_keep_the_incumbent(champion, recipe, rule):
    for rows in (judged_rows(500, events=19), pl.DataFrame()):
        found = decided(portfolio(rule), champion, rows=rows)
        assert (found.recipe, found.promote) == (recipe, True)
        assert "tell no candidates apart" in found.reason


def test_one_opening_month_of_one_segment_proves_nothing():
    rows = JUDGED.with_columns(region=pl.lit("north"), product=pl.lit("card"), opened=pl.lit(date(2022, 1, 5)))
    found = decided(portfolio(), "plain", rows=rows)
    assert found.recipe == "plain"
    assert "not wholly below zero" in found.reason


@pytest.mark.parametrize(
    ("earlier", "recipe"),
    [
        ((), "plain"),
        (("map_head",), "plain"),
        (("map_head", "map_head", ""), "map_head"),
        (("segments", "map_head", "map_head"), "plain"),
        (("", "map_head", "map_head"), "plain"),
    ],
)
def test_a_challenger_must_be_ahead_in_as_many_weeks_in_a_row_as_are_wanted(earlier, recipe):
    patient = replace(PORTFOLIO, promotion=Promotion("interval", weeks=3))
    evidence = summarise(JUDGED, NAMES[:3], BASELINES, patient, SPEC)
    found = decide(JUDGED, evidence, patient, SPEC, "plain", earlier)
    assert (found.recipe, found.promote) == (recipe, True)
    assert (found.incumbent, found.challenger) == ("plain", "map_head")
    (row,) = decision_rows(found, evidence)
    assert (row["slice"], row["candidate"], row["metric"]) == ("plain", "map_head", "loss_minus_incumbent")
    assert row["high"] == found.against_incumbent.high < 0


def test_a_week_that_a_backfill_trains_replaces_nobody():
    evidence = summarise(JUDGED, NAMES[:3], BASELINES, PORTFOLIO, SPEC)
    hasty = replace(PORTFOLIO, promotion=Promotion("interval", weeks=1))
    assert decide(JUDGED, evidence, hasty, SPEC, "plain", ["map_head"]).recipe == "map_head"
    found = decide(JUDGED, evidence, hasty, SPEC, "plain", ["map_head"], proves=False)
    assert (found.recipe, found.promote) == ("plain", True)
    assert "a backfill reads what the source has become" in found.reason
    assert decide(JUDGED, evidence, hasty, SPEC, None, proves=False).recipe == "map_head"


def test_the_first_champion_waits_for_no_person_and_no_second_week():
    shy = replace(SPEC, default="plain", promotion="manual")
    found = decide(JUDGED, summarise(JUDGED, NAMES[:3], BASELINES, PORTFOLIO, SPEC), PORTFOLIO, shy, None)
    assert (found.recipe, found.promote) == ("map_head", True)


# segment by segment


def segment_losses(effect: dict[tuple[str, str], float], rows: int = 1_000, seed: int = 1) -> pl.DataFrame:
    """Judged rows whose `plain` differs from `segments` by noise and, in named segments, by a shift of the logit."""
    r = np.random.default_rng(seed)
    frame = judged_rows(6 * rows, seed)
    shift = np.array([effect.get(key, 0.0) for key in frame.select("region", "product").iter_rows()])
    noise = r.normal(0, 0.05, frame.height)
    return frame.with_columns(
        plain=pl.col("map_head") + pl.Series(noise + shift), segments=pl.col("map_head")
    ).with_columns(pl.lit("segments").alias(OPPONENT))


def test_a_segment_that_loses_is_called_worse_and_others_hardly_ever_are():
    name, losing = "north|card", segment_losses({("north", "card"): 2.0})
    found = {row["slice"]: row for row in by_segment(losing, "plain", PORTFOLIO, SPEC)}
    assert found[name]["note"].startswith("worse;")
    assert found[name]["low"] > 0
    assert sum(row["note"].startswith("worse") for row in found.values()) <= 2
    assert sum(row["rows"] for row in found.values()) == losing.height


def test_the_estimate_of_a_segment_lies_between_what_was_seen_and_the_mean_of_all():
    rows = by_segment(segment_losses({}), "plain", PORTFOLIO, SPEC)
    seen = np.array([float(str(row["note"]).rpartition(" ")[2]) for row in rows])
    shrunk = np.array([row["value"] for row in rows], dtype=float)
    assert shrunk.std() < seen.std()
    assert (np.sign(seen - shrunk.mean()) * (seen - shrunk) >= -1e-5).all()
    assert by_segment(segment_losses({}), "segments", PORTFOLIO, SPEC) == []
    assert by_segment(pl.DataFrame(), "plain", PORTFOLIO, SPEC) == []


def test_a_jackknife_of_a_mean_is_its_own_error():
    """Over groups of one row each, left out in turn, it is the textbook's standard error of a mean."""
    r = np.random.default_rng(3)
    y = (r.random(GROUPS) < 0.5).astype(float)
    score = r.normal(size=GROUPS)
    found = jackknife(judge_of("bernoulli"), score, y, np.arange(GROUPS))["brier"]
    each = (special.expit(score) - y) ** 2
    width = stats.t.ppf(0.975, GROUPS - 1) * stats.sem(each)
    assert (found.mean, found.low, found.high) == pytest.approx((each.mean(), each.mean() - width, each.mean() + width))


def test_intervals_of_measures_hold_the_truth_as_often_as_they_say():
    """Binormal scores, whose AUC is known, in blocks of rows that share a shift of both scores and odds."""
    truth = stats.norm.cdf(1 / np.sqrt(2))
    held = []
    for seed in range(60):
        r = np.random.default_rng(seed)
        y = (r.random(400) < np.repeat(r.uniform(0.1, 0.5, 40), 10)).astype(float)
        found = jackknife(judge_of("bernoulli"), y + r.normal(size=400), y, np.repeat(np.arange(40), 10))["auc"]
        held.append(found.low <= truth <= found.high)
    assert 52 <= sum(held) <= 60  # of 60 at 95 %, fewer than 52 in one of two hundred


def test_measures_without_spread_have_no_interval():
    y = np.zeros(50)
    y[3] = 1.0
    alone = jackknife(judge_of("bernoulli"), np.linspace(-2, 2, 50), y, np.zeros(50))
    assert all(np.isinf([found.low, found.high]).all() for found in alone.values())
    once = jackknife(judge_of("bernoulli"), np.linspace(-2, 2, 50), y, np.arange(50))
    assert np.isinf(once["auc"].high) and np.isfinite(once["brier"].high)
    assert intervals(JUDGED.clear(), "map_head", PORTFOLIO, SPEC) == {}
    spread = intervals(JUDGED, "map_head", PORTFOLIO, SPEC)
    by_name = {(row["candidate"], row["metric"]): row for row in evidence_rows(EVIDENCE, {"map_head": spread})}
    assert by_name["map_head", "auc"]["low"] < by_name["map_head", "auc"]["value"] < by_name["map_head", "auc"]["high"]
    assert by_name["plain", "auc"]["low"] is None


# decisions at the edges


@pytest.mark.parametrize(("events", "known"), [(19, False), (20, True), (21, True)])
def test_twenty_judged_events_tell_candidates_apart(events, known):
    rows = judged_rows(500, events=events)
    found = decided(portfolio("always"), "gone", rows=rows)
    assert ("tell no candidates apart" not in found.reason) == known
    assert ("19 judged events" in found.reason) == (not known)
    assert (found.incumbent, found.challenger, found.against_incumbent) == (None, None, None)


@pytest.mark.parametrize(("high", "recipe"), [(-1e-9, "map_head"), (0.0, "plain"), (1e-9, "plain")])
def test_an_interval_that_ends_at_zero_proves_nothing(monkeypatch, high, recipe):
    gain = Interval(-1.0, -2.0, high)
    monkeypatch.setattr(decision, "against", lambda *_: gain)
    evidence = summarise(JUDGED, NAMES[:3], BASELINES, portfolio(), SPEC)
    found = decide(JUDGED, evidence, portfolio(), SPEC, "plain")
    assert (found.recipe, found.promote) == (recipe, True)
    assert (found.incumbent, found.challenger, found.against_incumbent) == ("plain", "map_head", gain)
    assert "-10000.0 [-20000.0, " in found.reason
    (row,) = decision_rows(found, evidence)
    assert (row["value"], row["low"], row["high"]) == (-1.0, -2.0, high)
    assert (row["rows"], row["events"], row["note"]) == (evidence.rows, evidence.events, found.reason)


@pytest.mark.parametrize(("weeks", "before", "recipe"), [(1, 0, "map_head"), (2, 0, "plain"), (2, 1, "map_head")])
def test_this_week_counts_and_a_person_is_asked_after_the_last(weeks, before, recipe):
    for rule, promote in (("interval", True), ("manual", recipe == "plain")):
        book = replace(PORTFOLIO, promotion=Promotion(rule, weeks=weeks))
        evidence = summarise(JUDGED, NAMES[:3], BASELINES, book, SPEC)
        found = decide(JUDGED, evidence, book, SPEC, "plain", ["map_head"] * before)
        assert (found.recipe, found.promote) == (recipe, promote)
        assert ("in 1 of the 2 weeks" in found.reason) == (recipe == "plain")


@pytest.mark.parametrize(
    ("rule", "pinned", "champion", "recipe", "promote", "because"),
    [
        ("interval", "auto", None, "map_head", True, "map_head starts, as the default"),
        ("manual", "auto", "plain", "plain", True, "plain stays"),
        ("interval", "plain", "map_head", "plain", True, "plain is pinned"),
        ("manual", "plain", "map_head", "plain", False, "plain is pinned"),
        ("manual", "plain", "plain", "plain", True, "plain is pinned"),
        ("manual", "plain", None, "plain", True, "plain is pinned"),
    ],
)
def test_retrospective_evidence_replaces_nobody(rule, pinned, champion, recipe, promote, because):
    evidence = summarise(JUDGED, NAMES[:3], BASELINES, portfolio(), SPEC)
    later = replace(evidence, retrospective="labels of today")
    found = decide(JUDGED, later, portfolio(rule, pinned), SPEC, champion)
    assert (found.recipe, found.promote) == (recipe, promote)
    assert found.reason.startswith(because)
    assert found.reason.endswith("the evidence is retrospective and proves nothing: labels of today")


def test_a_rule_of_the_portfolio_goes_before_that_of_its_risk_type():
    shy = replace(SPEC, promotion="manual")
    for rule, promote in (("interval", True), (None, False)):
        book = replace(PORTFOLIO, promotion=Promotion(rule, weeks=1))
        evidence = summarise(JUDGED, NAMES[:3], BASELINES, book, shy)
        assert decide(JUDGED, evidence, book, shy, "plain").promote == promote
