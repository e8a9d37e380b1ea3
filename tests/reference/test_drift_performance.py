"""Performance without labels against NannyML on the same rows, and against what came when labels were drawn.

NannyML 0.13.1: `estimate_roc_auc` of the probabilities as they are (CBPE without recalibration), and `DLE` with default
hyperparameters, chunk_number=1, feature x, prediction 2x. Rows are drawn here as they were there.
"""

import numpy as np
import polars as pl
import pytest

from metarisk.domain import Feature
from metarisk.drift import direct, performance
from metarisk.metrics import auc

CBPE_AUC = {(1, 20_000, 0.0): 0.7647703048584348, (2, 8_000, 0.7): 0.7598662115282306}
DLE = {"mse": (1.369874, 2.184281), "mae": (0.864922, 1.098542)}
SEGMENTS = ("segment",)


def probabilities(seed, rows, shift):
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(-2.2 + 1.1 * rng.normal(shift, 1.0, rows))))


def counted(p):
    return performance.count(pl.DataFrame({"p": p, "segment": "a"}).lazy(), SEGMENTS, "p")


def row(found, metric, segment=None):
    return found.filter(pl.col("segment").eq_missing(pl.lit(segment)), metric=metric).row(0, named=True)


def test_expected_auc_is_that_of_nannyml():
    (first, was), (second, now) = CBPE_AUC.items()
    found = row(
        performance.compare(SEGMENTS, counted(probabilities(*first)), counted(probabilities(*second))), "expected_auc"
    )
    assert found["value"] == pytest.approx(now, abs=5e-5)
    assert found["effect"] == pytest.approx(was - now, abs=5e-5)


def test_estimates_and_intervals_are_what_comes_when_labels_are_drawn():
    p = probabilities(5, 3_000, 0.0)
    found = performance.compare(SEGMENTS, counted(p), counted(p))
    rng = np.random.default_rng(0)
    drawn = [rng.random(len(p)) < p for _ in range(400)]
    losses = [np.mean(-np.log(np.where(y, p, 1 - p))) for y in drawn]
    for metric, realised in (("expected_log_loss", losses), ("expected_auc", [auc(p, y) for y in drawn])):
        told = row(found, metric)
        assert told["value"] == pytest.approx(np.mean(realised), abs=3 * np.std(realised) / 20)
        assert (told["high"] - told["low"]) / (2 * 1.96) == pytest.approx(np.std(realised), rel=0.12)
        assert (told["status"], told["effect"]) == ("ok", 0.0)


def test_expected_log_loss_is_the_mean_entropy_of_the_scores():
    p = probabilities(6, 5_000, 0.3)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert row(performance.compare(SEGMENTS, counted(p), counted(p)), "expected_log_loss")["value"] == pytest.approx(
        entropy.mean(), rel=2e-4
    )


@pytest.mark.parametrize("name", DLE)
def test_direct_loss_estimate_is_that_of_nannyml(name):
    def rows(seed, count, shift):
        rng = np.random.default_rng(seed)
        x = rng.normal(shift, 1.0, count)
        y = 2 * x + rng.normal(0, 1, count) * np.exp(0.4 * x)
        return pl.DataFrame({"x": x, "opened": [None] * count, "segment": ["a"] * count}), y, 2 * x

    known, y, score = rows(3, 20_000, 0.0)
    night, truth, scored = rows(4, 8_000, 0.6)
    loss = (lambda e: e**2) if name == "mse" else np.abs
    model = direct.LossModel.fit(known, score, loss(y - score), {"x": Feature("numeric")}, "opened")
    again = direct.LossModel.from_bytes(model.to_bytes())
    sums = [
        direct.summed([(f, m.predict(f, s))], SEGMENTS) for f, s, m in ((known, score, model), (night, scored, again))
    ]
    found = row(direct.compare(SEGMENTS, *sums, model.noise), "expected_loss")
    was, now = DLE[name]
    assert found["value"] == pytest.approx(now, rel=0.01)
    assert found["effect"] == pytest.approx(now / was - 1, abs=0.02)
    assert found["status"] == "alert"
    assert found["value"] == pytest.approx(loss(truth - scored).mean(), rel=0.06)
