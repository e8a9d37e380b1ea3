"""How often the guard stops a quiet night, and how surely it stops a broken one, a risk type at a time.

Simulated: what its decision functions are given on nights of made-up books, with new labels each night, a refitted
champion each week, another recipe now and then, restatements, gaps of the calendar, first nights and market crashes.
How far refits and recipes part was measured on the demo books. Real: nights of a tiny project, published one by one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np

from metarisk import jobs
from metarisk.calibration import grade_numbers
from metarisk.domain import Array, MetariskError
from metarisk.domain.portfolio import DOUBLING_SCALE, Source
from metarisk.quality import Result, guarding
from metarisk.risks import RISKS
from tests.benchmarks.harness import Figure, dotted, main
from tests.end_to_end import tiny

FAULTS = ("constant", "nan", "half_the_rows", "vanished_value", "damaged_weights", "sign_flip", "scale", "shift")
START = date(2024, 1, 1)
MOST_ROWS = 2_000
"""Rows whose scores are drawn: the guard looks at an even choice of a large book too."""
SHARE = Source("", "").min_rows_vs_median


@dataclass(frozen=True)
class Book:
    """A made-up book: its size, the spread and mean of its scores on the link scale, values of its segment column."""

    risk: str
    rows: int
    spread: float
    mean: float
    values: int
    kind: str = "stock"
    """stock: rows stay for a year; flow: another day's rows each night; entities: the same ones each night."""
    scaled: bool = False
    refit: float = 0.3
    """Noise of a refit in spreads: 0.3 is a rank correlation of 0.95."""

    @property
    def weights(self) -> Array:
        """Share of rows of each value: long-tailed."""
        raw = 1.0 / np.arange(1, self.values + 1)
        return np.full(self.values, 1 / self.values) if self.kind == "entities" else raw / raw.sum()


BOOKS = (
    Book("credit", 5_000, 0.8, -3.0, 30),
    Book("fraud", 1_500, 1.1, -5.5, 20, "flow"),
    Book("market", 60, 0.7, -8.5, 6, "entities"),
    Book("quant", 60, 0.1, 0.0, 6, "entities", scaled=True, refit=0.6),
    Book("liquidity", 60, 1.4, -3.0, 6, "entities", scaled=True),
    Book("operational", 240, 1.2, -1.0, 8, "entities"),
)


@dataclass
class Night:
    """What is known of a night: rows by value, link-scale scores of rows, and what tonight's model gives the last
    night's rows."""

    as_of: date
    counts: Array
    scores: Array
    before: Array | None = None
    again: Array | None = None
    same_recipe: bool = True
    history: list[tuple[date, int]] = field(default_factory=list)
    last: Night | None = None
    week_ago: Night | None = None

    @property
    def rows(self) -> int:
        """Rows scored."""
        return int(self.counts.sum())


def nights(rng: np.random.Generator, book: Book, number: int) -> Iterator[Night]:
    """Quiet nights of a book, each with the nights before it."""
    counts, day = _first(rng, book), START
    past: list[Night] = []
    size = min(book.rows, MOST_ROWS)
    truth = book.mean + book.spread * rng.normal(size=size)
    for n in range(number):
        gap = rng.random() < 0.02
        day += timedelta(days=int(rng.integers(8, 95)) if gap else 1)
        if book.kind == "entities" and day.weekday() >= 5:
            day += timedelta(days=7 - day.weekday())
        counts = _counted(rng, book, counts, day, 30 if gap else 1)
        refit, recipe_changed = gap or n % 7 == 0, rng.random() < 0.02
        before = truth
        again = _moved(rng, book, before, refit=refit, recipe=recipe_changed)
        if rng.random() < 0.05:  # a restatement: corrected labels, some rows more or less
            counts = rng.binomial(counts.astype(int), 0.98).astype(float) if book.kind != "entities" else counts
        crash = 1.5 * (book.risk == "market" and rng.random() < 0.01)
        # tonight's rows: other inputs, which may all have jumped
        truth = again + crash + 0.2 * book.spread * rng.normal(size=size)
        truth = book.mean + (truth - truth.mean()) * min(1.3, max(0.7, book.spread / truth.std()))
        night = Night(day, counts.copy(), truth, before, again, not recipe_changed)
        if past and rng.random() > 0.02:  # else a first night
            night.last, night.history = past[-1], [(known.as_of, known.rows) for known in reversed(past[-60:])]
            night.week_ago = next((known for known in past[-8:] if known.as_of == day - timedelta(days=7)), None)
        past = [*past[-60:], night]
        yield night


