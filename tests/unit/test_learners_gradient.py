"""MAML, its variants and Reptile through the learner protocol: they learn, and bad or odd rows have defined results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarisk.domain import Adaptation, Arrays, ConfigError, DataError, Episodes, LikelihoodName, ModelError, Packed
from metarisk.learners.gradient.maml import Anil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from metarisk.learners.gradient.mlp import GradientLearner
from metarisk.learners.gradient.reptile import Reptile
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Draw, Loop
from metarisk.learners.packing import Fusion, take

FAST = Loop(steps=150, meta_batch=16, rate=5e-3, evaluate_every=50, device="cpu")
LEARNERS: dict[str, GradientLearner] = {
    "maml": Maml(hidden=(16, 16), loop=FAST),
    "maml-tanh": Maml(hidden=(16,), activation="tanh", loop=FAST),
    "fomaml": Fomaml(hidden=(16, 16), loop=FAST),
    "anil": Anil(hidden=(16, 16), loop=FAST),
    "meta-sgd": MetaSgd(hidden=(16, 16), loop=FAST),
    "maml++": MamlPlusPlus(hidden=(16, 16), loop=FAST),
    "reptile": Reptile(hidden=(16, 16), loop=replace(FAST, optimiser="sgd", rate=0.5, momentum=0.0)),
    "reptile-serial": Reptile(
        hidden=(16, 16), form="serial", loop=replace(FAST, steps=600, optimiser="sgd", rate=0.1, momentum=0.0)
    ),
    "momentum": Maml(hidden=(16, 16), inner_momentum=0.6, loop=FAST),
    "momentum-sgd": MetaSgd(hidden=(16, 16), inner_momentum=0.6, loop=FAST),
    "momentum-anil": Anil(hidden=(16, 16), inner_momentum=0.6, loop=FAST),
    "feature": Maml(hidden=(16, 16), fusion="feature", loop=FAST),
    "none": Maml(hidden=(16, 16), fusion="none", loop=FAST),
}
BY_NAME = pytest.mark.parametrize("name", LEARNERS)


def silent(done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""


def book(segments: int, rows: tuple[int, int], seed: int, *, effect: float = 1.5) -> Packed:
    """Segments of unequal size whose event odds differ in level and in the sign of one feature's effect."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(*rows, size=segments)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    index = np.repeat(np.arange(segments), sizes)
    x = rng.normal(size=(len(index), 4)).astype(np.float32)
    sign = np.random.default_rng(99).choice([-1.0, 1.0], size=1000)[index]
    base = (0.5 * x[:, 1] - 1.0).astype(np.float32)
    odds = base + effect * sign * x[:, 0]
    y = (rng.random(len(index)) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    ones = np.ones(len(index), dtype=np.float32)
    return Packed(tuple(("s", str(i)) for i in range(segments)), starts, x, y, ones, base)


def episodes(seed: int = 0, segments: int = 40) -> Episodes:
    return Episodes(book(segments, (20, 60), seed), book(segments, (20, 60), seed + 1))


def log_loss(scores: np.ndarray, rows: Packed) -> float:
    losses = LIKELIHOODS["bernoulli"].loss(torch.from_numpy(scores).double(), torch.from_numpy(rows.y).double())
    return float(losses.mean())


def trained(learner: GradientLearner, seed: int = 5) -> Arrays:
    return learner.train(episodes(), None, "bernoulli", seed=seed, progress=silent)


@BY_NAME
def test_learns_across_segments(name: str) -> None:
    """On new rows of the same segments it beats its base score, which knows all but the segments' effects."""
    learner = LEARNERS[name]
    state = trained(learner)
    support, query = book(40, (40, 80), 10), book(40, (50, 80), 11)
    adapted, variance = learner.predict(state, learner.adapt(state, support, "bernoulli"), query, "bernoulli")
    nothing = Adaptation((), learner.adapt(state, support.select([]), "bernoulli").arrays)
    prior, _ = learner.predict(state, nothing, query, "bernoulli")
    assert variance is None
    assert adapted.shape == query.y.shape
    assert log_loss(adapted, query) < log_loss(query.base, query) - 0.02
    assert log_loss(adapted, query) < log_loss(prior, query) - 0.02


@BY_NAME
def test_same_seed_same_bits_and_state_is_plain_arrays(name: str) -> None:
    learner = replace(LEARNERS[name], loop=replace(LEARNERS[name].loop, steps=20))
    one, two, other = trained(learner), trained(learner), trained(learner, seed=6)
    assert all(isinstance(value, np.ndarray) and value.dtype.kind == "f" for value in one.values())
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert any(not np.array_equal(one[key], other[key]) for key in one)


@BY_NAME
def test_order_of_rows_changes_no_bit(name: str) -> None:
    """Not of rows with a base score in float64 either, and with fractional weights whose sum weighs the classes."""
    learner = replace(LEARNERS[name], class_weight="balanced", loop=replace(LEARNERS[name].loop, steps=20))
    rng = np.random.default_rng(3)

    def fractional(packed: Packed) -> Packed:
        weight = rng.uniform(0.3, 2.0, packed.rows)
        return replace(packed, weight=weight, base=packed.base + rng.normal(size=packed.rows))

    tasks = Episodes(*(fractional(part) for part in (episodes().support, episodes().query)))
    support, query = fractional(book(40, (5, 300), 10)), fractional(book(40, (5, 700), 11))

    def mixed(packed: Packed) -> tuple[Packed, np.ndarray]:
        order = np.lexsort((rng.random(packed.rows), packed.index))
        return take(packed, order), order

    state = learner.train(tasks, None, "bernoulli", seed=1, progress=silent)
    again = learner.train(
        Episodes(mixed(tasks.support)[0], mixed(tasks.query)[0]), None, "bernoulli", seed=1, progress=silent
    )
    assert all(np.array_equal(state[key], again[key]) for key in state)
    one, two = (learner.adapt(state, rows, "bernoulli") for rows in (support, mixed(support)[0]))
    assert all(np.array_equal(one.arrays[key], two.arrays[key]) for key in one.arrays)
    scores, _ = learner.predict(state, one, query, "bernoulli")
    moved, order = mixed(query)
    other, _ = learner.predict(state, one, moved, "bernoulli")
    assert np.array_equal(scores[order], other)


@pytest.mark.parametrize(
    "name", ["maml", "anil", "meta-sgd", "maml++", "maml-tanh", "momentum", "momentum-sgd", "momentum-anil"]
)
def test_ragged_adaptation_equals_the_batched_inner_loop(name: str) -> None:
    """One step of training at outer rate 0 reports the losses that adapt and predict give, in float64."""
    loop = replace(FAST, precision="float64", steps=1, meta_batch=3)
    learner = replace(LEARNERS[name], loop=loop, support_rows=200, query_rows=200, prior_rows=3.0, fusion="feature")
    tasks = Episodes(book(3, (1, 9), 0), book(3, (4, 150), 1))
    fixed = learner._fixed(tasks, "bernoulli")
    prepared = Episodes(learner._prepared(tasks.support, fixed), learner._prepared(tasks.query, fixed))
    widths = (5, *learner.hidden, 1)
    rng = np.random.default_rng(0)
    start = {key: value + 0.1 * rng.normal(size=value.shape) for key, value in learner._start(widths, 0).items()}
    parameters = {key: torch.from_numpy(value) for key, value in start.items()}
    draw = Draw(torch.arange(3), torch.rand(3, 2, dtype=torch.float64))
    gradient = learner.gradient_of(prepared, widths, "bernoulli", 0)
    with torch.no_grad():
        losses, _ = gradient(parameters, draw)
    if isinstance(learner, MamlPlusPlus):
        with torch.no_grad():
            plain = replace(learner, multi_step=0.0).gradient_of(prepared, widths, "bernoulli", 0)
            losses, _ = plain(parameters, draw)
    state = {**start, **fixed}
    scores, _ = learner.predict(state, learner.adapt(state, tasks.support, "bernoulli"), tasks.query, "bernoulli")
    for task in range(3):
        only = tasks.query.select([task])
        begin, end = tasks.query.starts[task : task + 2]
        assert float(losses[task]) == pytest.approx(log_loss(scores[begin:end], only), rel=1e-10)


@BY_NAME
def test_odd_segments_have_defined_results(name: str) -> None:
    """No row, one row, one class only, a feature without variance, all weights zero: finite, and prior where empty."""
    learner = replace(LEARNERS[name], loop=replace(LEARNERS[name].loop, steps=10))
    tasks = episodes()
    sizes = [0, 1, 30, 30, 30]
    rows = book(5, (30, 31), 4).select([0, 1, 2, 3, 4])
    keep = np.concatenate([rows.starts[i] + np.arange(size) for i, size in enumerate(sizes)]).astype(int)
    odd = Packed(
        rows.keys,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        rows.x[keep],
        rows.y[keep],
        rows.weight[keep],
        rows.base[keep],
    )
    odd.y[odd.starts[2] : odd.starts[3]] = 1.0
    odd.x[odd.starts[3] : odd.starts[4]] = 0.0
    odd.weight[odd.starts[4] :] = 0.0
    with_odd = Episodes(replace(tasks.support.select(range(5)), keys=odd.keys), replace(odd, keys=odd.keys))
    for given in (tasks, with_odd, Episodes(with_odd.query, with_odd.support)):
        state = learner.train(given, given, "bernoulli", seed=1, progress=silent)
        assert all(np.isfinite(value).all() for value in state.values())
    adaptation = learner.adapt(state, odd, "bernoulli")
    assert all(np.isfinite(value).all() for value in adaptation.arrays.values())
    for array in adaptation.arrays:
        assert np.array_equal(adaptation.arrays[array][0], state[array])
        assert np.array_equal(adaptation.arrays[array][4], state[array])
    scores, _ = learner.predict(state, adaptation, rows, "bernoulli")
    assert np.isfinite(scores).all()


def test_a_segment_never_seen_is_scored_from_the_start() -> None:
    learner = LEARNERS["maml"]
    state = trained(learner)
    adaptation = learner.adapt(state, book(3, (10, 20), 0), "bernoulli")
    query = book(3, (10, 20), 1)
    renamed = replace(query, keys=(("new",), query.keys[0], ("newer",)))
    scores, _ = learner.predict(state, adaptation, renamed, "bernoulli")
    prior, _ = learner.predict(state, Adaptation((), adaptation.arrays), renamed, "bernoulli")
    begin, end = query.starts[1:3]
    assert np.array_equal(np.delete(scores, np.s_[begin:end]), np.delete(prior, np.s_[begin:end]))
    assert not np.array_equal(scores[begin:end], prior[begin:end])


@pytest.mark.parametrize("name", ["maml", "maml-tanh", "anil", "meta-sgd", "momentum"])
@pytest.mark.parametrize("rows", [(3, 6), (50, 60)])
def test_segments_whose_steps_lead_away_keep_the_start(name: str, rows: tuple[int, int]) -> None:
    """At a rate at which some segments overshoot those are put back; the rest keep the bits of unguarded steps."""
    learner = replace(LEARNERS[name], fusion="none", inner_rate=0.6, loop=replace(FAST, precision="float64"))
    widths, rng = (4, *learner.hidden, 1), np.random.default_rng(0)
    start = {key: value + 0.2 * rng.normal(size=value.shape) for key, value in learner._start(widths, 0).items()}
    state = {**start, "base": np.array([0.0, 1.0]), "class_weight": np.ones(1)}
    support = book(20, rows, 0)
    scale = np.geomspace(0.01, 10.0, 20)[support.index]
    support = replace(support, x=support.x * scale[:, None], y=scale * support.x[:, 1])

    def losses(adaptation: Adaptation) -> np.ndarray:
        broken = np.zeros(20, dtype=bool)
        for array in adaptation.arrays.values():
            broken |= ~(np.abs(array) < 1e20).all((1, 2))
        finite = {key: np.where(broken[:, None, None], 0.0, array) for key, array in adaptation.arrays.items()}
        scores, _ = learner.predict(state, replace(adaptation, arrays=finite), support, "gaussian")
        return np.where(broken, np.inf, np.bincount(support.index, weights=(scores - support.y) ** 2))

    free = learner.adapt(state, support, "gaussian")
    held = replace(learner, safeguard=True).adapt(state, support, "gaussian")
    still = replace(free, arrays={key: np.repeat(state[key][None], 20, 0) for key in free.arrays})
    away = losses(free) > losses(still)
    assert 0 < away.sum() < 20
    for key, adapted in held.arrays.items():
        assert (adapted[away] == state[key]).all()
        assert np.array_equal(adapted[~away], free.arrays[key][~away])


@pytest.mark.parametrize("safeguard", [False, True])
@pytest.mark.parametrize(
    ("name", "likelihood", "units"),
    [
        ("maml", "gaussian", 1e2),
        ("anil", "gaussian", 1e2),
        ("maml", "poisson", 1e2),
        ("meta-sgd", "poisson", 1e2),
        ("maml", "bernoulli", 1e8),
        ("momentum", "bernoulli", 1e8),
    ],
)
def test_one_segment_that_diverges_keeps_the_start_and_the_rest_their_bits(
    name: str, likelihood: LikelihoodName, units: float, safeguard: bool
) -> None:
    """Features of one segment in other units: its scores, or its loss, overflow after some steps."""
    learner = replace(LEARNERS[name], inner_rate=0.5, adapt_steps=8, fusion="none", safeguard=safeguard)
    rng = np.random.default_rng(0)
    start = learner._start((4, 16, 16, 1), 0)
    state = {key: (value + 0.2 * rng.normal(size=value.shape)).astype(np.float32) for key, value in start.items()}
    state |= {"base": np.array([0.0, 1.0]), "class_weight": np.ones(1)}
    calm, wild = book(5, (30, 40), 0), book(5, (30, 40), 0)
    calm.x[:] *= 0.1
    wild.x[:] *= 0.1
    wild.x[wild.starts[2] : wild.starts[3]] *= units
    wanted, found = (learner.adapt(state, rows, likelihood) for rows in (calm, wild))
    others = [0, 1, 3, 4]
    for key, adapted in found.arrays.items():
        assert np.array_equal(adapted[2], state[key])
        assert np.array_equal(adapted[others], wanted.arrays[key][others])
    assert not np.array_equal(found.arrays["weight2"][others], np.repeat(state["weight2"][None], 4, 0))
    scores, _ = learner.predict(state, found, wild, likelihood)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("weight", [8.0, "balanced"])
def test_class_weights_keep_scores_calibrated(weight: float) -> None:
    """Trained with positives counted many times, the mean predicted probability is still the event rate."""
    learner = replace(
        LEARNERS["maml"], class_weight=weight, fusion="none", inner_steps=1, loop=replace(FAST, steps=400)
    )
    plain = replace(learner, class_weight=1.0)
    tasks = episodes(segments=60)
    for each in (learner, plain):
        state = each.train(tasks, None, "bernoulli", seed=0, progress=silent)
        query = book(60, (60, 80), 7)
        scores, _ = each.predict(state, each.adapt(state, tasks.support, "bernoulli"), query, "bernoulli")
        assert float((1 / (1 + np.exp(-scores))).mean()) == pytest.approx(float(query.y.mean()), rel=0.12)


@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if name != "bernoulli"])
def test_every_likelihood_trains(likelihood: LikelihoodName) -> None:
    """The loss on training tasks falls under that of a constant start."""
    learner = replace(LEARNERS["maml"], fusion="none", inner_rate=0.02)
    tasks = episodes()
    quick = replace(learner, loop=replace(FAST, steps=1))
    losses = []
    for each in (quick, learner):
        notes: list[str] = []
        each.train(tasks, tasks, likelihood, seed=0, progress=lambda done, total, note, to=notes: to.append(note))
        losses.append(float(notes[-1].split("best ")[1].split(",")[0]))
    assert losses[1] < losses[0]


