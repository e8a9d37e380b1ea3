"""Prototypical, matching and Siamese networks: formulas against plain loops, calibration, and the edges."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from metarisk.domain import Array, DataError, Episodes, ModelError, Packed
from metarisk.learners.episodic import apply_body, start_body
from metarisk.learners.loop import Loop
from metarisk.learners.metric.learner import MetricLearner, evidence, thinned
from metarisk.learners.metric.matching import Matching
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.metric.siamese import Siamese
from metarisk.learners.packing import Block, canonical

EXACT = Loop(precision="float64", graph=False, device="cpu", steps=3, rate=1e-2, meta_batch=8)
SMALL: dict[str, Any] = {"hidden": (5,), "embedding": 4, "loop": EXACT}
LEARNERS = {
    "prototypical": Prototypical(**SMALL),
    "prototypical on a feature": Prototypical(**SMALL, fusion="feature"),
    "matching": Matching(**SMALL),
    "matching in context": Matching(**SMALL, context=True),
    "siamese": Siamese(**SMALL),
    "siamese contrastive": Siamese(**SMALL, pair_loss="contrastive", fusion="none"),
}
SIZES = (12, 0, 7, 1, 30)


def quiet(done: int, total: int, note: str) -> None:
    pass


def book(sizes: tuple[int, ...] = SIZES, seed: int = 0, level: float = -1.0) -> Packed:
    r = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(starts[-1])
    x, base = r.normal(size=(n, 3)), r.normal(level, 0.5, n)
    own = np.repeat(r.normal(0, 1.0, (len(sizes), 3)), sizes, axis=0)
    y = (r.random(n) < special.expit(base + (own * x).sum(1))).astype(float)
    return Packed(tuple((f"s{i}",) for i in range(len(sizes))), starts, x, y, r.uniform(0.3, 2, n), base)


def trained(learner: MetricLearner) -> dict[str, Array]:
    """A state of a few steps, then shaken so that no parameter stands at its start."""
    rows = book(seed=3)
    state = learner.train(Episodes(rows, book(seed=4)), None, "bernoulli", seed=0, progress=quiet)
    r = np.random.default_rng(1)
    return {name: value + 0.1 * r.normal(size=np.shape(value)) for name, value in state.items()}


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> MetricLearner:
    return LEARNERS[request.param]


def embed(learner: MetricLearner, state: dict[str, Array], rows: Packed) -> Array:
    x = rows.x
    if learner.fusion == "feature":
        x = np.column_stack([x, rows.base - state["centre"]])
    hidden = np.maximum(x @ state["body.0"][:-1] + state["body.0"][-1], 0)
    out: Array = hidden @ state["body.1"][:-1] + state["body.1"][-1]
    return out


def pooled(learner: MetricLearner, state: dict[str, Array], rows: Packed) -> Array:
    return (rows.base if learner.fusion == "offset" else np.zeros(rows.rows)) + state["bias"]


def plain_evidence(kernel: Array, rows: Packed, expected: Array, mass: float) -> float:
    a1 = a0 = x1 = x0 = mass
    for k, w, y, p in zip(kernel, rows.weight, rows.y, expected, strict=True):
        a1, a0, x1, x0 = a1 + k * w * y, a0 + k * w * (1 - y), x1 + k * w * p, x0 + k * w * (1 - p)
    return float(np.log(a1 / x1) - np.log(a0 / x0))


def plain_score(learner: MetricLearner, state: dict[str, Array], support: Packed, row: Array, e: Array) -> float:
    """The correction of one row, by the formulas of the docstrings, row by row."""
    own, expected = embed(learner, state, support), special.expit(pooled(learner, state, support))
    mass = float(np.exp(state["log_mass"]))
    if isinstance(learner, Prototypical):
        distance = []
        for label in (0, 1):
            pseudo = np.exp(state["log_pseudo_rows"][label])
            total, place = pseudo, pseudo * state["common"][label]
            for i in np.flatnonzero(support.y == label):
                total, place = total + support.weight[i], place + support.weight[i] * own[i]
            distance.append(((e - place / total) ** 2).sum())
        level = plain_evidence(np.ones(support.rows), support, expected, mass)
        return level + float(np.exp(state["log_temperature"])) * (distance[0] - distance[1])
    if isinstance(learner, Siamese):
        if learner.pair_loss == "binary":
            apart = (np.exp(state["log_scale"]) * np.abs(own - e)).sum(1)
        else:
            apart = np.sqrt(((own - e) ** 2).sum(1))
        kernel = special.expit(np.exp(state["log_sharpness"]) * (state["threshold"] - apart))
    else:
        cosine = own @ e / np.linalg.norm(own, axis=1) / np.linalg.norm(e)
        kernel = np.exp(np.exp(state["log_sharpness"]) * (cosine - 1))
    return plain_evidence(kernel, support, expected, mass)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "matching in context"])
def test_scores_equal_a_plain_loop_over_support_rows(name: str) -> None:
    learner = LEARNERS[name]
    state, support, rows = trained(learner), book(), book(seed=1)
    eta, variance = learner.predict(state, learner.adapt(state, support, "bernoulli"), rows, "bernoulli")
    embedded, start = embed(learner, state, rows), pooled(learner, state, rows)
    for i, segment in enumerate(rows.index):
        own = support.select([int(segment)])
        np.testing.assert_allclose(
            eta[i], start[i] + plain_score(learner, state, own, rows.x[i], embedded[i]), atol=1e-7
        )
    assert variance is None


def test_the_meta_gradient_equals_central_differences(learner: MetricLearner) -> None:
    """Embedding, calibration and what each learner has of its own, on ragged tasks; one has no support."""
    state, r = trained(learner), np.random.default_rng(0)
    start = {name: torch.tensor(value) for name, value in state.items() if name != "centre"}

    def block(rows: int) -> Block:
        shape = (3, rows)
        weight = r.uniform(0.3, 2, shape) * (np.arange(rows) < np.array([[rows], [rows // 2], [0]]))
        columns = (r.normal(size=(*shape, 3)), r.random(shape) < 0.4, weight, r.normal(-1, 0.5, shape))
        return Block(*(torch.from_numpy(np.asarray(column, dtype=float)) for column in columns))

    support, query = block(6), block(5)
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    total = learner.losses(leaves, support, query, -0.4).sum()
    # the contrastive loss has no scales
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for (name, value), gradient in zip(start.items(), found, strict=True):
        direction = torch.from_numpy(np.asarray(r.normal(size=tuple(value.shape))))
        up, down = (
            float(learner.losses({**start, name: value + sign * 1e-6 * direction}, support, query, -0.4).sum())
            for sign in (1, -1)
        )
        slope = float((gradient * direction).sum())
        assert (up - down) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-7), name


def test_matching_without_base_and_shrinkage_is_the_published_attention() -> None:
    learner = Matching(**SMALL, fusion="none")
    state = {**trained(learner), "log_mass": np.array(-60.0)}
    support, row = replace(book().select([4]), weight=np.ones(30)), book(seed=1).select([4])
    eta, _ = learner.predict(state, learner.adapt(state, support, "bernoulli"), row, "bernoulli")
    own, e = embed(learner, state, support), embed(learner, state, row)
    cosine = (own @ e.T) / np.linalg.norm(own, axis=1)[:, None] / np.linalg.norm(e, axis=1)
    attention = special.softmax(np.exp(state["log_sharpness"]) * cosine, axis=0)
    published = special.logit(support.y @ attention)
    prior = special.expit(state["bias"])
    np.testing.assert_allclose(eta, published + state["bias"] - special.logit(prior), atol=1e-9)


def test_context_reads_the_support_in_both_directions_and_the_row_by_attention() -> None:
    """Against torch's own LSTM cell with the same weights."""
    learner = Matching(**SMALL, context=True)
    state, support, rows = trained(learner), book().select([2]), book(seed=1).select([2])
    adaptation = learner.adapt(state, support, "bernoulli")
    ordered, _ = canonical(support)
    own = torch.from_numpy(embed(learner, state, ordered))
    # torch orders the gates input, forget, cell, output; ours are input, forget, output, cell
    swap = np.r_[0:8, 12:16, 8:12]

    def cell(name: str, ours: list[int], hidden: slice) -> torch.nn.LSTMCell:
        """With the rows of our weights that its input meets, and those that its hidden state meets."""
        made, parts = torch.nn.LSTMCell(len(ours), 4).double(), torch.from_numpy(state[name][:, swap])
        with torch.no_grad():
            made.weight_ih.copy_(parts[ours].T)
            made.weight_hh.copy_(parts[hidden].T)
            made.bias_ih.copy_(parts[-1])
            made.bias_hh.zero_()
        return made

    with torch.no_grad():
        expected = own.clone()
        for name, order in (("forward", range(7)), ("backward", range(6, -1, -1))):
            lstm = cell(name, [*range(4)], slice(4, 8))
            hidden = memory = torch.zeros(1, 4).double()
            for i in order:
                hidden, memory = lstm(own[i : i + 1], (hidden, memory))
                expected[i] += hidden[0]
        np.testing.assert_allclose(adaptation.arrays["embedded"], expected.numpy(), atol=1e-12)

        eta, _ = learner.predict(state, adaptation, rows, "bernoulli")
        chance = special.expit(pooled(learner, state, ordered))
        reader = cell("read", [*range(4), *range(8, 12)], slice(4, 8))
        for i, row in enumerate(torch.from_numpy(embed(learner, state, rows)).unsqueeze(1)):
            hidden, memory = row, torch.zeros(1, 4).double()
            for _ in range(learner.reads):
                read = torch.softmax(hidden @ expected.T, -1) @ expected
                hidden, memory = reader(torch.cat([row, read], -1), (hidden, memory))
                hidden = hidden + row
            cosine = torch.nn.functional.cosine_similarity(hidden, expected).numpy()
            kernel = np.exp(np.exp(state["log_sharpness"]) * (cosine - 1))
            correction = plain_evidence(kernel, ordered, chance, float(np.exp(state["log_mass"])))
            assert eta[i] == pytest.approx(rows.base[i] + state["bias"] + correction, abs=1e-9)


