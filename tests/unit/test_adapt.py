"""Adapting to every segment: statuses and reasons, identities, files, and what a segment without rows gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from metarisk.adapt import LEARNERS, RECIPES, Adapted, FittedModel, Recipe, adapt
from metarisk.adapt.adapting import _shared
from metarisk.bases import BASES
from metarisk.calibration import Calibration
from metarisk.domain import ModelError, segment_name
from metarisk.tasks import LABEL
from tests.unit.loan_examples import PORTFOLIO, SPEC, adapted, book, model, support, to_score, with_limits

ADAPTING = ["map_head", "maml"]


def flipped(frame: pl.DataFrame, loan: str) -> pl.DataFrame:
    return frame.with_columns(pl.when(pl.col("loan") == loan).then(1 - pl.col(LABEL)).otherwise(LABEL).alias(LABEL))


def mixed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sample(fraction=1, shuffle=True, seed=9)


def test_every_recipe_names_bases_and_a_learner_that_exist():
    for recipe in RECIPES.values():
        assert set(recipe.bases) <= set(BASES)
        assert recipe.learner in LEARNERS
        recipe.make()


def test_a_misspelt_option_is_refused_with_its_name():
    with pytest.raises(ModelError, match=r"map_head.*dampling.*learner.options"):
        Recipe(("logistic",), "map_head", {"dampling": 1}).make()


def test_statuses_say_what_was_done_and_why():
    rows = support()
    counts = rows.group_by("region", "product").agg(rows=pl.len(), events=pl.col(LABEL).sum())
    found = adapted().segments
    assert len(found) == counts.height
    for region, product, n, events in counts.iter_rows():
        segment = found[region, product]
        assert (segment.support_rows, segment.support_events) == (n, events)
        if n < 30:
            status, reason = "abstained", f"{n} matured rows, at least 30 are wanted"
        elif events < 2:
            status, reason = "abstained", f"{int(events)} events, at least 2 are wanted"
        else:
            status, reason = "adapted", f"{n} matured rows, {int(events)} events"
        assert segment.status == status
        assert reason in segment.reason
    assert {segment.status for segment in found.values()} == {"adapted", "abstained"}


def test_too_few_events_are_named_even_where_rows_suffice():
    found = adapt(model(), "m", support(), with_limits(min_support_rows=0, min_support_events=10_000), SPEC)
    assert {segment.status for segment in found.segments.values()} == {"abstained"}
    assert all("events, at least 10000 are wanted" in segment.reason for segment in found.segments.values())


def test_a_pooled_model_falls_back_everywhere_and_scores_its_base():
    found = adapted("pooled_logistic")
    assert {segment.status for segment in found.segments.values()} == {"fallback"}
    rows = to_score()
    score, variance = found.score(rows, PORTFOLIO)
    np.testing.assert_array_equal(score, model("pooled_logistic").fresh(rows)[1])
    assert variance is None


@pytest.mark.parametrize("recipe", ADAPTING)
def test_the_order_of_rows_changes_no_bit(recipe):
    found, again = adapted(recipe), adapt(model(recipe), "model", mixed(support()), PORTFOLIO, SPEC)
    assert again.segments == found.segments
    assert again.to_files() == found.to_files()
    rows = to_score()
    shuffled = mixed(rows)
    score, variance = (
        dict(zip(rows["loan"], values, strict=True)) if values is not None else None
        for values in found.score(rows, PORTFOLIO)
    )
    other, other_variance = again.score(shuffled, PORTFOLIO)
    assert other.tolist() == [score[loan] for loan in shuffled["loan"]]
    if variance is not None:
        assert other_variance.tolist() == [variance[loan] for loan in shuffled["loan"]]


@pytest.mark.parametrize("recipe", ADAPTING)
def test_a_score_does_not_depend_on_what_it_is_scored_with(recipe):
    rows = to_score()
    score, _ = adapted(recipe).score(rows, PORTFOLIO)
    parts = [adapted(recipe).score(rows[start : start + 13], PORTFOLIO)[0] for start in range(0, rows.height, 13)]
    np.testing.assert_array_equal(np.concatenate(parts), score)


@pytest.mark.parametrize("recipe", [*ADAPTING, "pooled_lightgbm"])
def test_files_read_back_to_the_same_bits(recipe):
    files = model(recipe).to_files()
    again = FittedModel.from_files(files)
    assert again.to_files() == files
    assert {name: value.shape for name, value in again.state.items()} == {
        name: np.shape(value) for name, value in model(recipe).state.items()
    }
    stored = Adapted.from_files(again, adapted(recipe).to_files())
    assert stored.segments == adapted(recipe).segments
    rows = to_score()
    for found, expected in zip(stored.score(rows, PORTFOLIO), adapted(recipe).score(rows, PORTFOLIO), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert adapt(again, "model", support(), PORTFOLIO, SPEC).to_files() == adapted(recipe).to_files()


def test_files_are_text_and_safetensors():
    names = set(model().to_files()) | set(adapted().to_files())
    assert {name.rpartition(".")[2] for name in names} == {"json", "safetensors"}


@pytest.mark.parametrize("recipe", ADAPTING)
def test_identities_change_with_the_support_and_the_model_and_with_nothing_else(recipe):
    rows, found = support(), adapted(recipe).segments
    loan, touched = rows["loan"][0], (rows["region"][0], rows["product"][0])
    changed = adapt(model(recipe), "model", flipped(rows, loan), PORTFOLIO, SPEC).segments
    same = {key for key in found if changed[key].support_hash == found[key].support_hash}
    assert same == set(found) - {touched}
    carried = {key for key in found if changed[key].adaptation_id == found[key].adaptation_id}
    # the effects of a joint learner depend on every segment's support
    assert carried == (set() if LEARNERS[RECIPES[recipe].learner].joint else same)
    renamed = adapt(model(recipe), "another", rows, PORTFOLIO, SPEC).segments
    assert all(renamed[key].adaptation_id != found[key].adaptation_id for key in found)
    assert len({segment.adaptation_id for segment in found.values()}) == len(found)


def test_a_corrected_feature_of_a_support_row_changes_the_identity():
    rows = support()
    moved = rows.with_columns(
        pl.when(pl.col("loan") == rows["loan"][0]).then(pl.col("burden") + 1).otherwise("burden").alias("burden")
    )
    key = (rows["region"][0], rows["product"][0])
    changed = adapt(model("maml"), "model", moved, PORTFOLIO, SPEC).segments[key]
    assert changed.support_hash != adapted("maml").segments[key].support_hash


def test_a_segment_with_last_nights_identity_is_carried():
    found = adapted()
    name = {segment_name(key): segment for key, segment in found.segments.items()}
    previous = {n: s.adaptation_id if i % 2 else "other" for i, (n, s) in enumerate(sorted(name.items()))}
    for key, segment in found.carried(previous).segments.items():
        before = found.segments[key]
        unchanged = before.status == "adapted" and previous[segment_name(key)] == before.adaptation_id
        assert segment.status == ("carried" if unchanged else before.status)
        assert replace(segment, status=before.status, reason=before.reason) == before


@pytest.mark.parametrize("recipe", ADAPTING)
def test_without_support_and_in_segments_never_seen_scores_come_from_the_prior(recipe):
    nothing = adapt(model(recipe), "model", support().head(0), PORTFOLIO, SPEC)
    assert nothing.segments == {}
    rows = to_score().with_columns(region=pl.lit("moon"))
    for night in (nothing, adapted(recipe)):
        score, _ = night.score(rows, PORTFOLIO)
        assert np.isfinite(score).all()
        # without own rows a segment scores near what the bases say
        assert np.abs(score - model(recipe).fresh(rows)[1]).max() < 3


@pytest.mark.parametrize("recipe", ADAPTING)
def test_adapting_moves_scores_towards_what_the_segment_shows(recipe):
    rows = support()
    key = ("south", "card")
    here = (pl.col("region") == key[0]) & (pl.col("product") == key[1])
    worse = rows.with_columns(pl.when(here).then(1.0).otherwise(LABEL).alias(LABEL))
    scored = book().filter(here)
    before, _ = adapted(recipe).score(scored, PORTFOLIO)
    after, _ = adapt(model(recipe), "model", worse, PORTFOLIO, SPEC).score(scored, PORTFOLIO)
    assert after.mean() > before.mean() + 0.3


def test_a_segment_of_one_class_adapts_without_infinities():
    rows = support().with_columns(pl.when(pl.col("region") == "south").then(0.0).otherwise(LABEL).alias(LABEL))
    score, variance = adapt(model(), "model", rows, with_limits(min_support_events=0), SPEC).score(
        to_score(), PORTFOLIO
    )
    assert np.isfinite(score).all()
    assert (variance > 0).all()


def test_a_label_out_of_range_is_refused():
    with pytest.raises(ModelError, match="expects labels 0 or 1"):
        adapt(model(), "model", support().with_columns(pl.lit(2.0).alias(LABEL)), PORTFOLIO, SPEC)


def test_the_newest_events_are_told_to_every_segment_that_lacks_them():
    frame = pl.DataFrame(
        {
            "opened": [date(2026, 1, day) for day in (1, 2, 3, 4, 5, 6)],
            LABEL: [1.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        }
    )
    codes = np.array([0, 0, 0, 1, 1, 2])
    portfolio = replace(
        PORTFOLIO,
        columns=replace(PORTFOLIO.columns, opened_on="opened"),
        thresholds=replace(PORTFOLIO.thresholds, share_events=2),
    )
    rows, segments = _shared(codes, frame, 3, portfolio)
    # Rows 2 and 4 are the newest events: row 2 stays in segment 0 and goes to 1 and 2, row 4 to 0 and 2.
    assert sorted(zip(rows.tolist(), segments.tolist(), strict=True)) == sorted(
        [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (4, 0), (2, 1), (2, 2), (4, 2)]
    )


def test_shared_events_change_the_adaptation_of_a_learner_that_reads_rows_and_no_other():
    told = replace(PORTFOLIO, thresholds=replace(PORTFOLIO.thresholds, share_events=5))
    rows = support()
    for name, changed in (("maml", True), ("map_head", False)):
        fitted = model(name)
        alone, together = (adapt(fitted, "m", rows, portfolio, SPEC) for portfolio in (PORTFOLIO, told))
        same = [alone.segments[key].support_hash == together.segments[key].support_hash for key in alone.segments]
        assert all(same) is not changed
        counts = [(one.support_rows, one.support_events) for one in alone.segments.values()]
        assert counts == [(one.support_rows, one.support_events) for one in together.segments.values()]


def test_events_of_elsewhere_change_who_is_risky_and_not_how_many():
    told = replace(PORTFOLIO, thresholds=replace(PORTFOLIO.thresholds, share_events=50))
    rows, fitted = support(), model("maml")
    together = adapt(fitted, "m", rows, told, SPEC)
    link, _ = together.score(rows, told, fitted.unseen(rows))
    raised, _ = replace(together, level=Calibration()).score(rows, told, fitted.unseen(rows))
    seen = rows[LABEL].mean()
    assert abs(expit(link).mean() - seen) < 0.1 * seen
    assert abs(expit(raised).mean() - seen) > 2 * abs(expit(link).mean() - seen)
    again = Adapted.from_files(fitted, together.to_files())
    assert np.array_equal(again.score(rows, told, fitted.unseen(rows))[0], link)
