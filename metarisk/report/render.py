"""From a report's values to one self-contained HTML page: what to show first, and how numbers read.

The page loads nothing and runs no script (its content security policy forbids both); everything that data says is
escaped. Choosing what is worth a look happens here, so that the pipeline hands over everything it knows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from metarisk.backtests import FOUR_FIFTHS
from metarisk.domain import SegmentStatus
from metarisk.drift import TESTS
from metarisk.drift.decide import BADNESS, SUSPECTED
from metarisk.metrics import Interval
from metarisk.report import charts
from metarisk.report.measures import sections
from metarisk.report.model import (
    BacktestLine,
    DriftLine,
    Evidence,
    NightReport,
    QualityCheck,
    SegmentLine,
    SegmentLoss,
    WeekReport,
)

_SHOWN_SEGMENTS = 10
_SHOWN_DRIFT = 10
_CUTS = (40, 60, 80, 120, 400)
"""Where templates cut names that may be an entity's."""
_SHOWN_BACKTESTS = 24
_MAP_SEGMENTS, _MAP_FEATURES = 14, 14


@dataclass(frozen=True)
class Problem:
    """One line of what is wrong: `bad` stops something, `watch` wants a look."""

    level: Literal["bad", "watch"]
    text: str


@dataclass(frozen=True)
class Whisker:
    """Where an interval lies on the forest plot's axis, in per cent of its width."""

    low: float
    mean: float
    high: float


def render_night(report: NightReport) -> str:
    """The page of one night, published or not, as HTML text."""
    return (
        environment()
        .get_template("night.html.j2")
        .render(
            report=report,
            problems=_night_problems(report),
            seconds=sum(step.seconds for step in report.steps),
            quality=_worst_quality(report.quality),
            statuses=_status_counts(report.segments),
            segments=_interesting_segments(report.segments),
            score_chart=charts.score_chart(report.scores) if report.scores else None,
            grade_chart=charts.grade_chart(report.grades) if report.grades else None,
            waterfalls=[(move, charts.waterfall_chart(move)) for move in report.moves],
            measures=sections(report.measures),
            drift_counts=Counter(line.status for line in tests_of(report.drift)),
            drift_tests=len(tests_of(report.drift)),
            drift=_worst_drift(report.drift),
            drift_map=drift_map(report.drift, _MAP_SEGMENTS, _MAP_FEATURES),
            forest=_forest(report.evidence),
        )
    )


def render_week(report: WeekReport) -> str:
    """The page of one week of learning: who was judged, on what, and who scores from now on."""
    return (
        environment()
        .get_template("week.html.j2")
        .render(
            report=report,
            problems=_week_problems(report),
            seconds=sum(step.seconds for step in report.steps),
            quality=_worst_quality(report.quality),
            forest=_forest(report.evidence),
            out_of_time_forest=_forest(report.out_of_time),
            caterpillar=charts.caterpillar(report.segment_losses) if report.segment_losses else None,
            told_segments=_ends(report.segment_losses),
            reliability_chart=charts.reliability_chart(report.reliability) if report.reliability else None,
            backtests=_worst_backtests(report.backtests),
            backtest_counts=Counter(line.status for line in report.backtests),
            learning_chart=charts.learning_chart(report.curves) if report.curves else None,
            similarity_map=charts.similarity_map(report.similarity) if report.similarity else None,
            mapped=len(report.similarity),
            neighbours=sorted(report.similarity, key=lambda place: -place.rows)[:_SHOWN_SEGMENTS],
        )
    )


# what is worth a look


def _night_problems(report: NightReport) -> list[Problem]:
    problems = []
    if report.outcome in ("refused", "failed", "retracted"):
        problems.append(Problem("bad", report.reason or "Nothing was published."))
    # The check that stopped the night stands in its reason already.
    problems += _quality_problems(check for check in report.quality if not problems or check.rule not in report.reason)
    alerts = [line for line in tests_of(report.drift) if line.status in ("alert", SUSPECTED)]
    if alerts:
        worst = _worst_drift(alerts)[0]
        where = worst.segment.replace("|", " · ") or "the whole portfolio"
        more = f", and {len(alerts) - 1} more" if len(alerts) > 1 else ""
        problems.append(Problem("watch", f"Drift: {worst.feature or worst.detail} ({worst.metric}) in {where}{more}."))
    return problems + [Problem("watch", warning) for warning in report.warnings]


