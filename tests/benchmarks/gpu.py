"""Meta-training on a CUDA device: right against CPU float64, and how fast against a TorchOpt-style loop over tasks.

Needs torch, numpy and scipy alone: `python -m tests.benchmarks.gpu [--quick] [--json FILE]`. Without CUDA it runs the
same checks on the CPU, which tests the script and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from metarisk.domain import Array, Episodes, Learner, Packed
from metarisk.learners.gradient.maml import Anil, Maml, MamlPlusPlus
from metarisk.learners.gradient.reptile import Reptile
from metarisk.learners.heads.map_network import MapNetwork
from metarisk.learners.kernels.adapting import ActivationName
from metarisk.learners.kernels.plan import Plan
from metarisk.learners.kernels.unroll import Unroll
from metarisk.learners.likelihoods import LIKELIHOODS
from metarisk.learners.loop import Loop
from metarisk.learners.metric.prototypical import Prototypical
from metarisk.learners.packing import Block
from tests.benchmarks.harness import Figure, main

THERE = torch.cuda.is_available()
DEVICE = torch.device("cuda" if THERE else "cpu")
SHORT = 30
"""Steps of trainings that are compared with one another: rounding grows with the steps."""
SUPPORT, QUERY, STEPS, RATE, WIDTHS = 16, 64, 5, 0.05, (64, 64, 64, 1)


def problem(tasks: int) -> tuple[list[Tensor], Block, Block]:
    """Random weights and a meta-batch in CPU float64."""
    generator = torch.Generator().manual_seed(0)

    def block(rows: int) -> Block:
        x = torch.randn(tasks, rows, WIDTHS[0] + 1, generator=generator, dtype=torch.float64)
        x[..., -1] = 1.0
        y = (torch.rand(tasks, rows, generator=generator) < 0.3).double()
        return Block(x, y, torch.ones_like(y), torch.zeros_like(y))

    weights = [
        torch.randn(a + 1, b, generator=generator, dtype=torch.float64) * (2 / a) ** 0.5 for a, b in pairwise(WIDTHS)
    ]
    return weights, block(SUPPORT), block(QUERY)


def gradient(tasks: int, activation: ActivationName, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """The meta-gradient as one vector, by the hand-derived kernel."""
    weights, support, query = problem(tasks)
    plan = Plan(STEPS, activation)
    kernel = Unroll(tasks, (SUPPORT, QUERY), WIDTHS, plan, LIKELIHOODS["bernoulli"], device=device, dtype=dtype)
    moved = [weight.to(device, dtype) for weight in weights]
    blocks = [Block(*(part.to(device, dtype) for part in block)) for block in (support, query)]
    rates = [[RATE] * len(weights)] * STEPS

    def run() -> Tensor:
        with torch.no_grad():
            return torch.cat([each.flatten() for each in kernel(moved, rates, *blocks).weights])

    return run


def loop_over_tasks(tasks: int) -> Callable[[], Tensor]:
    """The same by autograd through a loop over tasks and steps, as TorchOpt, higher and learn2learn do."""
    weights, support, query = problem(tasks)
    leaves = [weight.to(DEVICE, torch.float32).requires_grad_() for weight in weights]
    given, judged = (Block(*(part.to(DEVICE, torch.float32) for part in block)) for block in (support, query))
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    def scores(theta: Sequence[Tensor], x: Tensor) -> Tensor:
        h = x[:, :-1]
        for layer, weight in enumerate(theta):
            h = torch.addmm(weight[-1], h, weight[:-1])
            h = torch.relu(h) if layer + 1 < len(theta) else h
        return h.squeeze(-1)

    def run() -> Tensor:
        losses = []
        for task in range(tasks):
            theta: Sequence[Tensor] = leaves
            for _ in range(STEPS):
                inner = loss(scores(theta, given.x[task]), given.y[task])
                found = torch.autograd.grad(inner, theta, create_graph=True)
                theta = [weight - RATE * step for weight, step in zip(theta, found, strict=True)]
            losses.append(loss(scores(theta, judged.x[task]), judged.y[task]))
        found = torch.autograd.grad(torch.stack(losses).mean(), leaves)
        return torch.cat([each.flatten() for each in found])

    return run


def rate_of(run: Callable[[], object], repeats: int) -> float:
    """Median calls a second, by events on CUDA."""
    seconds = []
    for _ in range(repeats + 2):
        if DEVICE.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return 1 / float(np.median(seconds[2:]))


def book(seed: int, rows: int = 120, tasks: int = 400) -> Packed:
    """Segments that differ in the level and slope of their odds."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(7)
    x = rng.normal(size=(tasks * rows, WIDTHS[0])).astype(np.float32)
    level, slope = shared.normal(size=tasks) - 1.5, shared.normal(size=(tasks, WIDTHS[0])) / 8
    index = np.repeat(np.arange(tasks), rows)
    odds = level[index] + (x * slope[index]).sum(1)
    y = (rng.random(len(index)) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    ones = np.ones(len(index), dtype=np.float32)
    return Packed(tuple((str(i),) for i in range(tasks)), np.arange(0, tasks * rows + 1, rows), x, y, ones, 0 * ones)


def trained(learner: Learner, seed: int) -> tuple[float, float]:
    """Best validation loss, and steps a second between the second and the last evaluation."""
    stamps: list[tuple[int, float, str]] = []
    learner.train(
        Episodes(book(1), book(2)),
        Episodes(book(3, 40, 400), book(4, 60, 400)),
        "bernoulli",
        seed=seed,
        progress=lambda done, total, note: stamps.append((done, time.perf_counter(), note)),
    )
    best = float(stamps[-1][2].split("best ")[1].split(",")[0])
    return best, (stamps[-1][0] - stamps[0][0]) / (stamps[-1][1] - stamps[0][1])


def parameters(learner: Learner) -> Array:
    """What training ends at, as one vector; nothing is judged, so no last digit of a loss chooses an evaluation."""
    state = learner.train(Episodes(book(1), book(2)), None, "bernoulli", seed=0, progress=lambda *_: None)
    return np.concatenate([state[name].astype(np.float64).ravel() for name in sorted(state)])


def errors() -> Iterator[Figure]:
    """Of one meta-gradient, in each precision."""
    for activation in ("relu", "tanh"):
        exact = gradient(32, activation, torch.device("cpu"), torch.float64)()
        for precision, dtype, matmul, bound in (
            ("float64", torch.float64, "highest", 1e-10),
            ("float32", torch.float32, "highest", 1e-4),
            ("tf32", torch.float32, "high", 2e-2),
        ):
            torch.set_float32_matmul_precision(matmul)
            found = gradient(32, activation, DEVICE, dtype)().double().cpu()
            torch.set_float32_matmul_precision("highest")
            error = float((found - exact).norm() / exact.norm())
            yield Figure(
                f"gpu.error.{activation}.{precision}", error, "relative to CPU float64", None, "", bound, bound
            )


def speeds(repeats: int) -> Iterator[Figure]:
    """Of one meta-gradient, without a graph."""
    for tasks in (32, 128) if THERE else (4,):
        theirs, ours = loop_over_tasks(tasks), gradient(tasks, "relu", DEVICE, torch.float32)
        error = float((ours() - theirs()).norm() / theirs().norm())
        slow, fast = rate_of(theirs, repeats), rate_of(ours, 20 * repeats)
        yield Figure(f"gpu.loop.{tasks}", slow, "steps/s of a loop over tasks")
        yield Figure(f"gpu.kernel.{tasks}", fast, "steps/s without a graph", fast / slow, "the loop")
        yield Figure(f"gpu.kernel.{tasks}.difference", error, "relative to the loop (float32)", None, "", 1e-3, 1e-3)


def trainings(learner: Maml) -> Iterator[Figure]:
    """Steps a second, and whether a graph or tf32 changes what is learned; the loss to beat is the base rate's."""
    base, share = learner.loop, float(book(4, 60, 400).y.mean())
    rate_loss = float(-share * np.log(share) - (1 - share) * np.log(1 - share))
    for label, each in (
        ("eager", replace(learner, loop=replace(base, graph=False))),
        ("graph", learner),
        ("graph.tf32", replace(learner, loop=replace(base, precision="mixed"))),
        ("graph.maml_plus_plus", MamlPlusPlus(**{**vars(learner), "rates": "step_layer", "multi_step": 0.5})),
    ):
        best, speed = trained(each, 0)
        # thirty steps on a CPU learn next to nothing, and are not asked to
        reach = 1.0 if THERE else None
        yield Figure(f"gpu.train.{label}", speed, "steps/s (draws and evaluation included)")
        yield Figure(f"gpu.train.{label}.validation", best, "log-loss", best / rate_loss, "the base rate", reach)
    short = replace(base, steps=SHORT)
    eager, graph = (parameters(replace(learner, loop=replace(short, graph=graph))) for graph in (False, True))
    apart = float(np.linalg.norm(eager - graph) / np.linalg.norm(eager))
    yield Figure(
        "gpu.train.graph.difference", apart, f"of the parameters of eager after {SHORT} steps", None, "", 1e-3, 1e-3
    )


def families(loop: Loop) -> Iterator[Figure]:
    """One learner of each other family, for a few steps: the validation loss there and on the CPU."""
    shape = {"support_rows": SUPPORT, "query_rows": QUERY}
    sgd = replace(loop, optimiser="sgd", momentum=0.0, rate=0.1)
    for name, learner in (
        ("anil", Anil(**shape, inner_rate=RATE, loop=loop)),
        ("reptile", Reptile(**shape, inner_rate=RATE, loop=sgd)),
        ("map_head", MapNetwork(**shape, hidden=(32,), loop=replace(loop, graph=False))),
        ("prototypical", Prototypical(**shape, loop=loop)),
    ):
        there, _ = trained(learner, 0)
        here, _ = trained(replace(learner, loop=replace(learner.loop, device="cpu")), 0)
        apart = abs(there / here - 1)
        yield Figure(f"gpu.{name}.validation", there, f"log-loss after {loop.steps} steps")
        yield Figure(f"gpu.{name}.difference", apart, "of the loss of CPU float32", None, "", 1e-2, 1e-2)


def reduced_precision(learner: Maml, seeds: Sequence[int]) -> Figure:
    """How far tf32 moves the validation loss, in spreads of the seeds."""
    losses = {
        precision: [
            trained(replace(learner, loop=replace(learner.loop, precision=precision)), seed)[0] for seed in seeds
        ]
        for precision in ("float32", "mixed")
    }
    moved = float(np.mean(losses["mixed"]) - np.mean(losses["float32"]))
    noise = float(np.std(losses["float32"], ddof=1))
    unit = f"log-loss (mean over {len(seeds)} seeds)"
    return Figure("gpu.mixed.moved", moved, unit, abs(moved) / noise, "spread of seeds", 2.0, 1.0)


def benchmark(quick: bool) -> Sequence[Figure]:
    """Correctness first, then speed, then whether graphs, reduced precision and other learners learn the same."""
    name = torch.cuda.get_device_name() if THERE else "no CUDA, the CPU"
    print(f"device {name}, CUDA {torch.version.cuda}")
    steps = (300 if quick else 3_000) if THERE else 30
    base = Loop(steps=steps, meta_batch=32, evaluate_every=steps // 3, patience=99, device="auto")
    learner = Maml(support_rows=SUPPORT, query_rows=QUERY, inner_rate=RATE, fusion="none", loop=base)
    return [
        *errors(),
        *speeds(3 if quick or not THERE else 10),
        *trainings(learner),
        *families(replace(base, steps=SHORT, evaluate_every=SHORT // 3)),
        reduced_precision(learner, range(1, 4 if quick or not THERE else 6)),
    ]


if __name__ == "__main__":
    main(benchmark)
