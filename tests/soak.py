"""`make soak`: SIGKILL at random moments of nights, restatements and weeks, then the same again, while somebody reads.

`python -m tests.soak [--kills 60] [--weeks 6] [--seed 0]`: kills are dealt to all steps of a kind of run before one
gets its second, each at a random moment of its step. After the rerun every row must be that of a run which nobody
killed, the event log must hold, and a reader must have seen the old night or the new one and nothing else. Prints a
line a kill, and at the end the kills by step and warehouse; exits 1 at the first difference. The code must not be
edited meanwhile: what ran before and after the edit are other runs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import Pipe, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import polars as pl

from metarisk.domain import Mode
from metarisk.folders import MANIFEST
from metarisk.upkeep import audit
from tests.end_to_end import dying, tiny
from tests.end_to_end.test_kills import whole
from tests.end_to_end.tiny import CUT_OFF, FIRST, SECOND, Project
from tests.warehouses import Server, server

PRELOADED = ["great_expectations", "lightgbm", "torch", "metarisk.jobs", "tests.end_to_end.tiny"]
PAUSE = 0.25
"""Seconds between two looks of the reader."""
TRIES = 3
"""How often one kill may come after its run has ended."""


@dataclass(frozen=True)
class Kind:
    """One kind of run that is killed."""

    name: str
    week: bool
    as_of: date
    mode: Mode = "nightly"

    def run(self, project: Project) -> dict[str, float]:
        """Run it undisturbed; seconds of its steps, in their order."""
        done = project.weekly(self.as_of) if self.week else project.nightly(self.as_of, self.mode, "soak")
        return dict(done.seconds)


NIGHTS = (Kind("night", False, SECOND), Kind("restatement", False, FIRST, "restatement"))
WEEK = Kind("week", True, CUT_OFF + timedelta(days=7))


@dataclass(frozen=True)
class Soaked:
    """A project to be copied and killed, and the processes and databases for that."""

    trained: Project
    database: str | None
    """Its database; None on DuckDB."""
    postgresql: Server
    forks: ForkServerContext

    def own(self, folder: Path) -> tuple[Project, str | None]:
        """A copy, and its database."""
        if self.database is None:
            return tiny.copy(self.trained, folder), None
        database = self.postgresql.create_database(self.database)
        return tiny.copy(self.trained, folder, self.postgresql.url(database)), database

    def drop(self, project: Project, database: str | None) -> None:
        """Take a copy away again."""
        shutil.rmtree(project.settings.project)
        if database is not None:
            self.postgresql.execute(f"DROP DATABASE {database} WITH (FORCE)")


def main() -> None:
    """Kill and rerun on both warehouses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="kills of nights for each warehouse")
    parser.add_argument("--weeks", type=int, default=6, help="kills of weeks for each warehouse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warehouse", choices=["duckdb", "postgresql"], help="one of them only")
    chosen = parser.parse_args()
    forks = get_context("forkserver")
    forks.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="metarisk-soak-") as folder, server() as postgresql:
        met: dict[str, Counter[str]] = {}
        for warehouse in [chosen.warehouse] if chosen.warehouse else ["duckdb", "postgresql"]:
            database = postgresql.create_database() if warehouse == "postgresql" else None
            url = postgresql.url(database) if database else "duckdb:///warehouse.duckdb"
            trained = tiny.make(Path(folder) / warehouse / "trained", url)
            trained.weekly()
            trained.nightly(FIRST)
            trained.load(tiny.book().with_columns(pl.col("amount").abs()))  # what a restatement restates
            soaked = Soaked(trained, database, postgresql, forks)
            dice = random.Random(chosen.seed)
            print(f"{warehouse}, seed {chosen.seed}")
            met[warehouse] = _kill(soaked, NIGHTS, chosen.kills, dice) + _kill(soaked, (WEEK,), chosen.weeks, dice)
    print(_table(met), flush=True)


def _table(met: Mapping[str, Counter[str]]) -> str:
    """Kills by step, a column a warehouse: after every one the tables were those of a run never killed."""
    steps = sorted({step for counts in met.values() for step in counts})
    lines = [[step, *(counts[step] for counts in met.values())] for step in steps]
    lines.append(["in all", *(counts.total() for counts in met.values())])
    head = f"{'kills, 0 differences':<28}" + "".join(f"{warehouse:>12}" for warehouse in met)
    return "\n".join([head, *(f"{step:<28}" + "".join(f"{n:>12}" for n in counts) for step, *counts in lines)])


def _kill(soaked: Soaked, kinds: tuple[Kind, ...], kills: int, dice: random.Random) -> Counter[str]:
    """Kill runs of some kinds, each step once before one is killed again; kills by kind and step."""
    folder = soaked.trained.settings.project.parent
    points, calm = [], {}
    for kind in kinds:
        project, database = soaked.own(folder / f"undisturbed-{kind.name}")
        before = dying.current(project)
        seconds = kind.run(project)
        calm[kind] = (project.contents(), before | dying.current(project))
        points += [(kind, step, length) for step, length in seconds.items()]
        soaked.drop(project, database)
    met: Counter[str] = Counter()
    for number in range(kills):
        if number % len(points) == 0:
            dice.shuffle(points)
        kind, step, length = points[number % len(points)]
        contents, allowed = calm[kind]
        for _ in range(TRIES):
            project, database = soaked.own(folder / "victim")
            begun = time.monotonic()
            killed, found = _once(soaked.forks, project, kind, step, dice.random() * length, contents, allowed)
            soaked.drop(project, database)
            if found:
                print("\n".join(line[:300] for line in found[:10]))
                sys.exit(1)
            if killed:
                break
        else:
            sys.exit(f"{kind.name}: {step} ended before it was killed, {TRIES} times")
        met[f"{kind.name} {step}"] += 1
        print(f"{number + 1}/{kills}: {kind.name} killed in {step}, {time.monotonic() - begun:.0f} s", flush=True)
    return met


def _once(
    forks: ForkServerContext,
    project: Project,
    kind: Kind,
    step: str,
    wait: float,
    contents: dict[str, list[str]],
    allowed: dying.Seen,
) -> tuple[bool, list[str]]:
    """Kill a run once and do it again; whether it was killed before its end, and what is not as it should be."""
    here, there = Pipe()
    reader = forks.Process(target=dying.read, args=(project, there, PAUSE))
    reader.start()
    here.recv()
    told, tell = Pipe(duplex=False)
    victim = forks.Process(target=dying.telling, args=(project, kind.week, kind.as_of, kind.mode, tell))
    victim.start()
    tell.close()
    _until(told.recv, step)
    victim.join(wait)
    victim.kill()
    victim.join()
    sealed = (path.parent for path in (project.settings.data_dir / "lake").rglob(MANIFEST))
    torn = [folder for folder in sealed if ".scratch-" not in str(folder) and not whole(folder)]
    kind.run(project)
    here.send("stop")
    seen: dying.Seen = here.recv() | dying.current(project)
    reader.join()
    found = [f"{folder} was torn" for folder in torn]
    found += [f"a reader saw {state}, neither the old night nor the new one" for state in seen - allowed]
    found += [fault.what for fault in audit.verify(project.context(kind.as_of), every_night=True).faults]
    return victim.exitcode == -signal.SIGKILL, found + tiny.differences(project.contents(), contents)


def _until(receive: Callable[[], str], step: str) -> None:
    """Wait until the victim begins a step."""
    while receive() != step:
        pass


if __name__ == "__main__":
    main()
