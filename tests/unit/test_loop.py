"""The training loop: seeds, early stopping, divergence, checkpoints, and a real SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarisk.domain import Arrays, ConfigError, ModelError
from metarisk.learners.loop import Draw, Fitted, Gradient, Loop, Parameters, _Run, by_autograd, fit
from metarisk.learners.optimisers import Optimiser, rate_at

LOOP = Loop(steps=60, meta_batch=4, rate=0.05, evaluate_every=10, checkpoint_every=7, device="cpu", precision="float64")
KEYS = tuple((name,) for name in "abcdefgh")
TARGETS = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)
START: Arrays = {"level": np.array([5.0, -5.0]), "unused": np.zeros((2, 3))}


def losses(parameters: Parameters, draw: Draw) -> Tensor:
    """Squared distance to each task's target, moved a little by the draw's offset."""
    target = TARGETS[draw.tasks].unsqueeze(1) + 0.01 * draw.offset
    return ((parameters["level"] - target) ** 2).sum(1)


QUADRATIC: Gradient = by_autograd(losses)


def silent(done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""


def run(loop: Loop = LOOP, gradient: Gradient = QUADRATIC, seed: int = 0) -> Fitted:
    return fit(START, gradient, KEYS, loop, seed=seed, progress=silent)


def test_finds_the_minimum_and_leaves_unused_parameters_alone() -> None:
    for optimiser, rate in (("adam", 0.3), ("sgd", 0.02)):
        fitted = run(replace(LOOP, steps=400, optimiser=optimiser, rate=rate))
        assert fitted.parameters["level"] == pytest.approx([0.005, 0.005], abs=0.1)
        assert np.array_equal(fitted.parameters["unused"], np.zeros((2, 3)))
        assert fitted.steps == 400


def test_seeds_fix_every_bit() -> None:
    one, two, other = run(), run(), run(seed=1)
    assert np.array_equal(one.parameters["level"], two.parameters["level"])
    assert not np.array_equal(one.parameters["level"], other.parameters["level"])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_optimisers_equal_those_of_torch(name: str) -> None:
    ours, theirs = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    mine = Optimiser("adam" if name == "adam" else "sgd", ours, momentum=0.9, clip=1e9)
    peer = torch.optim.Adam([theirs], lr=0.01) if name == "adam" else torch.optim.SGD([theirs], lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        gradient = torch.randn(3, generator=generator)
        mine.prepare(step, 0.01)
        mine.update(gradient.clone())
        theirs.grad = gradient.clone()
        peer.step()
    assert torch.allclose(ours, theirs.detach(), rtol=1e-5)


def test_long_gradients_are_shortened_and_zero_ones_survive() -> None:
    parameters = torch.zeros(2)
    optimiser = Optimiser("sgd", parameters, momentum=0.0, clip=1.0)
    optimiser.prepare(0, 1.0)
    optimiser.update(torch.tensor([30.0, 40.0]))
    assert torch.allclose(parameters, torch.tensor([-0.6, -0.8]))
    optimiser.update(torch.zeros(2))
    assert torch.allclose(parameters, torch.tensor([-0.6, -0.8]))


def test_schedules_fall_from_the_rate_to_zero() -> None:
    assert [rate_at("constant", 0.5, step, 10) for step in (0, 9)] == [0.5, 0.5]
    assert [rate_at("linear", 0.5, step, 10) for step in (0, 5)] == [0.5, 0.25]
    assert [rate_at("cosine", 0.5, step, 10) for step in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0.0])


def test_stops_early_and_returns_the_best_parameters() -> None:
    """The validation loss is best at the third evaluation; patience ends the run two evaluations later."""
    seen: list[float] = []

    def validate(parameters: Arrays) -> float:
        seen.append(float(parameters["level"][0]))
        return abs(len(seen) - 3.0)

    loop = replace(LOOP, patience=2)
    fitted = fit(START, QUADRATIC, KEYS, loop, seed=0, progress=silent, validate=validate)
    assert fitted.steps == 50
    assert fitted.validation == 0.0
    assert fitted.parameters["level"][0] == seen[2]


def test_progress_tells_loss_validation_speed_and_time_left() -> None:
    notes: list[tuple[int, int, str]] = []
    fit(
        START,
        QUADRATIC,
        KEYS,
        LOOP,
        seed=0,
        progress=lambda done, total, note: notes.append((done, total, note)),
        validate=lambda parameters: 1.0,
    )
    assert [done for done, _, _ in notes] == [10, 20, 30, 40, 50, 60]
    assert all(total == 60 for _, total, _ in notes)
    for word in ("loss ", "validation 1.0", "steps/s", "s left"):
        assert word in notes[0][2]


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_divergence_names_step_and_task(what: float) -> None:
    def spoiled(parameters: Parameters, draw: Draw) -> Tensor:
        values = losses(parameters, draw)
        return torch.where(draw.tasks == 6, values * what, values)

    first = next(step for step in range(60) if 6 in np.random.default_rng([0, step]).choice(8, 4, replace=False))
    with pytest.raises(ModelError, match=rf"diverged in step {first + 1}: loss (nan|inf) of task g\."):
        run(gradient=by_autograd(spoiled))


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_stops_training(what: float) -> None:
    """At the second evaluation, after a good first."""
    values = iter([1.0, what])
    with pytest.raises(ModelError, match=rf"diverged in step 20: the validation loss is {what}\. Remedy: lower"):
        fit(START, QUADRATIC, KEYS, LOOP, seed=0, progress=silent, validate=lambda parameters: next(values))


def test_parameters_that_are_not_finite_stop_training() -> None:
    def gradient(parameters: Parameters, draw: Draw) -> tuple[Tensor, Parameters]:
        found, gradients = QUADRATIC(parameters, draw)
        return found, {**gradients, "unused": torch.full((2, 3), torch.nan, dtype=torch.float64)}

    with pytest.raises(ModelError, match="diverged in step 1: parameters are not finite"):
        run(gradient=gradient)


def test_a_device_that_is_read_seldom_remembers_its_first_bad_loss() -> None:
    record = _Run(START, LOOP, torch.device("cpu"))
    fine, bad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])
    for losses_now, tasks in ((fine, [1, 2]), (fine, [3, 4]), (bad, [5, 6]), (bad, [7, 0])):
        record.note_trouble(losses_now, torch.tensor(tasks))
    with pytest.raises(ModelError, match="diverged in step 3: the loss of task g is not finite"):
        record.raise_trouble(KEYS)


def test_tasks_are_drawn_by_size_when_asked() -> None:
    drawn = np.zeros(8)

    def counting(parameters: Parameters, draw: Draw) -> tuple[Tensor, Parameters]:
        assert len(set(draw.tasks.tolist())) == 2
        drawn[draw.tasks.numpy()] += 1
        return QUADRATIC(parameters, draw)

    loop = replace(LOOP, steps=500, meta_batch=2, size_power=1.0)
    fit(START, counting, KEYS, loop, seed=0, progress=silent, sizes=np.array([0, 0, 0, 0, 9, 9, 9, 99]))
    assert drawn[7] > 450
    assert drawn[4:7].min() > 4 * drawn[:4].max()


def test_checkpoint_continues_to_the_same_bits(tmp_path: Path) -> None:
    loop = replace(LOOP, checkpoint=str(tmp_path / "run.npz"))
    calls = 0

    def breaking(parameters: Parameters, draw: Draw) -> tuple[Tensor, Parameters]:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return QUADRATIC(parameters, draw)

    with pytest.raises(KeyboardInterrupt):
        run(loop, breaking)
    calls = 100
    (tmp_path / "run.npz.123.tmp").write_bytes(b"what a killed save left")
    resumed, whole = run(loop, breaking), run()
    assert calls == 100 + 60 - 35
    assert np.array_equal(resumed.parameters["level"], whole.parameters["level"])
    assert resumed.loss == whole.loss
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_checkpoint_of_other_work_or_a_torn_one_is_refused(tmp_path: Path) -> None:
    loop = replace(LOOP, checkpoint=str(tmp_path / "run.npz"))
    run(loop)
    with pytest.raises(ModelError, match=r"run\.npz belongs to other data.*remove run\.npz"):
        run(loop, seed=1)
    file = tmp_path / "run.npz"
    whole = file.read_bytes()
    np.savez(file, other=np.zeros(3))
    with pytest.raises(ModelError, match=r"run\.npz belongs to other data"):
        run(loop)
    file.write_bytes(whole[:100])
    with pytest.raises(ModelError, match=r"run\.npz cannot be read"):
        run(loop)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"meta_batch": 0}, "meta_batch must be a number > 0, got 0. Remedy: set meta_batch > 0"),
        ({"rate": float("nan")}, "rate must be a number > 0, got nan"),
        ({"steps": "many"}, "steps must be a number > 0, got many"),
        ({"momentum": 1}, "momentum must be a number >= 0 and < 1, got 1"),
        (
            {"optimiser": "adamw"},
            "optimiser must be one of adam, sgd, got adamw. Remedy: set optimiser to one",
        ),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, got step"),
        ({"precision": "bf16"}, "precision must be one of float32, float64, mixed, got bf16"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda, got gpu"),
    ],
)
def test_a_setting_outside_its_range_or_choices_is_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Loop(**setting)


def test_no_task_and_no_such_device_are_refused() -> None:
    with pytest.raises(ModelError, match="no task to train on"):
        fit(START, QUADRATIC, (), LOOP, seed=0, progress=silent)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cuda was asked for, but torch sees none"):
            run(replace(LOOP, device="cuda"))


PROGRAM = """
import os, signal, sys
import numpy as np
import torch
from metarisk.domain import Episodes, Packed
from metarisk.learners.loop import Loop
from metarisk.learners.gradient.maml import MamlPlusPlus
torch.set_num_threads(1)
rng = np.random.default_rng(0)
def rows():
    x = rng.normal(size=(200, 3)).astype("float32")
    y = (rng.random(200) < 0.4).astype("float32")
    ones = np.ones(200, dtype="float32")
    return Packed(tuple((str(i),) for i in range(10)), np.arange(0, 201, 20), x, y, ones, 0 * ones)
