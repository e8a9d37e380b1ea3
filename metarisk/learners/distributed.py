"""Meta-batches shared out over processes: which tasks are mine, and the mean of everybody's gradients.

One process is the case where every function changes nothing. Several are started with `torchrun`, on a program that
gives every process the same tasks and calls a learner's `train`; the training loop then joins them by itself, with
NCCL and one GPU a process where it trains on CUDA, with gloo on CPUs. Process 0 alone writes the checkpoint and reads
it. The steps of a week around training (extracts, evidence, the registry) are one process's work: they do not run
under `torchrun`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def local_rank() -> int:
    """Number of this process on its machine, and of its GPU; 0 where `torchrun` did not start it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join(device: torch.device) -> None:
    """Meet the other processes that `torchrun` started, unless the caller has."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_available() and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) where `torch.distributed` was not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def mine(values: Tensor) -> Tensor:
    """This process's share of the first axis: every `size`-th task from the rank on."""
    rank, size = world()
    return values[rank::size] if size > 1 else values


def combine(gradient: Tensor, losses: Tensor, tasks: int) -> tuple[Tensor, Tensor]:
    """Mean gradient and all losses of a meta-batch, from each process's mean over its own tasks.

    Args:
        gradient: (P,), the mean over the tasks of `mine`; overwritten in place.
        losses: (tasks of `mine`,).
        tasks: size of the whole meta-batch.

    Returns:
        The (P,) mean over all tasks and the (tasks,) losses in the order of the meta-batch, equal in every process.
    """
    rank, size = world()
    if size == 1:
        return gradient, losses
    everything = torch.zeros(len(gradient) + tasks, dtype=gradient.dtype, device=gradient.device)
    everything[: len(gradient)] = gradient * (len(losses) / tasks)
    everything[len(gradient) + rank :: size] = losses
    dist.all_reduce(everything)
    gradient.copy_(everything[: len(gradient)])
    return gradient, everything[len(gradient) :]


def agree(value: float, device: torch.device) -> float:
    """The value of process 0, so that every process takes the same decision."""
    if world()[1] == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)


def share(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of process 0, in place."""
    if world()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
