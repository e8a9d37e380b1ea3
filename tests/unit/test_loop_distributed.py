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
from pathlib import Path
import numpy as np
import torch
from metarisk.domain import Episodes, ModelError, Packed
from metarisk.learners.distributed import world
from metarisk.learners.loop import Loop
from metarisk.learners.gradient.maml import Maml
out = sys.argv[1]
torch.set_num_threads(1)
rng = np.random.default_rng(0)
def rows():
    x = rng.normal(size=(180, 3)).astype("float32")
    y = (rng.random(180) < 0.4).astype("float32")
    ones = np.ones(180, dtype="float32")
    return Packed(tuple((str(i),) for i in range(9)), np.arange(0, 181, 20), x, y, ones, 0 * ones)
tasks, validation = Episodes(rows(), rows()), Episodes(rows(), rows())
def train(batch, steps, stop=None, checkpoint=None):
    def progress(done, total, note):
        if done == stop:
            raise KeyboardInterrupt
    # SGD at rate 1: in one step the parameters move by the meta-gradient
    loop = Loop(steps=steps, meta_batch=batch, optimiser="sgd", momentum=0.0, rate=1.0, schedule="constant", clip=1e9,
                evaluate_every=2, checkpoint_every=1, checkpoint=checkpoint, device="cpu", precision="float64")
    learner = Maml(hidden=(8,), fusion="none", loop=loop)
    start = learner._start((3, 8, 1), 3)
    state = learner.train(tasks, validation, "bernoulli", seed=3, progress=progress)
    return {name: start[name] - state[name] for name in start}
def refused(words, *given):
    try:
        train(*given)
    except ModelError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
for batch in (8, 7):
    moved = train(batch, 1)
    rank, size = world()
    np.savez(f"{out}.{rank}.{batch}.npz", **moved)
file = f"{out}.{rank}.ckpt"
try:
    train(8, 4, 2, file)
except KeyboardInterrupt:
    assert Path(file).exists() == (rank == 0)
np.savez(f"{out}.{rank}.resumed.npz", **train(8, 4, None, file))
if size > 1:
    refused("a meta-batch of 1 tasks cannot be shared by 2 processes", 1, 1)
    torch.distributed.barrier()
    if rank == 0:
        Path(file).write_bytes(b"torn")
    refused("cannot be read" if rank == 0 else "process 0 refused its checkpoint", 8, 4, None, file)
    torch.distributed.destroy_process_group()
"""


def start(out: Path, size: int) -> list[subprocess.Popen[bytes]]:
    """Processes in the environment that `torchrun` sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, str(out)], env={**os.environ, **given, "RANK": str(rank)}
        )
        for rank in range(size)
    ]


def load(file: str) -> dict[str, np.ndarray]:
    with np.load(file) as saved:
        return {key: saved[key] for key in saved.files}


def test_two_processes_give_the_meta_gradient_of_one(tmp_path: Path) -> None:
    """Even and uneven shares; and a run that was stopped, where only process 0 has its checkpoint."""
    running = start(tmp_path / "one", 1) + start(tmp_path / "two", 2)
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    for name in ("8", "7", "resumed"):
        one = load(f"{tmp_path}/one.0.{name}.npz")
        first, second = (load(f"{tmp_path}/two.{rank}.{name}.npz") for rank in (0, 1))
        for key, value in one.items():
            assert float(np.linalg.norm(value)) > 1e-3
            assert np.array_equal(first[key], second[key])
            assert float(np.linalg.norm(first[key] - value)) <= 1e-6 * float(np.linalg.norm(value))


def test_one_process_changes_nothing() -> None:
    gradient, losses = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    assert world() == (0, 1)
    assert mine(losses) is losses
    assert combine(gradient, losses, 1) == (gradient, losses)
    assert agree(1.5, torch.device("cpu")) == 1.5