tasks, validation = Episodes(rows(), rows()), Episodes(rows(), rows())
file, out, kill_at = sys.argv[1:]
def progress(done, total, note):
    if done == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
loop = Loop(steps=80, meta_batch=4, evaluate_every=20, checkpoint_every=15, device="cpu", checkpoint=file)
state = MamlPlusPlus(hidden=(8,), loop=loop).train(tasks, validation, "bernoulli", seed=3, progress=progress)
np.savez(out, **state)
"""


def test_killed_and_restarted_gives_the_bits_of_a_run_never_killed(tmp_path: Path) -> None:
    def start(name: str, kill_at: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / f"{name}.ckpt"), str(tmp_path / f"{name}.npz")]
        return subprocess.Popen([*command, str(kill_at)], env={**os.environ, "OMP_NUM_THREADS": "1"})

    killed, whole = start("killed", 40), start("whole", -1)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.npz").exists()
    assert (tmp_path / "killed.ckpt").exists()
    assert start("killed", -1).wait() == 0
    assert whole.wait() == 0
    with np.load(tmp_path / "killed.npz") as resumed, np.load(tmp_path / "whole.npz") as never:
        assert set(resumed.files) == set(never.files)
        assert all(np.array_equal(resumed[name], never[name]) for name in never.files)
