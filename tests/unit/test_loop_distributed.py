"""Two real processes that share a meta-batch against one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from metarisk.learners.distributed import agree, combine, mine, world

PROGRAM = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from metarisk.domain import Episodes, Packed
from metarisk.learners.loop import Loop
from metarisk.learners.maml import Maml
rank, size, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
rng = np.random.default_rng(0)
def rows():
    x = rng.normal(size=(180, 3)).astype("float32")
    y = (rng.random(180) < 0.4).astype("float32")
    ones = np.ones(180, dtype="float32")
    return Packed(tuple((str(i),) for i in range(9)), np.arange(0, 181, 20), x, y, ones, 0 * ones)
tasks, validation = Episodes(rows(), rows()), Episodes(rows(), rows())
for batch, steps in ((8, 1), (7, 3)):
    # SGD at rate 1: in one step the parameters move by the meta-gradient
    loop = Loop(steps=steps, meta_batch=batch, optimiser="sgd", momentum=0.0, rate=1.0, schedule="constant",
                evaluate_every=2, device="cpu", clip=1e9)
    learner = Maml(hidden=(8,), fusion="none", loop=loop)
    state = learner.train(tasks, validation, "bernoulli", seed=3, progress=lambda *_: None)
    np.savez(f"{out}.{rank}.{batch}.npz", **state)
if size > 1:
    dist.destroy_process_group()
"""


def start(out: Path, size: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen([*command, str(rank), str(size), str(port), str(out)], env=environment) for rank in range(size)
    ]


def load(file: str) -> dict[str, np.ndarray]:
    with np.load(file) as saved:
        return {key: saved[key] for key in saved.files}


def test_two_processes_give_the_meta_gradient_of_one(tmp_path: Path) -> None:
    """Even and uneven shares; a later step differs only by the rounding of the ones before."""
    running = start(tmp_path / "one", 1) + start(tmp_path / "two", 2)
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    for batch in (8, 7):
        one = load(f"{tmp_path}/one.0.{batch}.npz")
        first, second = (load(f"{tmp_path}/two.{rank}.{batch}.npz") for rank in (0, 1))
        for key, value in one.items():
            assert np.array_equal(first[key], second[key])
            assert float(np.linalg.norm(first[key] - value)) <= 1e-6 * max(float(np.linalg.norm(value)), 1e-6)


def test_one_process_changes_nothing() -> None:
    gradient, losses = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    assert world() == (0, 1)
    assert mine(losses) is losses
    assert combine(gradient, losses, 1) == (gradient, losses)
    assert agree(1.5, torch.device("cpu")) == 1.5
