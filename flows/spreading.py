"""Ray as the task runner for shards of a step: each is a task run of the flow that runs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from metarisk.domain import ConfigError
from metarisk.pipeline import Spread
from metarisk.settings import Settings

Part = TypeVar("Part")
Result = TypeVar("Result")


def spread_of(settings: Settings) -> Spread | None:
    """The workers that METARISK_RUNNER names; None for `local`. Raises ConfigError where Ray is not installed."""
    if settings.runner == "local":
        return None
    cluster = _ray(settings)

    def spread(work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        with cluster.duplicate() as runner:
            # Prefect sends the context along, and the step in it holds a warehouse, which cannot travel.
            context = copy_context()
            context.run(_leave_the_step)
            tasks = [_task(work, part, f"shard {number} of {len(parts)}") for number, part in enumerate(parts, 1)]
            for future in [context.run(runner.submit, one, {}) for one in tasks]:
                yield future.result()

    return spread


def _task(work: Callable[[Part], Result], part: Part, name: str) -> Task[[], Result]:
    """A part of the work as a task without parameters: they are none of the server's business."""

    @task(name="shard", task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    def shard() -> Result:
        return work(part)

    return shard


def _leave_the_step() -> None:
    TaskRunContext.__var__.set(None)  # type: ignore[arg-type]


def _ray(settings: Settings) -> TaskRunner[Any]:
    """The cluster of RAY_ADDRESS, or one of METARISK_THREADS workers on this machine while there are shards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        tasks = importlib.import_module("prefect_ray.task_runners")
        importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"METARISK_RUNNER is ray, which is not installed ({error})", remedy="pip install 'metarisk[ray]'"
        ) from error
    address = os.environ.get("RAY_ADDRESS")
    own = {"num_cpus": settings.threads, "include_dashboard": False}
    runner: TaskRunner[Any] = tasks.RayTaskRunner(address, {} if address else own)
    return runner
