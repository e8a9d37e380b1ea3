"""A base score of wrong level and scale, as a feature: every learner that takes one reads it, and mends it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from metarisk.domain import Array, Episodes, Learner, Packed
from metarisk.learners.gradient.maml import Maml
from metarisk.learners.gradient.reptile import Reptile
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.heads.ridge_head import RidgeHead
from metarisk.learners.loop import Loop
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.metric.siamese import Siamese

LOOP = Loop(steps=50, rate=4e-2, meta_batch=6, device="cpu", evaluate_every=50, graph=False)
SEGMENTS, ROWS = 30, 80
LEARNERS: dict[str, Learner] = {
    "hierarchical head": MapHead(damping=1.0, intercept_variance=10.0, slope_variance=10.0),
    "MAP head": MapNetwork(fusion="feature", hidden=(8,), loop=LOOP),
    "ridge head": RidgeHead(fusion="feature", hidden=(8,), loop=LOOP),
    "MAML": Maml(fusion="feature", hidden=(16,), loop=LOOP),
    "Reptile": Reptile(
        fusion="feature", hidden=(16,), loop=replace(LOOP, optimiser="sgd", momentum=0.0, rate=0.5, schedule="linear")
    ),
    "prototypical": Prototypical(fusion="feature", hidden=(16,), embedding=8, loop=LOOP),
    "matching": Matching(fusion="feature", hidden=(16,), embedding=8, loop=LOOP),
    "Siamese": Siamese(fusion="feature", hidden=(16,), embedding=8, loop=LOOP),
}


def book(seed: int) -> tuple[Packed, Array]:
    """The base is 4 + 3 times the logit, but for the segment's level; x is noise. Also the logits."""
    r = np.random.default_rng(seed)
    logit = np.repeat(r.normal(-1, 0.3, SEGMENTS), ROWS)
    spread = r.normal(0, 1.5, SEGMENTS * ROWS)
    eta = logit + spread
    y = (r.random(len(eta)) < special.expit(eta)).astype(np.float32)
    keys = tuple((f"segment {i}",) for i in range(SEGMENTS))
    x = r.normal(size=(len(eta), 2)).astype(np.float32)
    base = (4 + 3 * (spread - 1)).astype(np.float32)
    return Packed(keys, np.arange(SEGMENTS + 1) * ROWS, x, y, np.ones_like(y), base), eta


def halves(rows: Packed) -> Episodes:
    early = np.arange(rows.rows) % ROWS < ROWS // 2
    starts = np.arange(SEGMENTS + 1) * (ROWS // 2)
    columns = ("x", "y", "weight", "base")
    return Episodes(*(Packed(rows.keys, starts, *(getattr(rows, c)[k] for c in columns)) for k in (early, ~early)))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_base_score_of_wrong_units_is_mended_as_a_feature(name: str) -> None:
    learner = LEARNERS[name]
    training, (fresh, eta) = halves(book(0)[0]), book(1)
    state = learner.train(training, None, "bernoulli", seed=0, progress=lambda *_: None)
    tasks = halves(fresh)
    scores, _ = learner.predict(state, learner.adapt(state, tasks.support, "bernoulli"), tasks.query, "bernoulli")
    truth, y = eta[np.arange(fresh.rows) % ROWS >= ROWS // 2], tasks.query.y

    def log_loss(z: Array) -> float:
        return float((np.logaddexp(0, z) - y * z).mean())

    blind = log_loss(np.full(len(y), special.logit(y.mean())))
    assert log_loss(tasks.query.base) > blind
    # more than half of what the true logit is worth, of which x holds nothing
    assert log_loss(scores) < blind - 0.55 * (blind - log_loss(truth))
