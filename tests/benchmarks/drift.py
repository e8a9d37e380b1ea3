"""Drift of a night: speed and memory against a plain pandas loop, and how often it cries wolf beside a fixed PSI limit.

Speed: 5 M rows x 30 features x 200 segments in Parquet, counted and judged. No wolf: 500 nights without drift, 200
segments x 40 features of all shapes, 100 to 5,000 rows a segment.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from scipy import stats

from metarisk.domain import Feature
from metarisk.drift import decide, distances, histograms, inputs
from metarisk.drift.histograms import Bins
from tests.benchmarks.harness import Figure, main, peak_memory_above
from tests.drifts import detect

SEGMENTS = ("region", "product")
NUMBERS, CATEGORIES = 26, 4
FEATURES = {f"x{j}": Feature("numeric") for j in range(NUMBERS)}
LETTERS = np.array(list("ABCDEF"))
FEATURES |= {f"c{j}": Feature("categorical") for j in range(CATEGORIES)}


def book(rng: np.random.Generator, rows: int) -> pl.DataFrame:
    """Long-tailed segments (10 regions x 20 products); normal, skewed and counted numbers, nulls, categories."""
    segment = (200 * rng.beta(0.7, 2.5, rows)).astype(np.int64)
    columns: dict[str, object] = {
        "region": np.array([f"r{i}" for i in range(10)])[segment // 20],
        "product": np.array([f"p{i}" for i in range(20)])[segment % 20],
    }
    for j in range(NUMBERS):
        drawn = rng.normal(segment / 100, 1.0)
        columns[f"x{j}"] = np.round(np.exp(drawn)) if j % 3 == 0 else np.where(drawn > 3.5, np.nan, drawn)
    for j in range(CATEGORIES):
        columns[f"c{j}"] = np.array([f"L{k}" for k in range(8 + 4 * j)])[rng.integers(0, 8 + 4 * j, rows)]
    return pl.DataFrame(columns)


def write(folder: Path, rows: int) -> pl.LazyFrame:
    """A night in Parquet files of at most half a million rows."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, start in enumerate(range(0, rows, 500_000)):
        book(rng, min(500_000, rows - start)).write_parquet(folder / f"part-{part:02d}.parquet")
    return pl.scan_parquet(folder)


def plain(frame: pd.DataFrame, known: pd.DataFrame) -> int:
    """PSI of every segment and feature as one would write it first: the number of cells."""
    cells = 0
    for key, now in frame.groupby(list(SEGMENTS)):
        before = known[(known["region"] == key[0]) & (known["product"] == key[1])]
        for name, feature in FEATURES.items():
            if before.empty:
                continue
            if feature.kind == "categorical":
                p, q = before[name].value_counts(normalize=True), now[name].value_counts(normalize=True)
            else:
                edges = np.unique(before[name].dropna().quantile(np.arange(1, 10) / 10).dropna())
                bounds = [-np.inf, *edges, np.inf]
                p, q = (pd.cut(x[name], bounds).value_counts(normalize=True, dropna=False) for x in (before, now))
            both = pd.concat([p, q], axis=1).fillna(0.0).clip(lower=1e-4).to_numpy()
            cells += bool(np.isfinite(((both[:, 0] - both[:, 1]) * np.log(both[:, 0] / both[:, 1])).sum()))
    return cells


MEMORY = """
import polars as pl
from tests.drifts import detect

def prepare():
    reference = pl.read_parquet({reference!r})
    small = pl.scan_parquet({night!r}).head(50_000)
    detect(small, reference)
    return reference

def work(reference):
    return detect(pl.scan_parquet({night!r}), reference)
"""