def spoil(change: Callable[[Packed], Packed]) -> Packed:
    return change(book(3, (5, 9), 0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: replace(p, x=p.x[:, :3]), "expected 4 features, as in training, got 3"),
        (lambda p: replace(p, x=p.x[0]), r"expected x of shape \(N, D\), got \(4,\)"),
        (lambda p: replace(p, x=p.x.astype(int)), "expected x as float32 or float64, got int64"),
        (lambda p: replace(p, x=torch.from_numpy(p.x)), "expected x as a numpy array on the CPU, got Tensor"),
        (lambda p: replace(p, y=p.y[1:]), r"expected y of shape \(\d+,\), got"),
        (lambda p: replace(p, starts=p.starts + 1), "expected starts that rise from 0"),
        (lambda p: replace(p, starts=p.starts[1:]), "expected integer starts of shape"),
        (
            lambda p: replace(p, x=np.where(np.arange(p.x.size).reshape(p.x.shape) == 6, np.nan, p.x)),
            r"x\[1, 2\] = nan",
        ),
        (lambda p: replace(p, base=p.base + np.float32("inf")), r"base\[0\] = inf in segment s\|0"),
        (lambda p: replace(p, weight=-p.weight), r"expected weights >= 0, got weight\[0\] = -1"),
    ],
)
def test_bad_rows_are_refused_with_what_was_expected_and_what_came(
    change: Callable[[Packed], Packed], words: str
) -> None:
    learner = LEARNERS["maml"]
    state = {**learner._start((4, 16, 16, 1), 0), "base": np.array([0.0, 1.0]), "class_weight": np.ones(1)}
    with pytest.raises(DataError, match=words):
        learner.adapt(state, spoil(change), "bernoulli")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("fusion", ["offset", "feature"])
