"""The remedy of a drifting segment: old rows count less where newer rows ask for it, and the proof says so."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from metarisk.adapt import Recency, adapt, learn_recency
from metarisk.tasks import LABEL
from tests.unit.loan_examples import PORTFOLIO, SPEC, model, support, to_score

TURNED = ("north", "card")


def turned(seed: int = 4) -> pl.DataFrame:
    """The book's support, in which the older two thirds of one segment rarely failed and the rest often does."""
    rows = support()
    mine = (pl.col("region") == TURNED[0]) & (pl.col("product") == TURNED[1])
    cut = rows.filter(mine)["opened"].quantile(0.66, "nearest")
    drawn = pl.Series(np.random.default_rng(seed).random(rows.height))
    rate = pl.when(pl.col("opened") <= cut).then(0.05).otherwise(0.5)
    return rows.with_columns(pl.when(mine).then((drawn < rate).cast(pl.Float64)).otherwise(LABEL).alias(LABEL))


def test_a_segment_that_turned_is_served_by_recent_rows_and_the_proof_says_so():
    found = learn_recency(model(), turned(), [TURNED], PORTFOLIO, SPEC)
    assert found.half_life == 6.0
    whole, own = found.proofs
    assert (whole.segment, own.segment) == (None, "north|card")
    assert own.high < 0.0
    assert own.rows >= 30
    assert Recency.from_bytes(found.to_bytes()) == found


def test_weights_halve_by_age_in_that_segment_alone():
    rows = support()
    weights = Recency((TURNED,), 6.0).weights(rows, PORTFOLIO)
    mine = ((rows["region"] == TURNED[0]) & (rows["product"] == TURNED[1])).to_numpy()
    age = (rows["opened"].max() - rows["opened"]).dt.total_days().to_numpy() / 30.4375
    assert (weights[~mine] == 1.0).all()
    np.testing.assert_allclose(weights[mine], 0.5 ** (age[mine] / 6.0))
    assert Recency((TURNED,)).weights(rows, PORTFOLIO) is None


def test_recent_rows_move_the_segment_and_its_identity_alone():
    rows = turned()
    plain = adapt(model(), "m", rows, PORTFOLIO, SPEC)
    recent = adapt(model(), "m", rows, PORTFOLIO, SPEC, recency=Recency((TURNED,), 6.0))
    changed = {key for key, line in recent.segments.items() if line.support_hash != plain.segments[key].support_hash}
    assert changed == {TURNED}
    score = to_score()
    moved = recent.score(score, PORTFOLIO)[0] - plain.score(score, PORTFOLIO)[0]
    mine = ((score["region"] == TURNED[0]) & (score["product"] == TURNED[1])).to_numpy()
    assert moved[mine].mean() > 0.1
    assert abs(moved[mine].mean()) > 2 * abs(moved[~mine].mean())


@pytest.mark.parametrize(
    ("recipe", "keys", "reason"),
    [
        ("pooled_logistic", [TURNED], "adapts to no segment"),
        ("map_head", [("west", "home")], "too few|no row of theirs"),
    ],
)
def test_where_nothing_can_be_learned_nothing_is_done(recipe, keys, reason):
    found = learn_recency(model(recipe), support(), keys, PORTFOLIO, SPEC)
    assert (found.half_life, found.proofs) == (None, ())
    assert any(part in found.reason for part in reason.split("|"))
