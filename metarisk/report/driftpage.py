"""The drift page of a run: its values, and their rendering. What is drawn stands in `driftcharts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from metarisk.drift.decide import BADNESS
from metarisk.drift.pictures import Side
from metarisk.report import driftcharts
from metarisk.report.model import Champion, DriftLine
from metarisk.report.render import drift_map, environment, tests_of

_SHOWN_SEGMENTS = 14
_MAP = 30, 18


@dataclass(frozen=True)
class AlertLine:
    """One open alert."""

    alert_id: str
    segment: str
    what: str
    status: str
    opened: date
    detail: str
    told: str
    acknowledged_by: str = ""
    muted_until: date | None = None


@dataclass(frozen=True)
class Worst:
    """A finding with its picture: a feature before and now, and its effect over the last nights."""

    line: DriftLine
    sides: tuple[Side, ...]
    nights: tuple[tuple[date, float | None, str], ...]


@dataclass(frozen=True)
class SegmentLineStatus:
    """A segment as the view `segment_status` has it, with what its earliest labels say."""

    segment: str
    status: str
    data: str
    performance: str
    labels: str
    judged_at: str
    ratio: float | None
    min_detectable_ratio: float | None
    words: str


@dataclass(frozen=True)
class DriftReport:
    """Everything that the drift page of a run shows."""

    title: str
    portfolio: str
    as_of: date
    run_id: str
    night_page: str
    champion: Champion
    lines: tuple[DriftLine, ...]
    alerts: tuple[AlertLine, ...]
    worst: tuple[Worst, ...]
    segments: tuple[SegmentLineStatus, ...]
    months: tuple[tuple[int, float, float, float], ...]
    """Month, observed over expected events, and its interval."""
    done: tuple[str, ...]
    """What was done about it, in sentences."""
    provenance: Mapping[str, str] = field(default_factory=dict)


def render_drift(report: DriftReport) -> str:
    """The page as HTML text."""
    tests = tests_of(report.lines)
    pictures = [
        (
            worst.line,
            driftcharts.sides_chart(worst.sides) if worst.sides else None,
            driftcharts.timeline(*zip(*worst.nights, strict=True)) if len(worst.nights) > 1 else None,
        )
        for worst in report.worst
    ]
    return (
        environment()
        .get_template("drift.html.j2")
        .render(
            report=report,
            counts=Counter(line.status for line in tests),
            tests=len(tests),
            kinds=_kinds(tests),
            drift_map=drift_map(report.lines, *_MAP),
            pictures=pictures,
            segments=sorted(report.segments, key=lambda line: (BADNESS.get(line.status, 9), line.segment))[
                :_SHOWN_SEGMENTS
            ],
            statuses=Counter(line.status for line in report.segments),
            months_chart=driftcharts.months_chart(report.months) if report.months else None,
            whole=[line for line in tests if not line.segment and line.metric != "psi"],
        )
    )


def _kinds(tests: Sequence[DriftLine]) -> list[tuple[str, Counter[str]]]:
    """Statuses by kind of test, in the order of the words below."""
    counted: dict[str, Counter[str]] = {}
    for line in tests:
        counted.setdefault(KINDS.get(line.metric, line.metric), Counter())[line.status] += 1
    return [(name, counted[name]) for name in dict.fromkeys(KINDS.values()) if name in counted]


KINDS = {
    "psi": "features and score", "volume": "rows of segments", "domain_auc": "all features together",
    "label_rate": "event rate since training", "expected_log_loss": "performance without labels",
    "expected_auc": "performance without labels", "expected_loss": "performance without labels",
    "early_events": "earliest labels: events", "early_auc": "earliest labels: ranking",
    "matured_auc": "matured labels: ranking", "concept": "both together",
}  # fmt: skip