def test_unseen_and_empty_segments_score_the_pooled_score(learner: MetricLearner) -> None:
    state, support = trained(learner), book()
    adaptation = learner.adapt(state, support, "bernoulli")
    rows = book(seed=1)
    stranger = replace(rows.select([0, 4]), keys=(("new",), ("s1",)))
    eta, _ = learner.predict(state, adaptation, stranger, "bernoulli")
    if isinstance(learner, Prototypical):
        # the common prototypes still tell rows apart
        empty, _ = learner.predict(state, learner.adapt(state, support.select([1]), "bernoulli"), stranger, "bernoulli")
        assert np.isfinite(empty).all()
        np.testing.assert_allclose(eta[:12], pooled(learner, state, stranger)[:12], atol=1e-9)
    else:
        np.testing.assert_allclose(eta, pooled(learner, state, stranger), atol=1e-9)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_class_and_constant_features_are_defined(learner: MetricLearner, outcome: float) -> None:
    state, rows = trained(learner), book()
    one = replace(rows, y=np.full(rows.rows, outcome), x=np.ones_like(rows.x))
    eta, _ = learner.predict(state, learner.adapt(state, one, "bernoulli"), rows, "bernoulli")
    assert np.isfinite(eta).all()
    fitted = learner.train(Episodes(one, one), None, "bernoulli", seed=0, progress=quiet)
    assert all(np.isfinite(value).all() for value in fitted.values())