def _first(rng: np.random.Generator, book: Book) -> Array:
    if book.kind == "entities":
        return np.round(book.rows * book.weights)
    return rng.multinomial(book.rows, book.weights).astype(float)


def _counted(rng: np.random.Generator, book: Book, counts: Array, day: date, days: int) -> Array:
    """Rows tonight by value: a stock loses and gains a little, a flow is another draw with weekdays and slow days."""
    if book.kind == "flow":
        weekday = 0.45 if guarding.weekend(day) else 1.0
        busy = weekday * np.exp(rng.normal(0, 0.08)) * (0.7 if rng.random() < 0.02 else 1.0)
        own = rng.gamma(30.0, 1 / 30, book.values)
        return rng.poisson(book.rows * busy * book.weights * own).astype(float)
    if book.kind == "entities":  # an entity that is delisted, and one that comes
        leaving = rng.random(book.values) < 0.002 * days
        return np.maximum(counts - leaving + (rng.random(book.values) < 0.002 * days), 0)
    stay = rng.binomial(counts.astype(int), (1 - 1 / 300) ** days)
    return stay + rng.poisson(book.rows * book.weights * days / 300).astype(float)


def _moved(rng: np.random.Generator, book: Book, x: Array, *, refit: bool, recipe: bool) -> Array:
    """The same rows by tonight's model: newly known labels, a refit, another recipe."""
    unit = book.spread
    centre = x.mean()
    deviation = (x - centre) + 0.05 * unit * rng.normal(size=len(x))
    shift = rng.normal(0, 0.03) * (unit if book.scaled else 1.0)
    if recipe:  # measured: correlation 0.25 to 0.98, medians within 0.6; spreads of wide scores up to 2 times apart
        agree = rng.uniform(0.25, 0.98)
        noise = np.sqrt(1 / agree**2 - 1) * unit
        deviation = deviation + noise * rng.normal(size=len(x))
        deviation *= np.exp(np.clip(rng.normal(0, 0.35), -1.0, 1.0)) * agree
        shift += rng.normal(0, 0.2) * (unit if book.scaled else 1.0)
    elif refit:
        deviation = (deviation + book.refit * unit * rng.normal(size=len(x))) * np.exp(rng.normal(0, 0.12))
        shift += rng.normal(0, 0.12) * (unit if book.scaled else 1.0)
    return centre + shift + deviation


