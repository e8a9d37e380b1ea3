"""Shards of a step as task runs of the flow that runs: one after another in its own process, or on Ray."""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.task_runners import TaskRunner
from prefect.tasks import Task
from prefect.transactions import BaseTransaction

from metarisk.domain import ConfigError
from metarisk.jobs import Spread
from metarisk.settings import Settings

Part = TypeVar("Part")
Result = TypeVar("Result")


def spread_of(settings: Settings) -> Spread:
    """What METARISK_RUNNER names. Raises ConfigError where Ray is not installed."""
    return OneByOne() if settings.runner == "local" else OnRay(_cluster(settings))


@dataclass(frozen=True)
class OneByOne:
    """Each part is a task run in this process, with all its threads."""

    here: bool = True

    def __call__(self, work: Callable[[Part], Result], parts: Mapping[str, Part]) -> Iterator[Result]:
        """`work(part)` of every part, in their order."""
        for name, part in parts.items():
            yield _outside_the_step().run(_task(work, part, name))


@dataclass(frozen=True)
class OnRay:
    """Each part is a task run on a worker of a cluster."""

    cluster: TaskRunner[Any]
    here: bool = False

    def __call__(self, work: Callable[[Part], Result], parts: Mapping[str, Part]) -> Iterator[Result]:
        """`work(part)` of every part, in their order."""
        with self.cluster.duplicate() as runner:
            context = _outside_the_step()
            tasks = [_task(work, part, name) for name, part in parts.items()]
            for future in [context.run(runner.submit, one, {}) for one in tasks]:
                yield future.result()


def _task(work: Callable[[Part], Result], part: Part, name: str) -> Task[[], Result]:
    """A part of the work as a task without parameters: they are none of the server's business."""

    @task(
        name="shard",
        description="Score one part of the extract's rows",
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def shard() -> Result:
        return work(part)

    return shard


def _outside_the_step() -> Context:
    """The flow's context without the step that hands out the parts.

    Prefect sends the context to workers, and the step in it holds a warehouse, which cannot travel. Within the step's
    transaction a part that is done would be told as rolled back where a later one fails.
    """
    context = copy_context()
    for left in (TaskRunContext, BaseTransaction):
        context.run(left.__var__.set, None)  # type: ignore[arg-type]
    return context


def _cluster(settings: Settings) -> TaskRunner[Any]:
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
