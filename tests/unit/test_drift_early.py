"""Early labels: what theory says can be seen is seen, what cannot is called blind, and calm scores are left alone."""

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import special, stats

from metarisk import metrics
from metarisk.domain import Feature
from metarisk.drift import concept, early, labels, multivariate, performance
from metarisk.drift.decide import SUSPECTED
from metarisk.drift.early import Known
from metarisk.drift.hierarchy import nodes, parents
from metarisk.drift.histograms import define
from metarisk.tasks import LABEL

SEGMENTS = ("region", "product")


class Rows(NamedTuple):
    """Rows of a book, as `Known.of` takes them."""

    keys: tuple
    codes: np.ndarray
    score: np.ndarray
    expected: np.ndarray
    event: np.ndarray
    periods: np.ndarray
    matured: np.ndarray

    def take(self, chosen):
        return Rows(self.keys, *(column[chosen] for column in self[1:]))


def book(*args, **options):
    return Known.of(*rows_of_book(*args, **options))


def rows_of_book(rng, rows, segments=10, truth=lambda expected, codes, logit: expected):
    """A book scored at its opening, one to twelve months known, equal hazards a month; `truth` is what really holds."""
    logit = rng.normal(-3.2, 1.0, rows)
    score, months = 1 / (1 + np.exp(-logit)), rng.integers(1, 13, rows)
    expected = early.expected_events(score, np.zeros(rows), months / 12)
    codes = np.arange(rows) % segments
    event = rng.random(rows) < truth(expected, codes, logit)
    keys = tuple((f"r{i % 2}", f"p{i}") for i in range(segments))
    return Rows(keys, codes, score, expected, event.astype(float), months, months == 12)


def of(found, metric, segment=None):
    return found.filter(pl.col("segment").eq_missing(pl.lit(segment)), metric=metric).row(0, named=True)


def test_events_needed_to_see_a_doubled_rate_are_those_of_the_exact_test():
    def ratio(events, alpha=0.05):
        return float(early.min_detectable_ratio(np.array([1e6]), np.array([events]), alpha)[0])

    assert ratio(10.0) < 2.0 < ratio(8.0)
    assert ratio(26.0, 0.05 / 200) < 2.0 < ratio(22.0, 0.05 / 200)
    assert ratio(31.0) < 1.5 < ratio(26.0)
    n, rate, alpha = 300, 0.05, 0.01
    found = float(early.min_detectable_ratio(np.array([n]), np.array([n * rate]), alpha)[0])
    least = next(k for k in range(n) if stats.binom.sf(k - 1, n, rate) <= alpha)
    assert stats.binom.sf(least - 1, n, rate * found) == pytest.approx(0.8, abs=1e-9)
    assert early.min_detectable_ratio(np.array([3, 0]), np.array([1.5, 0.0]), 0.01).tolist() == [np.inf, np.inf]


def test_an_expectation_between_two_months_is_that_of_survivors():
    score = np.array([0.2])
    whole = early.expected_events(score, np.zeros(1), np.ones(1))
    first, rest = (early.expected_events(score, np.array([a]), np.array([b])) for a, b in ((0.0, 0.3), (0.3, 1.0)))
    assert whole == pytest.approx(score)
    assert 1 - (1 - first) * (1 - rest) == pytest.approx(whole)


def test_scores_that_hold_are_left_alone():
    """Each kind of test has one false discovery rate over its 23 nodes: of 60 calm nights few raise anything."""
    kinds = {"early_events": 0.05, "early_auc": 0.01, "matured_auc": 0.01}
    raised = dict.fromkeys(kinds, 0)
    for seed in range(60):
        found = early.judge(SEGMENTS, book(np.random.default_rng(seed), 12_000))
        for kind in kinds:
            raised[kind] += found.filter(metric=kind)["status"].is_in(["watch", "alert"]).any()
    for kind, rate in kinds.items():
        assert raised[kind] <= stats.binom.isf(1e-3, 60, rate), raised


def test_doubled_events_are_seen_within_the_events_that_theory_needs():
    """At 20 expected events of a segment, one of 23 nodes, theory sees a doubling four times of five."""

    def doubled(expected, codes, logit):
        return np.where(codes == 3, np.minimum(2 * expected, 1), expected)

    rows = [
        of(early.judge(SEGMENTS, book(np.random.default_rng(seed), 6_300, truth=doubled)), "early_events", "r1|p3")
        for seed in range(50)
    ]
    assert np.mean([row["n_ref"] for row in rows]) == pytest.approx(20.3, abs=1.5)
    assert np.mean([row["min_detectable_ratio"] for row in rows]) == pytest.approx(2.0, abs=0.06)
    assert np.mean([row["status"] in ("watch", "alert") for row in rows]) >= 0.7