def test_a_row_to_score_that_is_not_finite_is_named(value: float, fusion: Fusion) -> None:
    learner = replace(LEARNERS["maml"], fusion=fusion)
    state = {**learner._start((4 + (fusion == "feature"), 16, 16, 1), 0), "base": np.array([0.0, 1.0])}
    state["class_weight"] = np.ones(1)
    rows = book(3, (5, 9), 0)
    rows.x[-1, 3] = value
    with pytest.raises(DataError, match=rf"rows to score: .* x\[{rows.rows - 1}, 3\] = {value} in segment s\|2"):
        learner.predict(state, learner.adapt(state, book(3, (5, 9), 1), "bernoulli"), rows, "bernoulli")


def test_labels_outside_the_likelihood_are_refused() -> None:
    learner, tasks = LEARNERS["maml"], episodes()
    wrong = replace(tasks, query=replace(tasks.query, y=tasks.query.y - 1))
    with pytest.raises(ModelError, match="bernoulli expects labels 0 or 1, got -1"):
        learner.train(wrong, None, "bernoulli", seed=0, progress=silent)


@pytest.mark.parametrize(
    ("make", "setting", "words"),
    [
        (Maml, {"inner_rate": 0.0}, "inner_rate must be a number > 0, got 0"),
        (Maml, {"inner_momentum": 1.0}, "inner_momentum must be a number >= 0 and < 1, got 1"),
        (Maml, {"activation": "gelu"}, "activation must be one of relu, tanh, got gelu"),
        (Maml, {"inner_steps": -1}, "inner_steps must be a number >= 0, got -1"),
        (Maml, {"adapt_steps": -1}, "adapt_steps must be a number >= 0, got -1"),
        (Maml, {"prior_rows": -5.0}, "prior_rows must be a number >= 0, got -5"),
        (Maml, {"class_weight": "equal"}, "class_weight must be a number > 0, got equal"),
        (Maml, {"order": 3}, "order must be one of 1, 2, got 3"),
        (Maml, {"fusion": "ofset"}, "fusion must be one of offset, feature, none, got ofset"),
        (Maml, {"rates": "step"}, "rates must be one of fixed, step_layer, parameter, got step"),
        (Maml, {"adapted": "hed"}, "adapted must be one of all, head, got hed"),
        (MamlPlusPlus, {"multi_step": 1.7}, "multi_step must be a number >= 0 and <= 1, got 1.7"),
        (Reptile, {"form": "parallel"}, "form must be one of batched, serial, got parallel"),
    ],
)
def test_a_setting_outside_its_range_or_choices_is_refused(
    make: Callable[..., GradientLearner], setting: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**setting)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="Reptile cannot learn rates"):
        Reptile(rates="parameter")
    with pytest.raises(ConfigError, match=r"class_weight 2\.0 needs the bernoulli likelihood, got poisson"):
        Maml(class_weight=2.0).train(episodes(), None, "poisson", seed=0, progress=silent)


