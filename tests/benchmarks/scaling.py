"""How a night and a week grow: seconds and peak memory of each step by rows and by segments, on both warehouses; Ray.

The book is the demo's, its regions split until there are about so many segments; the champion learned from a book of
36,000 loans, and tells reasons for the riskiest rows. Each night has a process of its own, in which a week then judges
and trains on the same extract, learning from as many rows at most. Seconds are of the wall on all cores; peaks are
resident memory, without PostgreSQL's own. Ray scores one night again, with a worker a core, and has to give the same
bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow
from pydantic import SecretStr

from flows import server as prefect_server
from flows.spreading import spread_of
from metarisk import jobs
from metarisk.domain import DEMO_AS_OF, Job
from metarisk.job import population
from metarisk.jobs import Context, Quiet, direct
from metarisk.risks.credit.book import DEMO_LOANS, generate
from metarisk.settings import Settings
from metarisk.steps import judge
from metarisk.steps import score as sharding
from metarisk.steps import train as week
from metarisk.warehouse import open_warehouse
from tests.benchmarks.harness import Figure, main
from tests.warehouses import server

Result = TypeVar("Result")
REPOSITORY = Path(__file__).parents[2]
NAME = "consumer_loans"
DEMO_SEGMENTS = 60
FEW, MANY = 200, 5_000


@dataclass(frozen=True)
class Case:
    """A book and the warehouse that holds it."""

    loans: int
    segments: int = FEW
    warehouse: str = "duckdb"
    ray: bool = False
    """Whether Ray scores it a second time."""

    @property
    def name(self) -> str:
        """For figures."""
        return f"{self.warehouse}.segments_{self.segments}.loans_{self.loans}"


def benchmark(quick: bool) -> Sequence[Figure]:
    """Figures of each step, with ratios to the case before it."""
    small, middle, large = (100_000, 200_000, 300_000) if quick else (1_000_000, 5_000_000, 20_000_000)
    cases = [
        Case(small),
        Case(middle, ray=True),
        Case(middle, warehouse="postgresql"),
        Case(small, MANY),
        Case(middle, MANY),
        Case(large),
    ]
    figures: list[Figure] = []
    found: dict[Case, Mapping[str, Any]] = {}
    for case in cases:
        found[case] = _in_process(case, quick)
        before = max((other for other in found if _smaller(other, case)), key=lambda other: other.loans, default=None)
        for figure in _figures(case, found[case], before, found[before] if before else {}):
            print(figure, flush=True)
            figures.append(figure)
    return figures


def _smaller(one: Case, other: Case) -> bool:
    return one.loans < other.loans and (one.segments, one.warehouse) == (other.segments, other.warehouse)


def _figures(case: Case, here: Mapping[str, Any], before: Case | None, there: Mapping[str, Any]) -> Sequence[Figure]:
    figures = [Figure(f"scaling.{count}.{case.name}", here[count], count) for count in ("rows", "scored")]
    for step in here["steps"]:
        for measure, unit in (("seconds", "s"), ("peak", "MiB")):
            value = here["steps"][step][measure]
            ratio = value / there["steps"][step][measure] if before else None
            figures.append(
                Figure(f"scaling.{step}.{measure}.{case.name}", value, unit, ratio, before.name if before else "")
            )
    if case.ray:
        took, shards = here["ray"]["seconds"], here["ray"]["shards"]
        ratio = took / here["steps"]["score"]["seconds"]
        figures.append(Figure(f"scaling.score.ray.{case.name}", took, "s", ratio, f"local, {shards} shards"))
    return figures


def _in_process(case: Case, quick: bool) -> dict[str, Any]:
    """The night of a case in a process of its own; what `night` prints."""
    call = f"from tests.benchmarks.scaling import Case, night; night({case!r}, {quick})"
    environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def night(case: Case, quick: bool) -> None:
    """Make a project, teach its champion, run a night of the case, and print what its steps took as JSON."""
    if quick:
        # Books that are small for shards: chunks of a quarter, and any shard is worth it.
        population.CHUNK_GROUPS, sharding.WORTH_SECONDS = 1, 1e-3
    with tempfile.TemporaryDirectory() as folder, _warehouse(case) as url:
        settings = _project(Path(folder) / "project", case.segments, url)
        teaching = get_context("spawn").Process(target=_teach, args=(settings, case.loans))
        teaching.start()
        teaching.join()
        steps = Measured()
        result = jobs.nightly(Context(Job(NAME, DEMO_AS_OF), settings, Quiet()), steps)
        steps.sum_up()
        ray = _on_ray(settings, steps.run) if case.ray else {}
        lake = settings.data_dir / "lake" / NAME / str(DEMO_AS_OF)
        manifest = json.loads(next(lake.glob("*/extract/manifest.json")).read_text())
        steps.found |= _week(settings, steps.run)
        print(json.dumps({"rows": manifest["rows"], "scored": result.rows_scored, "steps": steps.found, "ray": ray}))


@contextmanager
def _warehouse(case: Case) -> Iterator[str]:
    if case.warehouse == "duckdb":
        yield "duckdb:///warehouse.duckdb"
        return
    with server() as postgresql:
        yield postgresql.url(postgresql.create_database())


def _teach(settings: Settings, rows: int) -> None:
    """Train the champion and load so many loans; memory that it takes is gone when its process is."""
    _load(settings, DEMO_LOANS)
    jobs.weekly(Context(Job(NAME, DEMO_AS_OF - timedelta(1)), settings, Quiet()))
    _load(settings, rows)


def _week(settings: Settings, run: Any) -> dict[str, dict[str, float]]:
    """What judging and training took on the extract of a night, beside its champion."""
    toml = settings.project / "portfolios" / f"{NAME}.toml"
    limit = f"[thresholds]\nmax_training_rows = {DEMO_LOANS}\n\n[validation]"
    toml.write_text(toml.read_text().replace("[validation]", limit))
    context, steps = Context(Job(NAME, DEMO_AS_OF), settings, Quiet()), Measured()
    steps(week.train, context, steps(judge.judge, context, run.checked))
    return steps.found


class Measured:
    """Calls steps; keeps their seconds and peak resident memory in MiB, and the run."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.run: Any = None

    def __call__(self, step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        if step.__name__ == "score":
            self.run = inputs[0]
        Path("/proc/self/clear_refs").write_text("5")
        begun = time.perf_counter()
        result = direct(step, context, *inputs)
        self.found[step.__name__] = {"seconds": time.perf_counter() - begun, "peak": _peak()}
        return result

    def sum_up(self) -> None:
        """Add the night as a whole: the sum of its seconds, the highest of its peaks."""
        steps = list(self.found.values())
        self.found["night"] = {
            "seconds": sum(step["seconds"] for step in steps),
            "peak": max(step["peak"] for step in steps),
        }


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _on_ray(settings: Settings, run: Any) -> dict[str, float]:
    """Score a run again in a flow, with a Prefect server and a Ray cluster of a worker a core; seconds and shards."""
    done = run.folder / "score"
    before = done.rename(done.with_name("local"))
    spread_out = spread_of(settings.model_copy(update={"runner": "ray"}))
    counted: list[int] = []

    class Counted:
        here = spread_out.here

        def __call__(self, work: Callable[[Any], Result], parts: Mapping[str, Any]) -> Any:
            counted.append(len(parts))
            return spread_out(work, parts)

    @flow(name="night")
    def flow_of_a_night() -> float:
        begun = time.perf_counter()
        sharding.score(Context(Job(NAME, DEMO_AS_OF), settings, Quiet(), spread=Counted()), run)
        return time.perf_counter() - begun

    home = prefect_server.prefect_home(settings)
    environment = prefect_server.environment(settings, prefect_server.free_port(0))
    with prefect_server.server(environment) as api, prefect_server.reporting_to(api, home):
        seconds = flow_of_a_night()
    if (done / "manifest.json").read_bytes() != (before / "manifest.json").read_bytes():
        raise AssertionError("Ray gave other bits")
    return {"seconds": seconds, "shards": sum(counted)}


def _project(folder: Path, segments: int, url: str) -> Settings:
    """The demo's portfolio with one candidate and more regions."""
    for name in ("portfolios", "expectations", "sql"):
        shutil.copytree(REPOSITORY / name, folder / name)
    toml, sql = folder / "portfolios" / f"{NAME}.toml", folder / "sql" / "extracts" / f"{NAME}.sql"
    toml.write_text(toml.read_text().replace('risk = "credit"', 'risk = "credit"\ncandidates = ["hazard_head"]'))
    split = (
        f"l.region || '-' || CAST(CAST(substr(l.loan_id, 2) AS INTEGER) % {-(-segments // DEMO_SEGMENTS)} AS VARCHAR)"
    )
    text = sql.read_text()
    assert "    l.region,\n" in text
    sql.write_text(text.replace("    l.region,\n", f"    {split} AS region,\n"))
    settings = Settings(project=folder, warehouse=SecretStr(url))
    jobs.migrate(Context(Job(NAME, date.min), settings, Quiet()))
    return settings


def _load(settings: Settings, loans: int) -> None:
    url = settings.warehouse.get_secret_value()
    warehouse = open_warehouse(url, settings.data_dir, threads=settings.threads, memory_mb=settings.memory_mb)
    for table, reader in generate(loans / DEMO_LOANS).items():
        warehouse.load(f"source.{table}", reader)


if __name__ == "__main__":
    main(benchmark)