def _week_problems(report: WeekReport) -> list[Problem]:
    failed = [Problem("bad", report.reason)] if report.decision == "failed" else []
    losing = [line.segment.replace("|", " · ") for line in report.segment_losses if line.worse]
    if losing:
        more = f" and {len(losing) - 3} more" if len(losing) > 3 else ""
        failed.append(Problem("watch", f"The chosen recipe is significantly worse in {', '.join(losing[:3])}{more}."))
    wrong = [line for line in report.backtests if line.status == "understated"]
    if wrong:
        grades = ", ".join(f"{line.grade} of {line.cohort}" for line in wrong[:5])
        failed.append(Problem("watch", f"Back-test: more events than a bad year explains in grade {grades}."))
    failed += [
        Problem("watch", f"Adverse impact: {group.group} is accepted at {group.ratio:.2f} of the best.")
        for group in report.groups
        if group.ratio is not None and group.ratio < FOUR_FIFTHS
    ]
    return failed + _quality_problems(report.quality) + [Problem("watch", warning) for warning in report.warnings]


def _quality_problems(quality: Iterable[QualityCheck]) -> list[Problem]:
    return [
        Problem(
            "bad" if check.severity == "critical" else "watch",
            f"Check failed: {_about(check)}{check.rule} ({_failing(check)}).",
        )
        for check in _worst_quality(quality)
        if not check.passed and check.severity != "info"
    ]


def _about(check: QualityCheck) -> str:
    return f"{check.column}: " if check.column else ""


def _failing(check: QualityCheck) -> str:
    if check.failing:
        return f"{check.failing:,} of {check.rows:,} rows"
    return f"observed {check.observed}" if check.observed else check.suite


def _worst_quality(quality: Iterable[QualityCheck]) -> list[QualityCheck]:
    order = {"critical": 0, "warning": 1, "info": 2}
    return sorted(quality, key=lambda check: (check.passed, order[check.severity]))


def _status_counts(segments: Sequence[SegmentLine]) -> list[tuple[str, int, int]]:
    """(status, segments, rows) in a fixed order, without the statuses that none has."""
    lines = Counter(segment.status for segment in segments)
    rows: Counter[str] = Counter()
    for segment in segments:
        rows[segment.status] += segment.rows
    return [(status, lines[status], rows[status]) for status in get_args(SegmentStatus) if lines[status]]


def _interesting_segments(segments: Sequence[SegmentLine]) -> list[SegmentLine]:
    """Segments whose mean score moved most beyond what their size explains, then the largest."""

    def move(line: SegmentLine) -> float:
        now, before = line.mean_score, line.last_mean_score
        if now is None or before is None or not math.isfinite(now - before):
            return 0.0
        return abs(now - before) * math.sqrt(line.rows)

    return sorted(segments, key=lambda line: (-move(line), -line.rows, line.name))[:_SHOWN_SEGMENTS]


def _ends(losses: Sequence[SegmentLoss]) -> list[SegmentLoss]:
    """The worst and the best segments, the worst first."""
    ordered, half = sorted(losses, key=lambda line: -line.difference.mean), _SHOWN_SEGMENTS // 2
    return ordered if len(ordered) <= 2 * half else ordered[:half] + ordered[-half:]


def _worst_backtests(lines: Sequence[BacktestLine]) -> list[BacktestLine]:
    """What wants a look first, then the newest cohorts by grade."""
    order = {"understated": 0, "watch": 1, "ok": 2, "blind": 2}
    newest = sorted(lines, key=lambda line: line.cohort, reverse=True)
    return sorted(newest, key=lambda line: order[line.status])[:_SHOWN_BACKTESTS]


def tests_of(drift: Iterable[DriftLine]) -> list[DriftLine]:
    """Lines that decide; the others describe what a `psi` line found and repeat its status."""
    return [line for line in drift if line.metric in TESTS]