def test_the_order_of_rows_changes_no_bit(learner: MetricLearner) -> None:
    rows, r = book(), np.random.default_rng(2)
    order = np.concatenate([r.permutation(np.arange(a, b)) for a, b in zip(rows.starts, rows.starts[1:], strict=False)])
    mixed = replace(rows, x=rows.x[order], y=rows.y[order], weight=rows.weight[order], base=rows.base[order])
    state = trained(learner)
    one, other = (learner.adapt(state, each, "bernoulli") for each in (rows, mixed))
    few = learner.adapt(state, rows.select([4, 2]), "bernoulli")
    scored = book(seed=1)
    etas = [learner.predict(state, each, scored, "bernoulli")[0] for each in (one, other, few)]
    np.testing.assert_array_equal(etas[0], etas[1])
    chosen = np.isin(scored.index, [2, 4])
    np.testing.assert_array_equal(etas[0][chosen], etas[2][chosen])
    trains = [
        learner.train(Episodes(each, scored), None, "bernoulli", seed=0, progress=quiet) for each in (rows, mixed)
    ]
    for name, value in trains[0].items():
        if name != "centre":
            np.testing.assert_array_equal(value, trains[1][name])


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "matching in context"])
def test_rows_of_weight_zero_are_not_there(name: str) -> None:
    """The LSTM reads rows in the order of their hashes, in which absent rows would come between others: left out."""
    learner = LEARNERS[name]
    state, rows, absent = trained(learner), book(), replace(book(seed=8), weight=np.zeros(sum(SIZES)))
    order = np.argsort(np.concatenate([rows.index, absent.index]), kind="stable")
    columns = (np.concatenate([getattr(rows, c), getattr(absent, c)])[order] for c in ("x", "y", "weight", "base"))
    both = Packed(rows.keys, 2 * rows.starts, *columns)
    one, other = (
        learner.predict(state, learner.adapt(state, each, "bernoulli"), book(seed=1), "bernoulli")[0]
        for each in (rows, both)
    )
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_evidence_is_the_smoothed_odds_ratio_of_observed_to_expected() -> None:
    y = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    alike, expected = torch.ones((1, 1, 4), dtype=torch.float64), torch.full((1, 4), 0.1, dtype=torch.float64)
    block = Block(alike, y, torch.ones_like(y), y)
    free, held = (evidence(alike, block, expected, torch.tensor(m, dtype=torch.float64)) for m in (-30.0, 30.0))
    assert float(free) == pytest.approx(np.log((1 / 0.4) / (3 / 3.6)), abs=1e-9)
    assert abs(float(held)) < 1e-10