def test_a_segment_too_thin_to_show_a_doubling_is_blind_and_says_who_judges_it():
    found = early.judge(SEGMENTS, book(np.random.default_rng(1), 1_500))
    row = of(found, "early_events", "r1|p3")
    assert row["min_detectable_ratio"] > 2
    assert (row["status"], row["level"]) == ("blind", "region")
    assert row["detail"].endswith("too few to see a doubled rate: judged with r1: ok")


def test_a_rank_reversal_at_constant_rate_is_seen_and_the_level_stays_calm():
    def reversed_rank(expected, codes, logit):
        out = expected.copy()
        mine = np.flatnonzero(codes == 2)
        out[mine[np.argsort(expected[mine])]] = np.sort(expected[mine])[::-1]
        return out

    found = early.judge(SEGMENTS, book(np.random.default_rng(5), 16_000, truth=reversed_rank))
    assert of(found, "early_auc", "r0|p2")["status"] == "alert"
    assert of(found, "early_auc", "r0|p2")["value"] < 0.5
    assert of(found, "early_events", "r0|p2")["status"] in ("ok", "blind")
    assert of(found, "early_auc", "r0|p4")["status"] == "ok"


def test_overstated_risk_is_a_watch():
    found = early.judge(SEGMENTS, book(np.random.default_rng(6), 20_000, truth=lambda e, codes, logit: 0.5 * e))
    assert of(found, "early_events")["status"] == "watch"
    assert of(found, "early_events")["high"] < 1.0


def test_concept_drift_is_suspected_where_scores_look_as_good_as_ever():
    def doubled(expected, codes, logit):
        return np.where(codes == 0, np.minimum(2 * expected, 1), expected)

    rng = np.random.default_rng(7)
    known = rows_of_book(rng, 40_000, truth=doubled)
    first = early.judge(SEGMENTS, Known.of(*known))
    frame = pl.DataFrame({"p": known.score, "region": "r0", "product": [f"p{c}" for c in known.codes]}).lazy()
    frame = frame.with_columns(region=pl.Series([f"r{c % 2}" for c in known.codes]))
    scores = performance.count(frame, SEGMENTS, "p")
    calm = performance.compare(SEGMENTS, scores, scores)
    assert set(calm["status"]) == {"ok"}
    found = concept.concept(calm, first)
    suspected = found.filter(status=SUSPECTED)
    assert "r0|p0" in suspected["segment"]
    assert "events" in suspected.filter(segment="r0|p0")["detail"].item()
    assert of(found, "concept", "r0|p2")["status"] == "ok"
    worse = calm.with_columns(status=pl.lit("alert"))
    assert SUSPECTED not in concept.concept(worse, first)["status"]


def test_months_on_book_add_up_and_matured_rows_ask_for_no_shift():
    known = rows_of_book(np.random.default_rng(8), 30_000)
    found = early.judge(SEGMENTS, Known.of(*known))
    months = found.filter(metric="month_on_book")
    assert months["feature"].to_list() == [str(m) for m in range(1, 13)]
    expected = months["detail"].str.extract(r"events, ([\d.,]+) expected").str.replace(",", "").cast(pl.Float64)
    assert expected.sum() == pytest.approx(known.expected.sum(), abs=0.7)
    assert months["n_cur"].sum() == 30_000
    large = of(found, "calibration_in_the_large")
    assert abs(large["value"]) < 0.2


def test_nothing_known_is_no_row():
    empty = np.zeros(0)
    nothing = Known.of((), empty.astype(int), empty, empty, empty, empty, empty)
    assert early.judge(SEGMENTS, nothing).is_empty()
    assert early.judge(SEGMENTS, Known().plus(nothing)).is_empty()


def test_parts_of_a_book_that_know_other_segments_add_up_to_the_whole():
    rng = np.random.default_rng(3)
    rows = rows_of_book(rng, 20_000, truth=lambda e, codes, logit: np.where(codes == 4, np.minimum(3 * e, 1), e))
    whole = early.judge(SEGMENTS, Known.of(*rows))
    part = np.where(rows.codes < 3, 0, rng.integers(0, 3, 20_000))
    joined = Known()
    for number in (2, 0, 1):
        some = rows.take(part == number)
        present, codes = np.unique(some.codes, return_inverse=True)
        keys = [rows.keys[code] for code in present]
        joined = joined.plus(Known.of(*some._replace(keys=tuple(keys), codes=codes)))
    order = ["metric", "level", "segment", "feature"]
    assert_frame_equal(early.judge(SEGMENTS, joined).sort(order), whole.sort(order), rel_tol=1e-9)
    assert "alert" in whole["status"]