def broken(rng: np.random.Generator, book: Book, night: Night, fault: str) -> tuple[Night, int]:
    """The night with a fault planted, and how many of its scores are no numbers."""
    counts, scores, again = night.counts.copy(), night.scores, night.again
    assert again is not None
    centre = again.mean()
    if fault == "constant":
        scores, again = np.full_like(scores, centre), np.full_like(again, centre)
    elif fault == "half_the_rows":
        counts = np.ceil(counts / 2) if book.kind == "entities" else rng.binomial(counts.astype(int), 0.5).astype(float)
    elif fault == "vanished_value":
        counts[int(rng.integers(max(1, book.values // 4)))] = 0
    elif fault == "damaged_weights":
        again = centre + again.std() * rng.normal(size=len(again))
    elif fault == "sign_flip":
        again = 2 * centre - again
    elif fault == "scale":
        again = centre + 3 * (again - centre)
    elif fault == "shift":
        again = again + 2.5 * (book.spread if book.scaled else 1.0)
    changed = Night(night.as_of, counts, scores, night.before, again, night.same_recipe, night.history, night.last)
    changed.week_ago = night.week_ago
    return changed, int(0.01 * len(scores)) + 1 if fault == "nan" else 0


def judged(book: Book, night: Night, broken_rows: int = 0) -> list[Result]:
    """Verdicts of the guard."""
    limits, scores, rows = RISKS[book.risk].limits, night.scores, night.rows
    found = [
        guarding.finite(rows, broken_rows),
        guarding.scores_differ(rows, min(rows, len(scores)), float(scores.min()), float(scores.max()), 0.1),
    ]
    if RISKS[book.risk].likelihood == "bernoulli":
        found.append(guarding.grades_differ(_grades(scores), _grades(night.last.scores) if night.last else None))
    flow = book.kind == "flow"
    usual = guarding.usual_rows(night.history, night.as_of, by_weekday=flow)
    found.append(guarding.enough(rows, usual, SHARE, by_chance=book.kind != "entities"))
    if night.last is not None:
        expected, now = _named(night.last.counts), _named(night.counts)
        excused: Sequence[str] = ()
        if flow and night.week_ago is not None:
            there = _named(night.week_ago.counts)
            excused = [value for value in expected if not there[value]]
        elif flow and guarding.weekend(night.as_of) != guarding.weekend(night.last.as_of):
            excused = list(expected)
        if night.as_of - night.last.as_of <= guarding.OLDEST:
            found.append(guarding.values_stay("value", expected, now, limits.min_vanished_rows, excused))
        if night.before is not None and night.again is not None:
            found.append(
                guarding.same_scores(
                    night.before, night.again, limits, scaled=book.scaled, same_recipe=night.same_recipe
                )
            )
    return found


def _named(counts: Array) -> dict[str, float]:
    return {f"v{i}": float(n) for i, n in enumerate(counts)}


def _grades(link: Array) -> dict[str, int]:
    names = [DOUBLING_SCALE[i].name for i in grade_numbers(1 / (1 + np.exp(-link)), DOUBLING_SCALE)]
    return {name: names.count(name) for name in sorted(set(names))}


def stops(found: Sequence[Result]) -> list[str]:
    """Rules that stop the night."""
    return [result.rule for result in found if not result.success and result.severity == "critical"]


def simulated(book: Book, quiet: int, planted: int, seed: int = 0) -> tuple[int, list[str], dict[str, float]]:
    """Quiet nights that were stopped, by which rules, and the share of broken nights that was stopped, by fault."""
    rng = np.random.default_rng([seed, BOOKS.index(book)])
    rules, count = [], 0
    for night in nights(rng, book, quiet):
        found = stops(judged(book, night))
        rules += found
        count += bool(found)
    power = {}
    for fault in FAULTS:
        some = [night for night in nights(rng, book, planted + 30) if night.last is not None and night.same_recipe][20:]
        caught = [bool(stops(judged(book, *broken(rng, book, night, fault)))) for night in some]
        power[fault] = float(np.mean(caught))
    return count, rules, power


def real(number: int) -> tuple[int, int]:
    """Nights of the tiny project with a week every seventh: how many were published, and how many were stopped."""
    with tempfile.TemporaryDirectory() as folder:
        project = tiny.make(Path(folder, "project"))
        project.weekly()
        stopped = 0
        for n in range(number):
            day = tiny.FIRST + timedelta(days=n + 40 * (n >= number // 2))  # a gap of forty nights in the middle
            now = datetime.combine(day + timedelta(days=1), time(12), tzinfo=UTC)
            try:
                if n % 7 == 6:
                    jobs.weekly(replace(project.context(day - timedelta(days=1)), clock=lambda now=now: now))
                jobs.nightly(replace(project.context(day), clock=lambda now=now: now))
            except MetariskError as error:
                print(f"{day}: {error}")
                stopped += 1
        return number - stopped, stopped


def benchmark(quick: bool) -> list[Figure]:
    """The table: false stops in quiet nights with the rules that made them, and power by fault."""
    quiet, planted = (500, 60) if quick else (5_000, 400)
    figures = []
    print(f"{'risk':<12} {'stops':>5} of {quiet} quiet nights, power: {'  '.join(FAULTS)}")
    for book in BOOKS:
        count, rules, power = simulated(book, quiet, planted)
        told = ", ".join(f"{rule} {rules.count(rule)}" for rule in sorted(set(rules)))
        shares = "  ".join(f"{power[fault]:>{len(fault)}.2f}" for fault in FAULTS)
        print(f"{book.risk:<12} {count:>5} {'':<26} {shares}  {told}")
        of = f"stops in 500 of {quiet} quiet nights"
        figures.append(Figure(dotted("guard", book.risk, "false_stops"), 500 * count / quiet, of, reach=1.0))
        figures += [
            Figure(dotted("guard", book.risk, "power", fault), share, "share of nights stopped", reach=0.95, more=True)
            for fault, share in power.items()
        ]
    published, stopped = real(6 if quick else 28)
    figures.append(Figure("guard.real.false_stops", stopped, f"of {published + stopped} quiet nights", reach=0.0))
    return figures


if __name__ == "__main__":
    main(benchmark)