def test_evidence_of_a_support_of_events_alone_is_finite_in_float32_whatever_the_shrinkage() -> None:
    """Non-events taken from the total would leave some -1e-5, of which the shrinkage does not make up."""
    r = torch.Generator().manual_seed(0)
    kernel, weight = torch.rand(4, 64, 512, generator=r), 2 * torch.rand(4, 512, generator=r)
    events, expected = torch.ones_like(weight), torch.full_like(weight, 0.9999)
    for log_mass in (-9.0, -16.0):
        found = evidence(kernel, Block(kernel, events, weight, events), expected, torch.tensor(log_mass))
        exact = evidence(
            kernel.double(),
            Block(kernel, events.double(), weight.double(), events),
            expected.double(),
            torch.tensor(log_mass).double(),
        )
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def test_the_layers_of_a_body_are_in_the_order_of_their_numbers() -> None:
    widths = (3, 4, 3, 5, 4, 3, 5, 6, 4, 3, 5, 4, 2)
    parameters = {name: torch.from_numpy(w) for name, w in start_body(3, widths, np.random.default_rng(0)).items()}
    x = torch.ones(1, 3).double()
    expected = x
    for number in range(len(widths)):
        expected = (expected @ parameters[f"body.{number}"][:-1]).relu()
    torch.testing.assert_close(apply_body(parameters, x, last_linear=False), expected)


def test_thinning_keeps_events_first_and_the_weight_of_each_class() -> None:
    rows = book(sizes=(400, 5))
    kept = thinned(rows, 60)
    assert kept.sizes.tolist() == [60, 5]
    events = min(int(rows.y[:400].sum()), 30)
    assert kept.y[:60].sum() == events
    for label in (0, 1):
        whole, part = rows.weight[:400][rows.y[:400] == label].sum(), kept.weight[:60][kept.y[:60] == label].sum()
        assert part == pytest.approx(whole)
    assert thinned(rows, 400) is rows


