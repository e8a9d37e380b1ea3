"""How a night grows: seconds and peak memory of each step by rows and by segments, and its score step on Ray.

The book is the demo's, its regions split until there are about so many segments; the champion learned from a book of
36,000 loans. Each night has a process of its own. Seconds are of the wall on one thread, the Ray workers being two.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow
from pydantic import SecretStr

from flows import server
from flows.spreading import spread_of
from metarisk import pipeline
from metarisk.demo import DEMO_AS_OF, DEMO_LOANS, generate
from metarisk.domain import Job
from metarisk.pipeline import Context, Quiet, chunks, direct, sharding
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests.benchmarks.harness import Figure, main

Result = TypeVar("Result")
REPOSITORY = Path(__file__).parents[2]
NAME = "consumer_loans"
STEPS = ("extract", "check", "adapt", "score", "guard", "drift", "publish")
DEMO_SEGMENTS = 60


def benchmark(quick: bool) -> Sequence[Figure]:
    """Figures of each step, with ratios to the size before it."""
    sizes = (100_000, 300_000) if quick else (1_000_000, 5_000_000, 20_000_000)
    few, many = 200, 5_000
    found: dict[tuple[int, int], dict[str, Any]] = {}
    figures: list[Figure] = []
    runs = [(few, rows) for rows in sizes] + [(many, sizes[0])]
    for segments, rows in runs:
        found[segments, rows] = _in_process(rows, segments, "local", quick)
        before = (few, sizes[0]) if segments == many else (few, sizes[max(sizes.index(rows) - 1, 0)])
        figures += _figures(found, (segments, rows), before)
    ray = _in_process(sizes[-1], few, "ray", quick)
    local = found[few, sizes[-1]]["steps"]["score"]["seconds"]
    took = ray["steps"]["score"]["seconds"]
    shards = f"local, {ray['shards']} shards" if ray["shards"] else "local; not worth a shard"
    figures.append(Figure(f"scaling.score.ray.rows_{sizes[-1]}", took, "s", took / local, shards))
    return figures


def _figures(
    found: dict[tuple[int, int], dict[str, Any]], key: tuple[int, int], before: tuple[int, int]
) -> list[Figure]:
    segments, rows = key
    here, there = found[key], found[before]
    of, to = f"segments_{segments}.loans_{rows}", f"{before[1]:,} loans in {before[0]:,} segments"
    figures = [Figure(f"scaling.{count}.{of}", here[count], count) for count in ("rows", "scored")]
    for step in STEPS:
        for measure, unit in (("seconds", "s"), ("peak", "MiB")):
            value, was = here["steps"][step][measure], there["steps"][step][measure]
            ratio = None if key == before else value / was
            figures.append(Figure(f"scaling.{step}.{measure}.{of}", value, unit, ratio, "" if ratio is None else to))
    return figures


def _in_process(rows: int, segments: int, runner: str, quick: bool) -> dict[str, Any]:
    """The night of a book in a process of its own; what `night` prints."""
    call = f"from tests.benchmarks.scaling import night; night({rows}, {segments}, {runner!r}, {quick})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PREFECT_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def night(rows: int, segments: int, runner: str, quick: bool) -> None:
    """Make a project, teach its champion, run a night of so many loans, and print what its steps took as JSON."""
    if quick:
        # Books that are small for shards: chunks of a quarter, and any shard is worth it.
        chunks.CHUNK_GROUPS, sharding.WORTH_SECONDS = 1, 1e-3
    with tempfile.TemporaryDirectory() as folder:
        settings = _project(Path(folder) / "project", segments, runner)
        teaching = get_context("spawn").Process(target=_teach, args=(settings, rows))
        teaching.start()
        teaching.join()
        steps = Measured()
        context = Context(Job(NAME, DEMO_AS_OF), settings, Quiet(), spread=spread_of(settings))
        result = pipeline.nightly(context, steps) if runner == "local" else _in_flow(settings, context, steps)
        lake = settings.data_dir / "lake" / NAME / str(DEMO_AS_OF)
        manifest = json.loads(next(lake.glob("*/extract/manifest.json")).read_text())
        parts = {"rows": manifest["rows"], "scored": result.rows_scored, "steps": steps.found, "shards": steps.shards}
        print(json.dumps(parts))


def _teach(settings: Settings, rows: int) -> None:
    """Train the champion and load so many loans; memory that it takes is gone when its process is."""
    _load(settings, DEMO_LOANS)
    pipeline.weekly(Context(Job(NAME, DEMO_AS_OF - timedelta(1)), settings, Quiet()))
    _load(settings, rows)


class Measured:
    """Calls steps; keeps their seconds and peak resident memory in MiB, and how many shards there were."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.shards = 0

    def __call__(self, step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        Path("/proc/self/clear_refs").write_text("5")
        begun = time.perf_counter()
        result = direct(step, context, *inputs)
        self.found[step.__name__] = {"seconds": time.perf_counter() - begun, "peak": _peak()}
        return result


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _in_flow(settings: Settings, context: Context, steps: Measured) -> pipeline.NightResult:
    """The night as a flow, with a Prefect server and a Ray cluster of two workers."""
    counted = context.spread
    assert counted is not None

    def spread(work: Callable[[Any], Result], parts: Sequence[Any]) -> Any:
        steps.shards = len(parts)
        return counted(work, parts)

    @flow(name="night")
    def run() -> pipeline.NightResult:
        return pipeline.nightly(replace(context, spread=spread), steps)

    home = server.prefect_home(settings)
    with server.server(server.environment(settings, server.free_port(0))) as api, server.reporting_to(api, home):
        return run()


def _project(folder: Path, segments: int, runner: str) -> Settings:
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
    threads = 2 if runner == "ray" else 1
    settings = Settings(project=folder, warehouse=SecretStr("duckdb:///warehouse.duckdb"), threads=threads)
    settings = settings.model_copy(update={"runner": runner})
    pipeline.migrate(Context(Job(NAME, date.min), settings, Quiet()))
    return settings


def _load(settings: Settings, loans: int) -> None:
    url = settings.warehouse.get_secret_value()
    warehouse = open_warehouse(url, settings.data_dir, threads=1, memory_mb=settings.memory_mb)
    for table, reader in generate(loans / DEMO_LOANS).items():
        warehouse.load(f"source.{table}", reader)


if __name__ == "__main__":
    main(benchmark)