def _worst_drift(drift: Iterable[DriftLine]) -> list[DriftLine]:
    """What moved; of tests that had too few rows to tell, the counts say enough, but for the whole portfolio's."""

    def worth_a_line(line: DriftLine) -> bool:
        whole = line.status == "blind" and line.metric == "psi" and not line.segment
        return whole or line.status in (SUSPECTED, "alert", "watch")

    return sorted(
        filter(worth_a_line, tests_of(drift)),
        key=lambda line: (BADNESS[line.status], -(line.effect or 0.0), line.segment, line.feature),
    )[:_SHOWN_DRIFT]


def drift_map(drift: Sequence[DriftLine], segments_shown: int, features_shown: int) -> str | None:
    """Heat map of PSI effects over the segments and features that moved most; the whole portfolio comes first."""
    cells = {(line.segment, line.feature): line for line in drift if line.metric == "psi"}
    if not cells:
        return None

    def most_moved(position: int, most: int) -> list[str]:
        strength: dict[str, tuple[int, float]] = {}
        for key, line in cells.items():
            rank = (-BADNESS[line.status], line.effect or 0.0)
            strength[key[position]] = max(strength.get(key[position], (-9, 0.0)), rank)
        order = sorted(strength, key=lambda name: (strength[name], name), reverse=True)
        return sorted(order[:most], key=lambda name: (name != "", order.index(name)))

    segments, features = most_moved(0, segments_shown), most_moved(1, features_shown)
    shown = [cells[s, f] for s in segments for f in features if (s, f) in cells]
    return charts.drift_map(shown, segments, features)


def _forest(evidence: Evidence | None) -> list[tuple[object, Whisker | None]] | None:
    """Evidence rows with the place of their interval on a common axis that holds zero in the middle."""
    if evidence is None:
        return None
    bounds = [
        abs(bound)
        for row in evidence.rows
        if row.difference
        for bound in (row.difference.low, row.difference.high, row.difference.mean)
        if math.isfinite(bound)
    ]
    reach = max(bounds, default=0.0) * 1.08 or 1.0

    def place(value: float) -> float:
        return 50.0 * (1.0 + min(max(value / reach, -1.0), 1.0))

    def whisker(interval: Interval | None) -> Whisker | None:
        if interval is None or math.isnan(interval.mean):
            return None
        return Whisker(place(interval.low), place(interval.mean), place(interval.high))

    return [(row, whisker(row.difference)) for row in sorted(evidence.rows, key=lambda row: row.loss)]


# how numbers and names read


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _score(value: float | None) -> str:
    """Three significant digits: a PD of 0.0213 and a VaR of 3.41 read alike."""
    if value is None or not math.isfinite(value):
        return "–"
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.3g}"
    return f"{value:,.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def _signed(value: float | None, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def _change(line: SegmentLine) -> str:
    """Relative change of a segment's mean score since the last run."""
    now, before = line.mean_score, line.last_mean_score
    if now is None or not before or not math.isfinite(now / before):
        return "–"
    return f"{_signed(100.0 * (now / before - 1.0))} %"


def _seconds(value: float) -> str:
    if value < 99.5:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M %Z}".strip()


def written(name: str) -> list[str]:
    """Every form in which pages write a name, the longest first: whole, cut, escaped."""
    cut = (charts.printable(_name(name, most)) for most in _CUTS)
    return sorted({name, *(str(escape(form)) for form in (charts.printable(name), *cut))}, key=len, reverse=True)


def _name(value: str, most: int = 80) -> str:
    """Names as people read them: parents apart, overlong ones cut."""
    shown = value[: most * 4].replace("|", " · ")
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _prose(value: str, most: int = 600) -> Markup:
    """A sentence in which `commands` stand in backticks, escaped."""
    shown = charts.printable(value if len(value) <= most else value[: most - 1] + "…")
    parts = shown.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 and i < len(parts) - 1 else escape(part)
        for i, part in enumerate(parts)
    )


_FILTERS: Mapping[str, object] = {
    "count": _count,
    "number": _number,
    "score": _score,
    "signed": _signed,
    "change": _change,
    "seconds": _seconds,
    "moment": _moment,
    "name": _name,
    "prose": _prose,
}


def _printable(value: object) -> object:
    """What a template is about to print, fit for UTF-8 and HTML; markup of ours passes as it is."""
    return charts.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def environment() -> Environment:
    """Jinja2 with our templates and filters; everything that data says is escaped."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(_FILTERS)
    return found
