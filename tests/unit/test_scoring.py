"""Score tables: schema, intervals, statuses, and scores that do not depend on how rows are batched."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from metarisk import calibration
from metarisk.adapt import Adapted
from metarisk.calibration import Calibration
from metarisk.domain import segment_name
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.scoring import KEPT, Z90, mean_score, reasons_cut, score
from tests.unit.loan_examples import AS_OF, PORTFOLIO, adapted, to_score

MOON = pl.when(pl.col("loan").str.ends_with("7")).then(pl.lit("moon|base")).otherwise("region").alias("region")

SINGLE = sorted(name for name, likelihood in LIKELIHOODS.items() if likelihood.outputs == 1)


def scored(batches: list[pl.DataFrame], recipe: str = "map_head") -> pl.DataFrame:
    return pl.concat(score(batches, adapted(recipe), PORTFOLIO, run_id="run", as_of=AS_OF))


def test_a_table_has_the_schema_and_the_rows_of_the_population_in_order():
    rows = to_score()
    table = scored([rows])
    assert dict(table.schema) == KEPT
    assert table["entity"].to_list() == rows["loan"].to_list()
    constants = table.select("run_id", "portfolio", "as_of", "target").unique().rows()
    assert constants == [("run", "loans", AS_OF, "pd_12m")]


def test_scores_are_probabilities_of_the_link_and_the_interval_is_central():
    rows = to_score()
    table = scored([rows])
    link, variance = adapted().score(rows, PORTFOLIO)
    np.testing.assert_allclose(table["score"], special.expit(link), rtol=1e-14)
    low, high = stats.norm.interval(0.9, link, np.sqrt(variance))
    np.testing.assert_allclose(table["score_low"], special.expit(low), rtol=1e-12)
    np.testing.assert_allclose(table["score_high"], special.expit(high), rtol=1e-12)
    assert (table["score_low"] < table["score"]).all()
    assert (table["score"] < table["score_high"]).all()
    assert abs(Z90 - stats.norm.ppf(0.95)) < 1e-15


def test_points_and_grades_are_those_of_the_score():
    table = scored([to_score()])
    card = PORTFOLIO.scorecard
    np.testing.assert_allclose(table["points"], calibration.points(special.logit(table["score"]), card), rtol=1e-12)
    bounds = {grade.name: grade.upper for grade in card.grades}
    for name, probability in table.select("grade", "score").iter_rows():
        below = [upper for upper in bounds.values() if upper < bounds[name]]
        assert max(below, default=0.0) < probability <= bounds[name]
    means = table.group_by("grade").agg(pl.col("score").mean()).sort("grade")["score"]
    assert means.is_sorted() and len(means) > 2
    assert table["expected_loss"].null_count() == table.height


def test_the_expected_loss_is_the_product_and_null_where_a_row_lacks_a_part():
    columns = replace(PORTFOLIO.columns, lgd="lgd", ead="ead")
    rows = to_score().with_columns(
        lgd=pl.lit(0.4), ead=pl.when(pl.int_range(pl.len()) == 0).then(None).otherwise(1_000.0)
    )
    (table,) = score([rows], adapted(), replace(PORTFOLIO, columns=columns), run_id="run", as_of=AS_OF)
    assert table["expected_loss"][0] is None
    np.testing.assert_allclose(table["expected_loss"][1:], 400 * table["score"][1:], rtol=1e-12)


def test_what_is_no_probability_has_neither_points_nor_grade():
    one = adapted()
    night = replace(one, model=replace(one.model, likelihood="gaussian"))
    (table,) = score([to_score()], night, PORTFOLIO, run_id="run", as_of=AS_OF)
    assert table["grade"].null_count() == table["points"].null_count() == table.height


def test_a_level_moves_the_score_its_interval_and_its_points():
    rows = to_score()
    level = Calibration(0.2, {"south|card": -0.5})
    (moved,) = score([rows], adapted(), PORTFOLIO, run_id="run", as_of=AS_OF, level=level)
    plain = scored([rows])
    shift = np.where(plain["segment"] == "south|card", -0.3, 0.2)
    for column in ("score", "score_low", "score_high"):
        np.testing.assert_allclose(special.logit(moved[column]), special.logit(plain[column]) + shift, rtol=1e-9)
    factor = PORTFOLIO.scorecard.pdo / np.log(2)
    np.testing.assert_allclose(moved["points"], plain["points"] - factor * shift, rtol=1e-9)


def test_the_riskiest_share_gets_reasons_whatever_the_batches():
    rows = to_score()
    link, _ = adapted().score(rows, PORTFOLIO)
    cut = reasons_cut(lambda: [link], 0.05)
    (table,) = score([rows], adapted(), PORTFOLIO, run_id="run", as_of=AS_OF, reasons_from=cut)
    told = table["reasons"].is_not_null()
    assert told.sum() == math.ceil(0.05 * rows.height)
    assert table["score"].filter(told).min() > table["score"].filter(~told).max()
    found = json.loads(table["reasons"].drop_nulls()[0])
    assert {*found[0]} == {"code", "text", "points"}
    parts = score(
        [rows[i : i + 17] for i in range(0, rows.height, 17)],
        adapted(),
        PORTFOLIO,
        run_id="run",
        as_of=AS_OF,
        reasons_from=cut,
    )
    assert pl.concat(parts).equals(table)


@settings(deadline=None)
@given(
    parts=st.lists(st.lists(st.floats(allow_nan=False) | st.floats(-3, 3).map(lambda value: round(value, 1)))),
    share=st.floats(0, 1) | st.sampled_from([0.01, 0.1]),
)
def test_the_cut_of_parts_is_that_of_all_sorted(parts, share):
    together = np.sort(np.array([value for part in parts for value in part]))
    cut = reasons_cut(lambda: (np.array(part) for part in parts), share)
    if not len(together) or share == 0:
        assert cut == math.inf
    else:
        assert cut == (-math.inf if share == 1 else together[-math.ceil(share * len(together))])


def test_a_share_of_none_and_of_all():
    link = np.arange(200.0)
    assert (link >= reasons_cut(lambda: [link], 0.0)).sum() == 0
    assert (link >= reasons_cut(lambda: [link], 0.01)).sum() == 2
    assert (link >= reasons_cut(lambda: [link], 1.0)).sum() == 200
    assert reasons_cut(lambda: [link[:0]], 0.5) == math.inf


def test_without_a_variance_there_is_no_interval():
    table = scored([to_score()], "pooled_logistic")
    assert table["score_low"].null_count() == table.height == table["score_high"].null_count()
    assert table["score"].is_between(0, 1).all()


def test_every_row_tells_its_segment_and_what_was_done_for_it():
    rows = to_score().with_columns(MOON)
    table = scored([rows])
    for line, row in zip(table.iter_rows(named=True), rows.iter_rows(named=True), strict=True):
        key = (row["region"], row["product"])
        segment = adapted().segments.get(key)
        assert line["segment"] == segment_name(key)
        expected = (segment.status, segment.adaptation_id) if segment else ("fallback", None)
        assert (line["status"], line["adaptation_id"]) == expected
    assert set(table["status"]) >= {"adapted", "fallback"}
    assert "moon\\|base" in table["segment"][table["status"].to_list().index("fallback")]


@pytest.mark.parametrize("recipe", ["map_head", "maml", "pooled_lightgbm"])
def test_batches_and_order_change_no_bit(recipe):
    rows = to_score().with_columns(MOON)
    whole = scored([rows], recipe)
    assert scored([rows[i : i + 17] for i in range(0, rows.height, 17)], recipe).equals(whole)
    mixed = rows.sample(fraction=1, shuffle=True, seed=2)
    assert scored([mixed], recipe).sort("entity").equals(whole.sort("entity"))


def test_it_streams():
    batches = iter([to_score(), to_score().head(0), to_score().head(1)])
    tables = score(batches, adapted(), PORTFOLIO, run_id="run", as_of=AS_OF)
    assert next(tables).height == to_score().height
    assert [table.height for table in tables] == [0, 1]


@settings(deadline=None)
@given(link=st.lists(st.floats(-30, 30), max_size=40), offset=st.integers(0, 40), name=st.sampled_from(SINGLE))
def test_a_mean_does_not_depend_on_its_place(link, offset, name):
    one = adapted()
    night = replace(one, model=replace(one.model, likelihood=name))
    values = np.array(link)
    moved = mean_score(night, np.concatenate([np.zeros(offset), values]))[offset:]
    assert moved.tolist() == mean_score(night, values).tolist()


def test_a_variance_that_rounds_below_zero_gives_a_point():
    class Rounded(Adapted):
        def score(self, frame, portfolio, rows=None):
            return np.zeros(frame.height), np.full(frame.height, -1e-18)

    night = Rounded(adapted().model, adapted().adaptation, adapted().segments)
    (table,) = score([to_score()], night, PORTFOLIO, run_id="run", as_of=AS_OF)
    assert (table["score_low"] == 0.5).all()
    assert (table["score_high"] == 0.5).all()
