"""Nothing dated or learned after as_of reaches a label, a model or a score."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarisk import judging, training
from metarisk.adapt import adapt
from metarisk.domain import Validation
from metarisk.scoring import score
from metarisk.tasks import LABEL, forward_folds, labelled, newest, population
from tests.unit.loan_examples import AS_OF, PORTFOLIO, SPEC, book, fitted, silent

BOOK = book(1_200, seed=7)
TOLD = ("event", "known", "left")
VALUES = replace(PORTFOLIO, columns=replace(PORTFOLIO.columns, event_date=None, value="amount", exit_date=None))


def another_future(frame: pl.DataFrame, as_of: date, seed: int) -> pl.DataFrame:
    """The same past and another future.

    Events and exits that were not known by as_of happen otherwise, earlier, never, or to other loans; loans opened
    later are other loans, more of them, and everything stands in another order.
    """
    r = np.random.default_rng(seed)
    n = frame.height

    def later(share: float) -> pl.Series:
        known = np.datetime64(as_of) + r.integers(1, 700, n).astype("timedelta64[D]")
        return pl.Series(np.where(r.random(n) < share, known, np.datetime64("NaT")))

    # an event may even be dated before as_of, as long as nobody knew
    event = pl.Series(frame["opened"].to_numpy() + r.integers(0, 400, n).astype("timedelta64[D]"))
    unknown = ~(pl.col("known") <= as_of).fill_null(False)
    staying = ~(pl.col("left") <= as_of).fill_null(False)
    known = later(0.7)
    changed = frame.with_columns(
        event=pl.when(unknown).then(event).otherwise("event"),
        known=pl.when(unknown).then(known).otherwise("known"),
        left=pl.when(staying).then(later(0.5)).otherwise("left"),
    )
    if "amount" in frame.columns:
        amounts = pl.Series(r.normal(size=n))
        changed = changed.with_columns(amount=pl.when(unknown).then(amounts).otherwise("amount"))
    past = changed.filter(pl.col("opened") <= as_of)
    days = pl.Series([as_of + timedelta(days=int(d)) for d in r.integers(1, 300, n)])
    young = changed.with_columns(
        loan="new" + pl.col("loan"), opened=days, region=pl.lit("elsewhere"), burden=pl.lit(1e6), channel=pl.lit("odd")
    )
    return pl.concat([past, young]).sample(fraction=1, shuffle=True, seed=seed)


def test_the_other_future_is_another_one():
    other = another_future(BOOK, AS_OF, 0)
    both = BOOK.join(other, on="loan", suffix="_other")
    for told in TOLD:
        assert (both[told].ne_missing(both[f"{told}_other"])).sum() > 100
    assert labelled(other.lazy(), PORTFOLIO, SPEC, AS_OF + timedelta(days=365)).collect().height


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), as_of=st.dates(date(2021, 6, 1), date(2023, 6, 30)))
def test_labels_and_population_at_any_date_do_not_know_what_comes(seed, as_of):
    frames = [frame.lazy() for frame in (BOOK, another_future(BOOK, as_of, seed))]
    for rows in (
        [labelled(frame, PORTFOLIO, SPEC, as_of) for frame in frames],
        [population(frame, PORTFOLIO, as_of) for frame in frames],
        [newest(labelled(frame, PORTFOLIO, SPEC, as_of), PORTFOLIO, per_segment=15, total=100) for frame in frames],
    ):
        before, after = (part.lazy().sort("loan").collect() for part in rows)
        assert before.height
        assert after.equals(before)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_values_learned_later_do_not_teach(seed):
    frame = BOOK.with_columns(amount=pl.Series(np.arange(BOOK.height, dtype=float)))
    spec = replace(SPEC, label="value")
    before, after = (
        labelled(rows.lazy(), VALUES, spec, AS_OF).sort("loan").collect()
        for rows in (frame, another_future(frame, AS_OF, seed))
    )
    assert before[LABEL].len() > 50
    assert after.drop("left").equals(before.drop("left"))


@pytest.mark.parametrize("recipe", ["map_head", "maml"])
def test_models_and_scores_are_bit_identical_whatever_the_future_brings(recipe):
    nights = []
    for frame in (BOOK, another_future(BOOK, AS_OF, 1)):
        model = fitted(recipe, frame)
        support = training.teaching_rows(frame.lazy(), PORTFOLIO, SPEC, AS_OF)
        adapted = adapt(model, "model", support, PORTFOLIO, SPEC)
        rows = population(frame.lazy(), PORTFOLIO, AS_OF).collect()
        table = pl.concat(score([rows], adapted, PORTFOLIO, run_id="run", as_of=AS_OF))
        nights.append((model.to_files(), adapted.to_files(), table.sort("entity")))
    (files, adaptation, table), (other_files, other_adaptation, other_table) = nights
    assert other_files == files
    assert other_adaptation == adaptation
    assert table.height > 100
    assert other_table.equals(table)


def test_a_judged_score_does_not_know_what_was_learned_after_its_cut():
    portfolio = replace(PORTFOLIO, validation=Validation(2, 3))
    frame = book(3_000, seed=8)
    (_, last) = forward_folds(portfolio, AS_OF)
    other = another_future(frame, last.cut, 3)
    # judged rows keep their own inputs, their outcomes differ
    other = pl.concat([other.filter(pl.col("opened") <= last.cut), frame.filter(pl.col("opened") > last.cut)])
    before, after = (
        judging.walk_forward(
            rows.lazy(), portfolio, SPEC, ["segment_logistic", "map_head"], AS_OF, seed=0, progress=silent
        ).filter(fold=str(last.cut))
        for rows in (frame, other)
    )
    columns = ["loan", "support_rows", "support_events", "segment_logistic", "map_head"]
    assert before.height > 100
    assert after.select(columns).equals(before.select(columns))