def simulated(seed: int, segments: int, size: int = 96, level: float = -2.2) -> Packed:
    """Rare events; the base score knows the common effect, each segment has its own slope and level besides."""
    r = np.random.default_rng(seed)
    n = segments * size
    x = r.normal(size=(n, 3))
    own = np.repeat(r.normal(0, 1.3, segments), size) * x[:, 1] + np.repeat(r.normal(0, 0.7, segments), size)
    base = level + 0.7 * x[:, 0]
    y = (r.random(n) < special.expit(base + own)).astype(float)
    keys = tuple((f"{seed}-{i}",) for i in range(segments))
    return Packed(keys, np.arange(segments + 1) * size, x.astype(np.float32), y, np.ones(n), base)


def halves(rows: Packed) -> Episodes:
    size = int(rows.sizes[0])
    within = np.arange(rows.rows) % size
    starts = np.arange(len(rows.keys) + 1) * (size // 2)
    early = within < size // 2
    return Episodes(
        *(
            Packed(rows.keys, starts, *(getattr(rows, name)[keep] for name in ("x", "y", "weight", "base")))
            for keep in (early, ~early)
        )
    )


@pytest.mark.parametrize("level", [-2.2, -4.9], ids=["17 %", "2 %"])
@pytest.mark.parametrize(
    "learner",
    [
        Prototypical(hidden=(16,), embedding=8),
        Matching(hidden=(16,), embedding=8),
        Matching(hidden=(8,), embedding=4, context=True),
        Siamese(hidden=(16,), embedding=8),
        Siamese(hidden=(16,), embedding=8, pair_loss="contrastive"),
        Prototypical(hidden=(16,), embedding=8, fusion="none"),
    ],
    ids=["prototypical", "matching", "matching in context", "siamese", "contrastive", "no base"],
)
def test_under_imbalance_scores_beat_the_base_and_are_calibrated(learner: MetricLearner, level: float) -> None:
    reader = isinstance(learner, Matching) and learner.context  # an LSTM is slow: fewer and shorter steps
    loop = Loop(steps=25 if reader else 120, rate=3e-2 if reader else 2e-2, meta_batch=12, device="cpu")
    learner = replace(learner, loop=loop, support_rows=24 if reader else 48, query_rows=48)
    state = learner.train(halves(simulated(0, 40, level=level)), None, "bernoulli", seed=0, progress=quiet)
    tasks = halves(simulated(1, 120, level=level))
    y, base = tasks.query.y, tasks.query.base
    eta, _ = learner.predict(state, learner.adapt(state, tasks.support, "bernoulli"), tasks.query, "bernoulli")

    def log_loss(z: Array) -> float:
        return float((np.logaddexp(0, z) - y * z).mean())

    assert log_loss(eta) < log_loss(base) - 0.01
    p = special.expit(eta)
    if level < -4:
        # 5,760 rows at a rate of .021, where the base, which does not know the segments, expects .009
        assert 0.5 < p.mean() / y.mean() < 2
        return
    # 5,760 rows at a rate of about .17: one standard error of the rate is .005
    assert abs(p.mean() - y.mean()) < 0.03
    bins = np.array_split(np.argsort(p, kind="stable"), 10)
    assert sum(abs(y[b].mean() - p[b].mean()) * len(b) for b in bins) / len(y) < 0.035


def test_bad_input_is_refused(learner: MetricLearner) -> None:
    state, rows = trained(learner), book()
    with pytest.raises(ModelError, match="expects a likelihood among bernoulli, got poisson"):
        learner.adapt(state, rows, "poisson")
    with pytest.raises(DataError, match="expected 3 features"):
        learner.adapt(state, replace(rows, x=rows.x[:, :1]), "bernoulli")
    with pytest.raises(ModelError, match="labels 0 or 1"):
        learner.adapt(state, replace(rows, y=rows.y + 0.5), "bernoulli")
    with pytest.raises(DataError, match="finite numbers"):
        learner.predict(
            state, learner.adapt(state, rows, "bernoulli"), replace(rows, base=np.full(rows.rows, np.inf)), "bernoulli"
        )