def plain_loss(theta: Sequence[Tensor], parts: Sequence[Packed], prior_rows: float) -> Tensor:
    """Mean Bernoulli loss of a tanh network on all rows of some parts, in float64, as a textbook writes it."""
    x, y, base = (
        torch.from_numpy(np.concatenate([getattr(part, name) for part in parts])).double()
        for name in ("x", "y", "base")
    )
    for layer, weight in enumerate(theta):
        z = x @ weight[:-1] + weight[-1]
        x = torch.tanh(z) if layer + 1 < len(theta) else z
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x[:, 0] + base, y, reduction="sum")
    return entropy / (len(y) + prior_rows)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_reptile_moves_towards_the_mean_end_of_plain_loops(momentum: float) -> None:
    """Windows that hold all rows of a task, so that every inner step sees the same: autograd and a loop, in float64."""
    learner = replace(
        LEARNERS["reptile"],
        activation="tanh",
        inner_momentum=momentum,
        loop=replace(FAST, precision="float64"),
        support_rows=99,
        query_rows=99,
        prior_rows=2.0,
    )
    tasks = Episodes(book(3, (5, 9), 0), book(3, (8, 20), 1))
    widths = (4, *learner.hidden, 1)
    rng = np.random.default_rng(0)
    start = {key: torch.from_numpy(rng.normal(size=value.shape)) for key, value in learner._start(widths, 0).items()}
    draw = Draw(torch.arange(3), torch.rand(3, 2, dtype=torch.float64))
    with torch.no_grad():
        _, found = learner.gradient_of(tasks, widths, "bernoulli", 0)(start, draw)
    ends = []
    for task in range(3):
        rows = [part.select([task]) for part in (tasks.support, tasks.query)]
        theta = [weight.clone().requires_grad_() for weight in start.values()]
        speeds = [torch.zeros_like(weight) for weight in theta]
        for _ in range(learner.inner_steps):
            loss = plain_loss(theta, rows, 2.0)
            slopes = torch.autograd.grad(loss, theta)
            speeds = [momentum * v + g for v, g in zip(speeds, slopes, strict=True)]
            moved = [w - learner.inner_rate * v for w, v in zip(theta, speeds, strict=True)]
            theta = [weight.detach().requires_grad_() for weight in moved]
        ends.append(theta)
    for layer, (key, begin) in enumerate(start.items()):
        wanted = begin - torch.stack([theta[layer] for theta in ends]).mean(0).detach()
        assert float((found[key] - wanted).norm()) <= 1e-10 * float(wanted.norm())