def test_sums_by_bins_of_the_score_tell_what_the_rows_tell():
    rows = rows_of_book(np.random.default_rng(9), 30_000)
    found = early.judge(SEGMENTS, Known.of(*rows))
    mature = rows.take(rows.matured)
    assert of(found, "matured_auc")["value"] == pytest.approx(metrics.auc(mature.score, mature.event), abs=2e-4)
    assert of(found, "early_auc")["value"] == pytest.approx(metrics.auc(rows.score, rows.event), abs=2e-4)
    logit = special.logit(mature.score)
    for code in (None, 0, 7):
        name = None if code is None else "|".join(rows.keys[code])
        mine = slice(None) if code is None else mature.codes == code
        shift = metrics.calibration_in_the_large(logit[mine], mature.event[mine])
        assert of(found, "calibration_in_the_large", name)["value"] == pytest.approx(shift, abs=1e-4)


def test_the_hierarchy_names_every_level_and_what_stands_above():
    of_keys = nodes((("n", "a|b"), ("n", "c")), SEGMENTS)
    assert [(node.level, node.segment) for node in of_keys] == [
        ("all", None), ("region", "n"), ("product", "a\\|b"), ("product", "c"), ("cell", "n|a\\|b"), ("cell", "n|c"),
    ]  # fmt: skip
    assert parents(of_keys)[4:] == ((1, 2, 0), (1, 3, 0))
    assert [node.level for node in nodes((("n",),), ("region",))] == ["all", "cell"]


def test_label_rates_are_compared_with_those_that_taught():
    def counted(rows, rate, seed):
        y = (np.random.default_rng(seed).random(rows) < rate).astype(float)
        return labels.count(pl.DataFrame({"region": "n", "product": "a", LABEL: y}), SEGMENTS)

    known = counted(4000, 0.05, 0)
    assert of(labels.compare(SEGMENTS, known, counted(1500, 0.05, 1)), "label_rate")["status"] == "ok"
    assert of(labels.compare(SEGMENTS, known, counted(1500, 0.10, 1)), "label_rate")["status"] == "alert"
    assert of(labels.compare(SEGMENTS, known, counted(30, 0.10, 1)), "label_rate")["status"] == "blind"
    nothing = labels.count(
        pl.DataFrame(schema={"region": pl.String, "product": pl.String, LABEL: pl.Float64}), SEGMENTS
    )
    assert of(labels.compare(SEGMENTS, known, nothing), "label_rate")["status"] == "blind"
    assert labels.compare(SEGMENTS, nothing, nothing)["status"].to_list() == ["blind"]


def together(seed, rows, correlation=0.0, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6))
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1 - correlation**2) * x[:, 1]
    x[:, 2] += shift
    return pl.DataFrame({f"x{i}": x[:, i] for i in range(6)}).lazy()


def test_a_correlation_that_turns_is_seen_though_no_feature_moved():
    bins, _ = define(together(0, 9_000), {f"x{i}": Feature("numeric") for i in range(6)}, None)
    known = multivariate.sample(together(0, 9_000), bins)
    found = multivariate.judge(known, multivariate.sample(together(1, 9_000, correlation=0.7), bins))
    assert found["status"].item() == "alert"
    assert "x0" in found["detail"].item()
    assert "x1" in found["detail"].item()


def test_a_classifier_finds_nothing_where_nothing_is():
    bins, _ = define(together(0, 9_000), {f"x{i}": Feature("numeric") for i in range(6)}, None)
    found = [
        multivariate.judge(
            multivariate.sample(together(100 + s, 1_000), bins), multivariate.sample(together(200 + s, 1_000), bins)
        )
        for s in range(20)
    ]
    assert {frame["status"].item() for frame in found} == {"ok"}
    assert sum(frame["p"].item() <= 0.05 for frame in found) <= 4
    few = multivariate.sample(together(1, 50), bins)
    assert multivariate.judge(few, few)["status"].item() == "blind"
    assert multivariate.judge(None, few)["status"].item() == "blind"
