"""The hierarchical head against a dense twin written with numpy and scipy, and what it does at the edges."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, special

from metarisk.domain import Adaptation, Array, DataError, Episodes, LikelihoodName, ModelError, Packed, SegmentKey
from metarisk.learners.heads.map_head import MapHead
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop

REGIONS, PRODUCTS = ("north", "south", "west"), ("car", "card")
KEYS = tuple((region, product) for region in REGIONS for product in PRODUCTS)
SIZES = (40, 0, 13, 1, 25, 60)
OPTIONS = {"negative_binomial": {"size": 2.0}, "quantile": {"tau": 0.8, "width": 0.3}}


def quiet(done: int, total: int, note: str) -> None:
    pass


def book(likelihood: LikelihoodName = "bernoulli", keys: tuple[SegmentKey, ...] = KEYS, seed: int = 0) -> Packed:
    """Ragged rows with segment effects; the second cell is empty and the fourth has one row."""
    r = np.random.default_rng(seed)
    sizes = np.array([SIZES[i % 6] for i in range(len(keys))])
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(starts[-1])
    base = r.normal(-0.8, 0.9, n)
    eta = base + np.repeat(r.normal(0, 0.6, len(keys)), sizes)
    y = {
        "bernoulli": (r.random(n) < special.expit(eta)).astype(float),
        "hazard": (r.random(n) < -np.expm1(-np.exp(eta))).astype(float),
        "poisson": r.poisson(np.exp(eta)).astype(float),
        "gaussian": eta + 0.7 * r.normal(size=n),
        "quantile": eta + 0.7 * r.normal(size=n),
        "negative_binomial": r.poisson(np.exp(eta) * r.gamma(2.0, 0.5, n)).astype(float),
        "qlike": np.exp(eta) * r.chisquare(4, n) / 4,
        "cumulative_hazard": (r.random(n) < -np.expm1(-np.exp(eta))).astype(float),
    }[likelihood]
    return Packed(keys, starts, np.zeros((n, 1)), y, r.uniform(0.2, 2.0, n), base)


def without_rows(packed: Packed) -> Packed:
    return Packed(
        packed.keys,
        np.zeros_like(packed.starts),
        packed.x[:0],
        packed.y[:0],
        packed.weight[:0],
        packed.base[:0],
    )


def train(head: MapHead, rows: Packed, likelihood: LikelihoodName = "bernoulli") -> dict[str, Array]:
    return dict(head.train(Episodes(rows, without_rows(rows)), None, likelihood, seed=0, progress=quiet))


def some_state(levels: int = 2, noise: float = 1.0) -> dict[str, Array]:
    """Variances that are no default, so that none can be left out unnoticed."""
    return {
        "centre": np.array(-0.7),
        "damping": np.array(0.85),
        "shared_variance": np.array([0.3, 0.06]),
        "parent_variance": np.array([0.2, 0.11])[:levels],
        "cell_variance": np.array(0.08),
        "noise_variance": np.array(noise),
    }


def losses(likelihood: str, eta: Array, y: Array) -> tuple[Array, Array, Array]:
    """Loss and its two derivatives, written anew."""
    mu = np.exp(eta)
    if likelihood == "bernoulli":
        p = special.expit(eta)
        return np.logaddexp(0, eta) - y * eta, p - y, p * (1 - p)
    if likelihood in ("poisson", "cumulative_hazard"):
        return mu - y * eta, mu - y, mu
    if likelihood == "negative_binomial":
        size = OPTIONS[likelihood]["size"]
        loss = (y + size) * np.log1p(mu / size) - y * eta
        return loss, (y + size) * mu / (size + mu) - y, (y + size) * size * mu / (size + mu) ** 2
    if likelihood == "qlike":
        return y / mu + eta, 1 - y / mu, y / mu
    if likelihood == "quantile":
        tau, width = OPTIONS[likelihood]["tau"], OPTIONS[likelihood]["width"]
        z = special.expit((eta - y) / width)
        return tau * (y - eta) + width * np.logaddexp(0, (eta - y) / width), z - tau, z * (1 - z) / width
    if likelihood == "gaussian":
        return (y - eta) ** 2 / 2, eta - y, np.ones_like(eta)
    event = mu / np.expm1(mu)
    bend = event * (event * np.exp(mu) - 1)
    return (1 - y) * mu - y * np.log(-np.expm1(-mu)), (1 - y) * mu - y * event, (1 - y) * mu + y * bend


def design(keys: tuple[SegmentKey, ...], distance: Array, index: Array, levels: int) -> Array:
    """Dense columns: one, distance, every parent, every cell."""
    key_of_row = [keys[i] for i in index]
    columns = [np.ones(len(index)), distance]
    for j in range(levels):
        columns += [
            np.array([key[j] == value for key in key_of_row], dtype=float) for value in sorted({k[j] for k in keys})
        ]
    columns += [np.array([key == cell for key in key_of_row], dtype=float) for cell in keys]
    return np.column_stack(columns)


def dense_twin(state: dict[str, Array], rows: Packed, likelihood: str) -> tuple[Array, Array]:
    """Optimum and Laplace covariance of the full objective by a general minimiser."""
    levels = state["parent_variance"].size
    V = design(rows.keys, rows.base - float(state["centre"]), rows.index, levels)
    prior = np.concatenate(
        [
            state["shared_variance"],
            *(np.full(len({k[j] for k in rows.keys}), state["parent_variance"][j]) for j in range(levels)),
            np.full(len(rows.keys), float(state["cell_variance"])),
        ]
    )
    weight = rows.weight / float(state["noise_variance"])

    def value(theta: Array) -> tuple[float, Array]:
        loss, slope, _ = losses(likelihood, rows.base + V @ theta, rows.y)
        return float(weight @ loss + (theta**2 / prior).sum() / 2), V.T @ (weight * slope) + theta / prior

    def hessian(theta: Array) -> Array:
        bend = losses(likelihood, rows.base + V @ theta, rows.y)[2]
        return V.T @ (V * (weight * bend)[:, None]) + np.diag(1 / prior)

    found = optimize.minimize(
        value, np.zeros(V.shape[1]), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-11}
    )
    theta = found.x
    for _ in range(3):
        theta = theta - np.linalg.solve(hessian(theta), value(theta)[1])
    return theta, np.linalg.inv(hessian(theta))


@pytest.mark.parametrize("likelihood", [name for name, each in LIKELIHOODS.items() if each.outputs == 1])
@pytest.mark.parametrize("keys", [KEYS, tuple((str(i),) for i in range(6))], ids=["crossed", "one part"])
def test_scores_and_variances_equal_the_dense_twin(likelihood: LikelihoodName, keys: tuple[SegmentKey, ...]) -> None:
    rows = book(likelihood, keys)
    levels = 2 if len(keys[0]) == 2 else 0
    state = some_state(levels, noise=0.5 if likelihood == "gaussian" else 1.0)
    theta, covariance = dense_twin(state, rows, likelihood)

    head = MapHead(likelihood_options=OPTIONS.get(likelihood, {}))
    scored = book(likelihood, keys, seed=1)
    eta, variance = head.predict(state, head.adapt(state, rows, likelihood), scored, likelihood)

    V = design(scored.keys, scored.base - float(state["centre"]), scored.index, levels)
    np.testing.assert_allclose(eta, scored.base + 0.85 * V @ theta, rtol=0, atol=1e-9)
    np.testing.assert_allclose(variance, np.einsum("ni,ij,nj->n", V, covariance, V), rtol=1e-8)


def test_an_unseen_cell_takes_its_parents_and_the_prior_of_the_cell() -> None:
    rows = book(keys=KEYS).select([0, 1, 2, 3, 4])
    state, head = some_state(), MapHead()
    adaptation = head.adapt(state, rows, "bernoulli")
    unseen = replace(book().select([5]), keys=(("west", "card"),))
    eta, variance = head.predict(state, adaptation, unseen, "bernoulli")
    # a cell without rows gets exactly that from the joint fit
    with_cell = Packed(
        (*rows.keys, ("west", "card")), np.append(rows.starts, rows.rows), rows.x, rows.y, rows.weight, rows.base
    )
    joint, joint_variance = head.predict(state, head.adapt(state, with_cell, "bernoulli"), unseen, "bernoulli")
    np.testing.assert_allclose(eta, joint, rtol=0, atol=1e-12)
    # but for the covariance of the two parents, which an adaptation of another cell does not hold
    np.testing.assert_allclose(variance, joint_variance, rtol=0.1)


def test_a_wholly_unseen_segment_gets_the_shared_effects_and_every_prior_variance() -> None:
    state, head = some_state(), MapHead()
    adaptation = head.adapt(state, book(), "bernoulli")
    stranger = replace(book().select([0]), keys=(("moon", "cheese"),))
    eta, variance = head.predict(state, adaptation, stranger, "bernoulli")
    a0, a1 = adaptation.arrays["shared"][0]
    distance = stranger.base + 0.7
    np.testing.assert_allclose(eta, stranger.base + 0.85 * (a0 + a1 * distance), atol=1e-12)
    v00, v01, v11 = adaptation.arrays["shared_covariance"][0]
    np.testing.assert_allclose(variance, v00 + 2 * v01 * distance + v11 * distance**2 + 0.2 + 0.11 + 0.08)


def test_nothing_adapted_leaves_the_base_with_the_prior_variance() -> None:
    state, head = some_state(), MapHead()
    rows = book()
    for empty in (rows.select([]), without_rows(rows)):
        eta, variance = head.predict(state, head.adapt(state, empty, "bernoulli"), rows, "bernoulli")
        np.testing.assert_array_equal(eta, rows.base)
        np.testing.assert_allclose(variance, 0.3 + 0.06 * (rows.base + 0.7) ** 2 + 0.2 + 0.11 + 0.08)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "hazard", "gaussian"])
def test_learned_variances_are_the_stationary_point_of_em(likelihood: LikelihoodName) -> None:
    rows = book(likelihood, tuple((r, p) for r in "abcdefgh" for p in "uvwxyz"))
    head = MapHead(prior_strength=3.0, prior_variance=0.1)
    state = train(head, rows, likelihood)
    theta, covariance = dense_twin(state, rows, likelihood)
    expected = theta**2 + np.diag(covariance)
    nu = 3.0
    if likelihood != "gaussian":
        events = float(rows.weight @ losses(likelihood, rows.base, rows.y)[2])
        nu *= min(1.0, (200 / events) ** 2)
    else:
        nu *= min(1.0, (200 / rows.weight.sum()) ** 2)
    for part, learned in (
        (slice(2, 10), state["parent_variance"][0]),
        (slice(10, 16), state["parent_variance"][1]),
        (slice(16, None), state["cell_variance"]),
    ):
        n = expected[part].size
        np.testing.assert_allclose(learned, (expected[part].sum() + nu * 0.1) / (n + nu), rtol=1e-3)
    if likelihood == "gaussian":
        V = design(rows.keys, rows.base - float(state["centre"]), rows.index, 2)
        squares = (rows.y - rows.base - V @ theta) ** 2 + np.einsum("ni,ij,nj->n", V, covariance, V)
        np.testing.assert_allclose(state["noise_variance"], rows.weight @ squares / rows.weight.sum(), rtol=1e-4)


def test_empirical_bayes_finds_the_spread_of_simulated_effects() -> None:
    r = np.random.default_rng(7)
    keys = tuple((f"r{i}", f"p{j}") for i in range(40) for j in range(30))
    starts = np.arange(len(keys) + 1) * 100
    n = int(starts[-1])
    region, product, cell = r.normal(0, 0.5, 40), r.normal(0, 0.2, 30), r.normal(0, 0.3, (40, 30))
    effect = (region[:, None] + product[None] + cell).ravel()
    base = r.normal(-1, 1, n)
    y = (r.random(n) < special.expit(base + np.repeat(effect, 100))).astype(float)
    state = train(MapHead(), Packed(keys, starts, np.zeros((n, 1)), y, np.ones(n), base))
    learned = np.sqrt([*state["parent_variance"], state["cell_variance"]])
    np.testing.assert_allclose(learned, [region.std(), product.std(), cell.std()], atol=0.05)


def test_with_few_events_the_variances_stay_at_their_prior() -> None:
    rows = book()
    few = replace(rows, y=np.zeros(rows.rows), base=np.full(rows.rows, -7.0))
    state = train(MapHead(), few)
    np.testing.assert_allclose([*state["parent_variance"], state["cell_variance"]], 0.03, rtol=0.02)


def test_the_order_of_rows_and_segments_changes_no_bit() -> None:
    rows, r = book(), np.random.default_rng(2)
    order = np.concatenate([r.permutation(np.arange(a, b)) for a, b in zip(rows.starts, rows.starts[1:], strict=False)])
    mixed = replace(rows, y=rows.y[order], weight=rows.weight[order], base=rows.base[order], x=rows.x[order])
    mixed = mixed.select(r.permutation(len(rows.keys)))
    head = MapHead()
    one, other = train(head, rows), train(head, mixed)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    a, b = head.adapt(one, rows, "bernoulli"), head.adapt(one, mixed, "bernoulli")
    back = [b.keys.index(key) for key in a.keys]
    for name, values in a.arrays.items():
        np.testing.assert_array_equal(values, b.arrays[name][back])


def test_a_weight_of_two_is_the_row_twice_and_of_zero_is_no_row() -> None:
    rows = book().select([0])
    twice = Packed(
        rows.keys,
        np.array([0, 2 * rows.rows]),
        np.repeat(rows.x, 2, axis=0),
        np.repeat(rows.y, 2),
        np.ones(2 * rows.rows),
        np.repeat(rows.base, 2),
    )
    weighted = Packed(
        rows.keys,
        np.array([0, 2 * rows.rows]),
        np.tile(rows.x, (2, 1)),
        np.concatenate([rows.y, 1 - rows.y]),
        np.repeat([2.0, 0.0], rows.rows),
        np.tile(rows.base, 2),
    )
    head, state = MapHead(), some_state()
    one, other = head.adapt(state, twice, "bernoulli"), head.adapt(state, weighted, "bernoulli")
    for name, values in one.arrays.items():
        np.testing.assert_allclose(values, other.arrays[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_class_only_moves_all_scores_its_way_and_stays_finite(outcome: float) -> None:
    rows = replace(book(), y=np.full(sum(SIZES), outcome))
    head = MapHead()
    state = train(head, rows)
    eta, variance = head.predict(state, head.adapt(state, rows, "bernoulli"), rows, "bernoulli")
    assert variance is not None and np.isfinite(eta).all() and (variance > 0).all()
    assert ((eta > rows.base) == (outcome == 1)).all()


@pytest.mark.parametrize("rows_of_zeros", [40, 4000])
def test_a_segment_of_variances_of_0_ends_at_a_hundredth_of_its_base_volatility(rows_of_zeros: int) -> None:
    """QLIKE falls without end there, and the variance that EM learns with it; the others are as without it."""
    rows = book("qlike")
    keys, n = (*KEYS, ("still", "car")), rows.rows + rows_of_zeros
    base = np.concatenate([rows.base, np.full(rows_of_zeros, -2.0)])
    y, weight = np.pad(rows.y, (0, rows_of_zeros)), np.pad(rows.weight, (0, rows_of_zeros), constant_values=1.0)
    both = Packed(keys, np.append(rows.starts, n), np.zeros((n, 1)), y, weight, base)
    for learner in (MapHead(damping=1.0), MapNetwork(loop=Loop(steps=4, device="cpu", precision="float64"))):
        state = learner.train(Episodes(both, both), None, "qlike", seed=0, progress=quiet)
        eta, variance = learner.predict(state, learner.adapt(state, both, "qlike"), both, "qlike")
        assert variance is not None and np.isfinite(eta).all() and (variance > 0).all()
        assert np.log(1e-4) < (eta - base)[-1] < -5
        assert np.abs((eta - base)[: rows.rows]).max() < 3


def test_extreme_base_scores_and_large_counts_still_converge() -> None:
    rows = book("poisson")
    wild = replace(rows, base=rows.base * 10, y=rows.y * 50)
    head = MapHead()
    eta, _ = head.predict(some_state(), head.adapt(some_state(), wild, "poisson"), wild, "poisson")
    assert np.isfinite(eta).all()


def test_a_constant_base_leaves_the_slope_at_its_prior() -> None:
    rows = replace(book(), base=np.full(sum(SIZES), -0.7))
    adaptation = MapHead().adapt(some_state(), rows, "bernoulli")
    np.testing.assert_allclose(adaptation.arrays["slope"], 1.0, atol=1e-15)
    np.testing.assert_allclose(adaptation.arrays["shared_covariance"][:, 2], 0.06)


def test_a_slope_on_the_full_horizon_does_not_read_the_outcome_off_the_exposure() -> None:
    """Subjects leave at their event, so collapsed exposure is short where y = 1: a slope on it would turn negative."""
    r = np.random.default_rng(3)
    n, months = 4000, 12
    log_hazard = r.normal(-3.5, 0.7, n)
    month = r.exponential(size=n) / np.exp(log_hazard)
    exposure, y = np.minimum(np.ceil(month), months), (month <= months).astype(float)
    full = log_hazard + np.log(months)
    rows = Packed((("a",),), np.array([0, n]), full[:, None], y, np.ones(n), log_hazard + np.log(exposure))
    naive, sound = MapHead(), MapHead(slope_column=0)
    slopes = [
        head.adapt(train(head, rows, "poisson"), rows, "poisson").arrays["shared"][0, 1] for head in (naive, sound)
    ]
    assert slopes[0] < -0.3 and abs(slopes[1]) < 0.15


def test_damping_left_open_is_chosen_on_later_rows() -> None:
    r = np.random.default_rng(11)
    keys = tuple((f"s{i}",) for i in range(30))
    n = 30 * 60
    starts, base = np.arange(31) * 60, r.normal(-0.5, 1, n)
    lasting = np.repeat(r.normal(0, 0.8, 30), 60)

    def rows(effect: Array) -> Packed:
        y = (r.random(n) < special.expit(base + effect)).astype(float)
        return Packed(keys, starts, np.zeros((n, 1)), y, np.ones(n), base)

    head = MapHead(damping=None)
    tasks = Episodes(rows(lasting), rows(lasting))
    chosen = {
        name: float(head.train(tasks, Episodes(tasks.support, later), "bernoulli", seed=0, progress=quiet)["damping"])
        for name, later in (("lasts", rows(lasting)), ("vanishes", rows(0 * lasting)))
    }
    assert chosen["lasts"] >= 0.9 and chosen["vanishes"] <= 0.1


def test_a_segment_at_several_cut_offs_counts_once_with_its_largest_task() -> None:
    rows = book()
    early = Packed(rows.keys, np.minimum(rows.starts, 40), rows.x[:40], rows.y[:40], rows.weight[:40], rows.base[:40])
    both = Packed(
        early.keys + rows.keys,
        np.concatenate([early.starts, rows.starts[1:] + 40]),
        *(np.concatenate([getattr(early, name), getattr(rows, name)]) for name in ("x", "y", "weight", "base")),
    )
    once, twice = train(MapHead(), rows), train(MapHead(), both)
    for name, values in once.items():
        np.testing.assert_array_equal(values, twice[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full(sum(SIZES), 0.5)}, "bernoulli expects labels 0 or 1, got 0.5"),
        ({"base": np.full(sum(SIZES), np.nan)}, r"support: expected finite numbers, got base\[0\] = nan in segment"),
        ({"weight": np.full(sum(SIZES), -1.0)}, "support: expected weights >= 0"),
        ({"keys": (*KEYS[:5], ("west",))}, r"one number of parts >= 1, got \[1, 2\]"),
        ({"keys": tuple((str(i),) for i in range(6))}, "learned segment keys of 2 parts, got keys of 1"),
    ],
)
def test_bad_rows_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises((DataError, ModelError), match=message):
        MapHead().adapt(some_state(), replace(book(), **change), "bernoulli")  # type: ignore[arg-type]


def test_a_two_output_likelihood_and_a_missing_column_are_refused() -> None:
    with pytest.raises(ModelError, match="one output, got gaussian_mv"):
        MapHead().adapt(some_state(), book(), "gaussian_mv")
    with pytest.raises(ModelError, match=r"slope_column expected in 0\.\.0, got 3"):
        MapHead(slope_column=3).adapt(some_state(), book(), "bernoulli")


def test_an_adaptation_keeps_one_row_a_segment_in_the_order_given() -> None:
    rows = book().select([3, 0, 5])
    adaptation: Adaptation = MapHead().adapt(some_state(), rows, "bernoulli")
    assert adaptation.keys == rows.keys and not adaptation.ragged
    assert {len(values) for values in adaptation.arrays.values()} == {3}