@pytest.mark.parametrize(
    ("name", "order", "frozen", "early", "momentum"),
    [
        ("maml", 2, 0, 0.0, 0.0),
        ("fomaml", 1, 0, 0.0, 0.0),
        ("anil", 2, 2, 0.0, 0.0),
        ("meta-sgd", 2, 0, 0.0, 0.0),
        ("maml++", 2, 0, 0.5, 0.0),
        ("momentum", 2, 0, 0.0, 0.6),
        ("momentum-sgd", 2, 0, 0.0, 0.6),
        ("momentum-anil", 2, 2, 0.0, 0.6),
    ],
)
def test_meta_gradients_of_all_parameters_are_those_of_the_papers(
    name: str, order: int, frozen: int, early: float, momentum: float
) -> None:
    """Body, head and learned rates, through the learner's own gradient function: autograd through a plain loop."""
    learner = replace(
        LEARNERS[name],
        activation="tanh",
        loop=replace(FAST, precision="float64"),
        support_rows=99,
        query_rows=99,
        prior_rows=2.0,
    )
    tasks, widths = Episodes(book(3, (5, 9), 0), book(3, (8, 20), 1)), (4, *learner.hidden, 1)
    rng = np.random.default_rng(0)
    given = {
        key: torch.from_numpy(value + 0.1 * rng.normal(size=value.shape))
        for key, value in learner._start(widths, 0).items()
    }
    draw = Draw(torch.arange(3), torch.rand(3, 2, dtype=torch.float64))
    with torch.no_grad():
        losses, found = learner.gradient_of(tasks, widths, "bernoulli", 0)(given, draw)

    leaves = {key: value.clone().requires_grad_() for key, value in given.items()}
    live = [f"weight{layer}" for layer in range(frozen, 3)]
    wanted = []
    for task in range(3):
        support, query = ([part.select([task])] for part in (tasks.support, tasks.query))
        theta = [leaves[f"weight{layer}"] for layer in range(3)]
        speeds = [torch.zeros_like(leaves[key]) for key in live]
        loss = torch.zeros(())
        for step in range(5):
            slopes = torch.autograd.grad(plain_loss(theta, support, 2.0), theta[frozen:], create_graph=order == 2)
            speeds = [momentum * v + g for v, g in zip(speeds, slopes, strict=True)]
            for layer, speed in enumerate(speeds, frozen):
                rate = leaves["rate"][step, layer] if "rate" in leaves else leaves.get(f"rate{layer}", 1.0)
                theta[layer] = theta[layer] - 0.1 * rate * speed
            loss = loss + (1 - early if step == 4 else early / 4) * plain_loss(theta, query, 0.0)
        wanted.append(loss)
    slopes = torch.autograd.grad(torch.stack(wanted).mean(), list(leaves.values()))
    assert torch.allclose(losses, torch.stack(wanted).detach(), rtol=1e-12)
    assert found.keys() == leaves.keys()
    for key, slope in zip(leaves, slopes, strict=True):
        assert float((found[key] - slope).norm()) <= 1e-10 * float(slope.norm())
