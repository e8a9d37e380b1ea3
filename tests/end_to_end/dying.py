"""What runs in processes of its own: a run or an erasure that dies by SIGKILL at a stated point, a reader beside it."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal, TypeVar

import duckdb
import pytest

from metarisk import jobs
from metarisk.domain import MetariskError, Mode
from metarisk.jobs import Context, Quiet
from metarisk.upkeep import forget as forgetting
from metarisk.upkeep import prune as pruning
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, NAME, Project

Result = TypeVar("Result")
When = Literal["before", "inside", "checkpointed", "committed", "after"]
Seen = set[tuple[str, date | None, int, float]]
"""Where somebody looked, and what was there: night, scores, and their sum."""
CURRENT = f"""
SELECT max(as_of) AS as_of, count(*) AS n, coalesce(sum(score), 0) AS total
FROM metarisk.score_current WHERE portfolio = '{NAME}'
"""


def die() -> None:
    """End this process at once: nothing is flushed, rolled back or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(Quiet):
    """Calls steps, reports and tells the time, and dies at one point of one step.

    Inside a step it dies at the first sign of life that the step gives: progress is told while a Parquet file is being
    written, the clock is asked inside the publishing transaction when only the publication row is missing, and of the
    adaptation's two files one stands when the other is opened. `checkpointed` is where training has a checkpoint and
    writes the next one. `committed` is the moment between a commit and the file for BI that follows it.
    """

    def __init__(self, step: str, when: When) -> None:
        self._step, self._when, self._now = step, when, ""
        sys.addaudithook(self._opened)

    def __call__(self, step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        """Run a step as `pipeline.direct` does."""
        self._now = step.__name__
        self._reached("before")
        result = step(context, *inputs)
        self._reached("after")
        self._now = ""
        return result

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Die where rows are half written."""
        if note != "extracting":
            self._reached("inside")

    def clock(self) -> datetime:
        """The tiny project's clock."""
        self._reached("inside")
        return tiny.noon()

    def _opened(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "open":
            return
        path, _, flags = arguments
        if str(path).endswith("adaptation.safetensors") and isinstance(flags, int) and flags & os.O_WRONLY:
            self._reached("inside")
        if (first := str(path).partition(".npz.")[0]) != str(path) and Path(f"{first}.npz").exists():
            self._reached("checkpointed")
        if str(path).endswith("-bi.building.duckdb"):
            self._reached("committed")

    def _reached(self, when: When) -> None:
        if (self._now, when) == (self._step, self._when):
            die()


def night(project: Project, as_of: date, step: str, when: When) -> None:
    """Run a night that never ends."""
    dying = Dying(step, when)
    context = project.context(as_of)
    jobs.nightly(Context(context.job, context.settings, dying, dying.clock), dying)


def week(project: Project, as_of: date, step: str, when: When) -> None:
    """Run a week that never ends."""
    dying = Dying(step, when)
    context = project.context(as_of)
    jobs.weekly(Context(context.job, context.settings, dying, dying.clock), dying)


RETRACT_DEATHS: Mapping[str, Callable[[str, list[Path]], bool]] = {
    "nothing is appended": lambda event, _: event == "clock 1",
    "all but the log is appended": lambda event, _: event == "clock 2",
    "the file for BI is built": lambda event, paths: (
        event == "open" and paths[0].name == "warehouse-bi.building.duckdb"
    ),
    "the page is written": lambda event, paths: event == "open" and paths[0].name.endswith("-retracted.html"),
}
"""Until where a retraction gets: it dies where it asks the time, first of the publication, then of the event, or opens
a file."""


def retraction(project: Project, as_of: date, death: str) -> None:
    """Take a night back, and never end."""
    asked = 0

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and RETRACT_DEATHS[death]("open", [Path(str(arguments[0]))]):
            die()

    def clock() -> datetime:
        nonlocal asked
        asked += 1
        if RETRACT_DEATHS[death](f"clock {asked}", []):
            die()
        return tiny.noon()

    sys.addaudithook(heard)
    jobs.retract(replace(project.context(as_of), clock=clock), "Ann Officer", "wrong file")


DEATHS: Mapping[str, Callable[[str, list[Path]], bool]] = {
    "the journal is written": lambda event, paths: event == "os.rename" and paths[1].name == f"{NAME}.json",
    "rows are renamed": lambda event, _: event == "clock",
    "a folder is rewritten": lambda event, paths: event == "os.rename" and paths[0].name == "extract",
    "the old folder is away": lambda event, paths: event == "os.rename" and paths[1].name == "extract",
    "the new folder is there": lambda event, paths: event == "shutil.rmtree" and (paths[0] / "score").exists(),
    "a page is rewritten": lambda event, paths: event == "os.rename" and paths[1].suffix == ".html",
    "the database is rewritten": lambda event, paths: event == "os.rename" and paths[1].name == "warehouse.duckdb",
    "the end is logged": lambda event, _: event == "clock",
    "the journal goes": lambda event, paths: event == "os.remove" and paths[0].name == f"{NAME}.json",
}
"""Until where an erasure gets: it dies just before the call that an auditor hears, or in the transaction that asks the
time."""


def erasure(project: Project, entity: str, death: str) -> None:
    """Run an erasure that never ends."""

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        paths = [Path(one) for one in arguments if isinstance(one, str | Path)]
        if event in {"os.rename", "os.remove", "shutil.rmtree"} and DEATHS[death](event, paths):
            die()

    def clock() -> datetime:
        begun = (project.settings.data_dir / "forgetting" / f"{NAME}.json").exists()
        if begun and DEATHS[death]("clock", []):
            die()
        return tiny.noon()

    sys.addaudithook(heard)
    erase(project, entity, clock)


def erase(project: Project, entity: str, clock: Callable[[], datetime] = tiny.noon) -> forgetting.Forgotten:
    """Erase an entity; the pseudonym is always the same, so that what is left can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda size: "0f" * size)
        context = replace(project.context(FIRST), clock=clock)
        return forgetting.forget(context, entity, "D. Officer", "request 4711")


PRUNE_DEATHS: Mapping[str, Callable[[str, list[Path]], bool]] = {
    "tables are written": lambda event, paths: event == "os.rename" and paths[1].name.endswith(".rewritten"),
    "the archive is beside its place": lambda event, paths: event == "os.rename" and paths[0].suffix == ".rewritten",
    "rows are deleted": lambda event, _: event == "clock",
    "folders leave the lake": lambda event, paths: event == "os.rename" and paths[0].name == str(FIRST),
}
"""Until where a `prune` gets, as for an erasure."""


def pruned(project: Project, as_of: date, death: str) -> None:
    """Prune all but the newest night, and never end."""

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        paths = [Path(one) for one in arguments if isinstance(one, str | Path)]
        if event == "os.rename" and PRUNE_DEATHS[death](event, paths):
            die()

    def clock() -> datetime:
        if PRUNE_DEATHS[death]("clock", []):
            die()
        return tiny.noon()

    sys.addaudithook(heard)
    pruning.prune(replace(project.context(as_of), clock=clock), 1)


def telling(project: Project, week: bool, as_of: date, mode: Mode, orders: Connection) -> None:
    """Run a week or a night that tells which step it begins, so that somebody can kill it there."""

    def told(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        orders.send(step.__name__)
        return jobs.direct(step, context, *inputs)

    (jobs.weekly if week else jobs.nightly)(project.context(as_of, mode, "soak"), told)


def current(project: Project) -> Seen:
    """What a reader finds now: in the warehouse, and in the file for BI."""
    (row,) = project.warehouse.rows(CURRENT)
    seen: Seen = {("warehouse", row["as_of"], row["n"], round(row["total"], 9))}
    warehouse = project.warehouse
    snapshot = warehouse.path.with_name("warehouse-bi.duckdb") if isinstance(warehouse, DuckDBWarehouse) else None
    if snapshot is not None and snapshot.exists():
        with duckdb.connect(snapshot, read_only=True) as connection:
            as_of, n, total = connection.execute(CURRENT).fetchall()[0]
        seen.add(("snapshot", as_of, n, round(total, 9)))
    return seen


def read(project: Project, orders: Connection, pause: float = 0.1) -> None:
    """Read the newest night again and again, `pause` seconds apart, until told to stop.

    Sends first that it has begun, at the end what it saw.
    """
    seen = current(project)
    orders.send("begun")
    while not orders.poll(pause):
        seen |= current(project)
    orders.send(seen)


def hold(project: Project, as_of: date, orders: Connection) -> None:
    """Run a night that stops before it scores until it is told to go on; sends how it ended."""

    def waiting(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == "score":
            orders.send("holding")
            orders.recv()
        return jobs.direct(step, context, *inputs)

    orders.send(jobs.nightly(project.context(as_of), waiting).outcome)


def race(project: Project, as_of: date, gate: Barrier, results: SimpleQueue[str]) -> None:
    """Run a night as soon as everybody stands at the gate; tells how it ended."""
    gate.wait()
    try:
        results.put(project.nightly(as_of).outcome)
    except MetariskError as error:
        results.put(type(error).__name__)


def fill_up(project: Project, as_of: date, step: str, limit: int, orders: Connection) -> None:
    """Run a night in which no file may grow beyond `limit` bytes from a step on; sends its error."""
    import resource

    def limited(called: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if called.__name__ == step:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return jobs.direct(called, context, *inputs)

    try:
        jobs.nightly(project.context(as_of), limited)
    except Exception as error:
        orders.send(error)
    else:
        orders.send(None)