def speed(quick: bool) -> list[Figure]:
    """Seconds, memory and growth of one night; cells (rows x features) a second beside pandas."""
    rows = 500_000 if quick else 5_000_000
    figures = []
    with tempfile.TemporaryDirectory() as name:
        night = write(Path(name, "night"), rows)
        begin = time.perf_counter()
        reference = inputs.reference(night.head(rows // 5), FEATURES, SEGMENTS)
        figures.append(Figure(f"drift.reference.rows_{rows // 5}", time.perf_counter() - begin, "s"))
        path = Path(name, "reference.parquet")
        reference.write_parquet(path)
        figures.append(Figure("drift.reference.file", path.stat().st_size / 2**20, "MiB"))
        rates = {}
        for part in (4, 2, 1):
            some = night.head(rows // part)
            begin, cpu = time.perf_counter(), time.process_time()
            detect(some, reference)
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            rates[part] = rows // part * len(FEATURES) / wall
            figures.append(Figure(f"drift.night.rows_{rows // part}.processor", cpu, "s"))
            reach = 10.0 if part == 1 and not quick else None
            figures.append(Figure(f"drift.night.rows_{rows // part}", wall, "s", reach=reach))
        code = MEMORY.format(reference=str(path), night=str(Path(name, "night")))
        reach = None if quick else 1024.0
        figures.append(Figure("drift.memory", peak_memory_above(code), "MiB above the idle process", reach=reach))
        sample = night.head(50_000 if quick else 250_000).collect().to_pandas()
        begin = time.perf_counter()
        plain(sample, sample)
        rate = len(sample) * len(FEATURES) / (time.perf_counter() - begin)
        figures.append(
            Figure(
                "drift.cells",
                rates[1],
                "rows x features a second",
                rates[1] / rate,
                f"pandas ({rate:.3g} 1/s)",
                more=True,
            )
        )
    return figures


def quiet_book(rng: np.random.Generator, rows: int, places: np.ndarray, features: int) -> pl.LazyFrame:
    """A book of segments with `rows` each, a level of its own a segment; a quarter of the features each shape."""
    place = np.repeat(places, rows)
    columns: dict[str, object] = {"segment": np.repeat([f"s{i:03d}" for i in range(len(places))], rows)}
    for f in range(features):
        if f % 4 == 3:
            columns[f"f{f}"] = LETTERS[np.minimum(rng.geometric(0.4, len(place)), 6) - 1]
        elif f % 4 == 2:
            columns[f"f{f}"] = rng.poisson(np.exp(place))
        else:
            drawn = rng.normal(place, 1.0)
            columns[f"f{f}"] = np.exp(drawn) if f % 4 == 1 else drawn
    return pl.DataFrame(columns).lazy()


def masses(bins: Bins, shape: int, places: np.ndarray) -> np.ndarray:
    """What share of each segment's rows truly falls into each bin (S, width)."""
    if shape == 3:
        level = stats.geom.pmf(np.arange(1, 7), 0.4)
        level[5] = 1.0 - level[:5].sum()
        shares = [level[LETTERS.tolist().index(name)] for name in bins.levels]
        return np.tile([*shares, 0.0, 0.0], (len(places), 1))
    edges, level = bins.edges.astype(float)[None], places[:, None]
    if shape == 2:
        below = stats.poisson.cdf(edges, np.exp(level))
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            below = stats.norm.cdf(np.log(np.maximum(edges, 0.0)) if shape == 1 else edges, level)
    ends = np.ones((len(places), 1))
    return np.hstack([np.diff(np.hstack([0.0 * ends, below, ends]), axis=1), 0.0 * ends])


def no_wolf(quick: bool) -> list[Figure]:
    """Nights without drift on which anything is an alert or a watch, and on which a fixed PSI limit fires.

    A night's histograms are drawn from the true share of every bin, as if drawn rows were counted.
    """
    nights, segments, features = (50, 60, 20) if quick else (500, 200, 40)
    watched = {f"f{f}": Feature("categorical" if f % 4 == 3 else "numeric") for f in range(features)}
    rng, places = np.random.default_rng(0), np.linspace(-1.0, 1.0, segments)
    sizes = np.round(np.geomspace(100, 5000, segments)).astype(int)
    alerts = watches = fixed = fixed_tests = tests = 0
    for night in range(nights):
        if night % 50 == 0:  # a new model: one reference's luck must not stand for all
            table = inputs.reference(quiet_book(rng, 5000, places, features), watched, ("segment",))
            columns, known = histograms.from_frame(table)
            truth = {name: masses(b, int(name[1:]) % 4, places) for name, b in known.bins.items()}
        rows = np.append(rng.permutation(sizes), 0)
        counts = {name: np.vstack([rng.multinomial(rows[:-1], p), 0 * p[:1].astype(int)]) for name, p in truth.items()}
        tonight = replace(known, rows=rows, counts=counts)
        found = decide.compare(columns, known, tonight).filter(pl.col("segment").is_not_null(), metric="psi")
        alerts += "alert" in found["status"]
        watches += bool(found["status"].is_in(["watch", "alert"]).any())
        above = int((found["value"] > 0.1).sum())
        fixed, fixed_tests, tests = fixed + (above > 0), fixed_tests + above, tests + found.height
    of = f"share of {nights} nights without drift"
    return [
        Figure("drift.quiet.alert", alerts / nights, of, reach=0.066, aim=0.05),
        Figure("drift.quiet.watch_or_alert", watches / nights, of),
        Figure("drift.quiet.psi_above_0.1", fixed / nights, of),
        Figure("drift.quiet.psi_above_0.1.tests", fixed_tests / tests, "share of tests on these nights"),
    ]


def tail(quick: bool) -> list[Figure]:
    """How often p falls below 1e-5 without drift at 100 rows, against the nominal rate."""
    trials = 200_000 if quick else 2_000_000
    rng = np.random.default_rng(0)
    reference = np.full((trials, 10), 500)
    current = rng.multinomial(100, rng.dirichlet(np.full(10, 500.0), trials))
    _, p = distances.homogeneity(reference, current)
    suspects = np.flatnonzero(p < 3e-5)
    refined = np.array(
        [distances.monte_carlo_p(reference[i], current[i], most=400_000, rng=rng) for i in suspects.tolist()]
    )
    scaled = stats.chi2.sf(distances.psi(reference, current) / (1 / 100 + 1 / 5000), 9)
    found = {"refined": refined, "chi_square_of_pearson": p, "chi_square_of_psi": scaled}
    counts = {name: int((values < 1e-5).sum()) for name, values in found.items()}
    return [
        Figure(f"drift.tail.{name}", count, "tests with p < 1e-5", count / (1e-5 * trials), "nominal")
        for name, count in counts.items()
    ]


def benchmark(quick: bool) -> list[Figure]:
    """All figures."""
    return [*speed(quick), *tail(quick), *no_wolf(quick)]


if __name__ == "__main__":
    main(benchmark)
