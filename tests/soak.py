"""`make soak`: SIGKILL at random moments of a night, then the night again; it must be as if nobody had killed it.

`python -m tests.soak [--kills 60] [--seed 0]`; the n-th seeded kill falls into the n-th part of the time that an
undisturbed night takes, so all steps are met in proportion to their length. Prints a line a kill and exits 1 at the
first difference, or where no kill met a running night.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, Project
from tests.warehouses import server

PRELOADED = ["great_expectations", "lightgbm", "torch", "metarisk.pipeline", "tests.end_to_end.tiny"]


def night(project: Project) -> None:
    """One night, in a process that may be killed."""
    project.nightly(FIRST)


def nothing() -> None:
    """What the first forked process does: starting it imports everything, which no kill is to wait for."""


def main() -> None:
    """Kill and rerun on both warehouses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="kills for each warehouse")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    forks = get_context("forkserver")
    forks.set_forkserver_preload(PRELOADED)
    first = forks.Process(target=nothing)
    first.start()
    first.join()
    with tempfile.TemporaryDirectory(prefix="metarisk-soak-") as folder, server() as postgresql:
        for kind in ("duckdb", "postgresql"):
            database = postgresql.create_database()
            url = "duckdb:///warehouse.duckdb" if kind == "duckdb" else postgresql.url(database)
            trained = tiny.make(Path(folder) / kind / "trained", url)
            trained.weekly()

            def fresh(name: str, trained: Project = trained, kind: str = kind, database: str = database) -> Project:
                own = None if kind == "duckdb" else postgresql.url(postgresql.create_database(database))
                return tiny.copy(trained, Path(folder) / kind / name, own)

            soak(kind, fresh, forks, chosen.kills, random.Random(chosen.seed))


def soak(kind: str, fresh: Callable[[str], Project], forks: ForkServerContext, kills: int, dice: random.Random) -> None:
    """Kill a night `kills` times; differences end the program."""
    calm = fresh("undisturbed")
    begun = time.monotonic()
    undisturbed = forks.Process(target=night, args=(calm,))
    undisturbed.start()
    undisturbed.join()
    length = time.monotonic() - begun
    expected = calm.contents()
    killed = 0
    for number in range(kills):
        project = fresh(f"kill{number}")
        victim = forks.Process(target=night, args=(project,))
        victim.start()
        victim.join((number + dice.random()) / kills * length)
        victim.kill()
        victim.join()
        published = project.count("publication")
        project.nightly(FIRST)
        found = tiny.differences(project.contents(), expected)
        how = "killed" if victim.exitcode == -signal.SIGKILL else "had ended"
        killed += how == "killed"
        print(
            f"{kind} {number + 1}/{kills}: {how}, {published} publications before, {len(found)} differences", flush=True
        )
        if found:
            print("\n".join(line[:200] for line in found[:10]))
            sys.exit(1)
    print(f"{kind}: {killed} of {kills} kills met a running night", flush=True)
    if not killed:
        sys.exit(1)


if __name__ == "__main__":
    main()
