"""Segments held out of training: what taught, what was shown of them, and what the tables say."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from metarisk import evidence, judging, training
from metarisk.evidence import held_out_rows, held_out_table
from metarisk.tasks import LABEL
from tests.unit.loan_examples import PORTFOLIO, SPEC, at_risk, book, silent

BASELINES = ("pooled_logistic", "segment_logistic")
TEACH = at_risk(book(4_000, seed=7))


def judge(teach: pl.DataFrame = TEACH) -> pl.DataFrame:
    return judging.held_out(teach, PORTFOLIO, SPEC, "map_head", BASELINES, seed=0, progress=silent)


@pytest.fixture(scope="module")
def judged() -> pl.DataFrame:
    return judge()


def test_judged_are_the_newer_rows_of_regions_that_had_so_many_events(judged):
    older, newer = training.forward_split(TEACH, PORTFOLIO)
    events = dict(older.group_by("region").agg(pl.col(LABEL).sum()).iter_rows())
    for k in judging.HELD_OUT["event"]:
        rich = [region for region, n in events.items() if n >= k]
        expected = newer.filter(pl.col("region").is_in(rich))["loan"]
        assert sorted(judged.filter(k=k)["loan"]) == sorted(expected)
    # of a held-out region, all cells together show k events, or what they had
    shown = judged.unique(["k", "region", "product"]).group_by("k", "region").agg(pl.col("support_events").sum())
    assert all(row["support_events"] <= row["k"] for row in shown.iter_rows(named=True))
    assert shown["support_events"].max() == 50


def test_what_a_held_out_region_showed_before_its_last_k_events_changes_nothing(judged):
    older, _ = training.forward_split(TEACH, PORTFOLIO)
    own = older.filter(region="north").sort("opened", "loan", descending=True)
    early = own.filter(pl.col(LABEL).cum_sum() > 51)["loan"]
    assert early.len() > 50
    turned = TEACH.with_columns(
        pl.when(pl.col("loan").is_in(early.to_list())).then(-pl.col("burden")).otherwise("burden").alias("burden")
    )
    again = judge(turned)
    north = judged["region"] == "north"
    for name in ("map_head", *BASELINES):
        np.testing.assert_array_equal(again.filter(north)[name], judged.filter(north)[name])
        assert (again.filter(~north)[name] != judged.filter(~north)[name]).any()


def test_more_events_move_an_adapted_score_further_from_the_pool(judged):
    by_k = {k: judged.filter(k=k, region="north").sort("loan")["map_head"].to_numpy() for k in (5, 50)}
    moved = {k: np.abs(score - by_k[5]).mean() for k, score in by_k.items()}
    assert moved[50] > 0.02


def test_tables_hold_losses_and_paired_differences_by_k(judged):
    rows = held_out_rows(judged, "map_head", BASELINES, PORTFOLIO, SPEC)
    by_name = {(row["slice"], row["candidate"], row["metric"]): row for row in rows}
    part = judged.filter(k=20)
    y = part[LABEL].to_numpy()
    losses = {
        name: np.logaddexp(0, part[name].to_numpy()) - y * part[name].to_numpy() for name in ("map_head", *BASELINES)
    }
    for name, loss in losses.items():
        assert by_name["k=20", name, "log_loss"]["value"] == pytest.approx(loss.mean(), rel=1e-12)
    row = by_name["k=20", "map_head", "loss_minus_segment_logistic"]
    assert row["value"] == pytest.approx((losses["map_head"] - losses["segment_logistic"]).mean(), rel=1e-9)
    assert row["low"] <= row["value"] <= row["high"]
    assert (row["protocol"], row["rows"], row["events"]) == ("held_out_segments", part.height, int(y.sum()))
    lines = held_out_table(rows)
    assert [line[""] for line in lines] == ["k=5", "k=10", "k=20", "k=50"]
    assert held_out_rows(pl.DataFrame(), "map_head", BASELINES, PORTFOLIO, SPEC) == held_out_table([]) == []


# features that leak


def test_a_feature_alone_ranks_as_its_own_values_do_in_either_direction():
    older, newer = training.forward_split(TEACH, PORTFOLIO)
    found = evidence.single_feature_auc(older, newer, PORTFOLIO)
    assert set(found) == set(PORTFOLIO.features)
    y, burden = newer[LABEL].to_numpy() == 1, newer["burden"].to_numpy()
    area = (burden[y][:, None] > burden[~y][None, :]).mean()
    assert found["burden"] == pytest.approx(area, abs=1e-12)
    turned = evidence.single_feature_auc(older, newer.with_columns(burden=-pl.col("burden")), PORTFOLIO)
    assert turned["burden"] == pytest.approx(area, abs=1e-12)
    few = newer.with_columns(pl.lit(0.0).alias(LABEL))
    assert evidence.single_feature_auc(older, few, PORTFOLIO) == {}
