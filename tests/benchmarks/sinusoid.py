"""Sinusoid regression, K = 5 (MAML paper, section 5.1): error after 1, 5 and 10 steps, for every gradient learner.

Amplitude in [0.1, 5], phase in [0, pi], x in [-5, 5], two hidden layers of 40 ReLU units. Published MAML: mean squared
error 0.67, 0.38, 0.35 after 1, 5 and 10 steps.

MAML, FOMAML and ANIL train in two set-ups: `published`, with one inner step, and `multi_step`, with two and half the
loss on each. From a start that was trained for one step alone, five or ten steps diverge on a wave in ten thousand,
whose error would decide the mean; so adaptation is safeguarded: a wave whose own five points are fitted worse after
the steps than before keeps the start, and it is judged as such. No wave is left out. Which of the two set-ups counts is
chosen on validation waves; all are judged on waves that neither training nor that choice has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metarisk.domain import Array, Arrays, Episodes, Packed
from metarisk.learners.gradient.maml import Anil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from metarisk.learners.gradient.mlp import GradientLearner
from metarisk.learners.gradient.reptile import Reptile
from metarisk.learners.loop import Loop
from tests.benchmarks.harness import Figure, main

PUBLISHED = {1: 0.67, 5: 0.38, 10: 0.35}
TASKS, SHOTS = 100_000, 5
TRAINING, VALIDATION, FRESH = 1000, 2000, 4000
"""Seeds; their thousands draw the waves."""


def sines(tasks: int, rows: int, seed: int) -> Packed:
    """Rows of random sine waves; the wave of task i depends on the seed's thousands, so that parts share waves."""
    waves = np.random.default_rng([seed // 1000, 1])
    amplitude, phase = waves.uniform(0.1, 5.0, tasks), waves.uniform(0.0, np.pi, tasks)
    x = np.random.default_rng([seed, 2]).uniform(-5.0, 5.0, (tasks, rows))
    y = amplitude[:, None] * np.sin(x - phase[:, None])
    starts = np.arange(0, tasks * rows + 1, rows)
    keys = tuple((str(i),) for i in range(tasks))
    flat = [np.ascontiguousarray(values.reshape(-1), dtype=np.float32) for values in (x, y)]
    ones = np.ones(tasks * rows, dtype=np.float32)
    return Packed(keys, starts, flat[0][:, None], flat[1], ones, 0 * ones)


def learners(steps: int) -> dict[str, GradientLearner]:
    """Each with the inner rate and outer optimiser that its paper uses, or near it."""
    loop = Loop(steps=steps, meta_batch=25, rate=1e-3, schedule="cosine", device="cpu", evaluate_every=steps)
    # half the squared error is minimised, so a rate of 0.02 is the papers' 0.01
    shared = {"hidden": (40, 40), "fusion": "none", "support_rows": SHOTS, "query_rows": 10, "safeguard": True}
    shared |= {"loop": loop}
    reptile = replace(loop, optimiser="sgd", momentum=0.0, rate=1.0, schedule="linear", meta_batch=10)
    one = {"inner_steps": 1, "inner_rate": 0.02, **shared}
    two = {"inner_steps": 2, "inner_rate": 0.02, "multi_step": 0.5, **shared}
    return {
        "maml.published": Maml(**one),
        "maml.multi_step": Maml(**two),
        "fomaml.published": Fomaml(**one),
        "fomaml.multi_step": Fomaml(**two),
        "anil.published": Anil(**one),
        "anil.multi_step": Anil(**two),
        "meta_sgd": MetaSgd(inner_steps=5, inner_rate=0.02, **shared),
        "maml_plus_plus": MamlPlusPlus(inner_steps=5, inner_rate=0.02, **shared),
        "reptile": Reptile(inner_steps=8, inner_rate=0.02, **{**shared, "loop": reptile}),
    }


def trained(learner: GradientLearner, tasks: int = TASKS) -> Arrays:
    """Meta-train on waves that no test sees."""
    episodes = Episodes(sines(tasks, 2 * SHOTS, TRAINING), sines(tasks, 2 * SHOTS, TRAINING + 1))
    return learner.train(episodes, None, "gaussian", seed=0, progress=lambda *_: None)


def errors(
    learner: GradientLearner, state: Arrays, steps: int, waves: int = FRESH, tasks: int = 30_000
) -> tuple[Array, int]:
    """Mean squared error (tasks,) on each new wave after some steps on 5 points, and how many waves kept the start."""
    support, query = sines(tasks, SHOTS, waves), sines(tasks, 100, waves + 1)
    at = replace(learner, adapt_steps=steps)
    adaptation = at.adapt(state, support, "gaussian")
    scores, _ = at.predict(state, adaptation, query, "gaussian")
    kept = (adaptation.arrays["weight2"] == state["weight2"]).all((1, 2))
    return ((scores - query.y) ** 2).reshape(tasks, -1).mean(1), int(kept.sum())


def benchmark(quick: bool) -> Sequence[Figure]:
    """40,000 outer steps each (2,000 when quick, which does not reach the published numbers)."""
    chosen: dict[str, float] = {}
    figures: list[Figure] = []
    for name, learner in learners(2_000 if quick else 40_000).items():
        state = trained(learner)
        chosen[name] = float(errors(learner, state, 10, VALIDATION, 10_000)[0].mean())
        print(f"{name}: {chosen[name]:.3f} on validation waves after 10 steps", flush=True)
        for steps, published in PUBLISHED.items():
            each, kept = errors(learner, state, steps)
            mean, spread = float(each.mean()), 1.96 * each.std(ddof=1) / np.sqrt(len(each))
            unit = f"MSE +- {spread:.3f} (95 %) on fresh waves, {kept} of {len(each)} kept the start"
            figures.append(Figure(f"sinusoid.{name}.{steps}", mean, unit, mean / published, "published MAML"))
            print(f"{name}, {steps} steps: {mean:.3f} {unit}", flush=True)
    best = min((name for name in chosen if name.startswith("maml.")), key=chosen.__getitem__)
    bound = None if quick else 1.0
    judged = [replace(one, reach=bound, aim=bound) if f".{best}." in one.name else one for one in figures]
    return [Figure(f"sinusoid.chosen.{best}", chosen[best], "MSE on validation waves after 10 steps"), *judged]


if __name__ == "__main__":
    main(benchmark)
