"""What a report page shows, as values that the pipeline fills. No rendering and no reading of data lives here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from metarisk.domain import Mode, SegmentStatus
from metarisk.metrics import Interval, ReliabilityBin

Severity = Literal["critical", "warning", "info"]
DriftStatus = Literal["ok", "watch", "alert", "blind", "concept drift suspected"]
Outcome = Literal["published", "unchanged", "refused", "failed", "retracted"]
"""`unchanged`: the same run was published before; `refused`: a check stopped it; `failed`: an error did; `retracted`: a
person took it back."""
Decision = Literal["promoted", "kept", "waiting", "vetoed", "failed"]
Role = Literal["champion", "challenger", "candidate", "baseline"]


@dataclass(frozen=True)
class Champion:
    """The model that scores: `cut_off` is the last date whose labels it could know."""

    model_id: str
    recipe: str
    cut_off: date
    age_days: int
    max_age_days: int | None = None
    """Oldest that the portfolio allows."""

    @property
    def too_old(self) -> str:
        """Why nights that it scores are amber; empty where it is young enough."""
        if self.max_age_days is None or self.age_days <= self.max_age_days:
            return ""
        return (
            f"the model is {self.age_days} days old, more than max_model_age_days = {self.max_age_days}: run the weekly"
        )


@dataclass(frozen=True)
class Step:
    """One step of the run and the wall time it took."""

    name: str
    seconds: float
    outcome: Literal["done", "failed", "skipped"] = "done"
    note: str = ""


@dataclass(frozen=True)
class QualityCheck:
    """The result of one expectation: `failing` of `rows` broke it."""

    suite: str
    rule: str
    severity: Severity
    passed: bool
    failing: int = 0
    rows: int = 0
    column: str | None = None
    observed: str = ""


@dataclass(frozen=True)
class SegmentLine:
    """One segment of the night: how it was adapted, from what, and where its mean score went."""

    name: str
    status: SegmentStatus
    rows: int
    support_rows: int
    support_events: int | None = None
    mean_score: float | None = None
    last_mean_score: float | None = None
    reason: str = ""
    moved_by: str = ""
    """What moved its mean score most since the last run."""


@dataclass(frozen=True)
class ScoreHistogram:
    """Rows by score on bins shared by this run and the last: B counts, B + 1 rising edges."""

    edges: tuple[float, ...]
    now: tuple[int, ...]
    before: tuple[int, ...] | None = None
    before_label: str = "last run"
    axis: str = "score"
    number_format: str = ".1%"
    """d3-format of the edges."""
    log_scale: bool = False


@dataclass(frozen=True)
class DriftLine:
    """One row of `drift_metric`; `segment` is empty for the whole portfolio."""

    segment: str
    level: str
    feature: str
    metric: str
    status: DriftStatus
    value: float | None
    effect: float | None
    threshold: float | None
    n_ref: int
    n_cur: int
    q: float | None = None
    detail: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class EvidenceLine:
    """One candidate on the rows that all were judged on; `difference` below 0 is better than the opponent."""

    candidate: str
    loss: float
    ranking: float | None = None
    difference: Interval | None = None
    against_oracle: Interval | None = None
    role: Role = "candidate"
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """Candidates against baselines; `note` says on which rows, by whose labels."""

    rows: tuple[EvidenceLine, ...]
    opponent: str
    """In words: the baseline that validation chose before the judged rows were opened."""
    oracle: str = ""
    """The baseline that is best on the judged rows, which nobody could have known."""
    note: str = ""
    loss_name: str = "log-loss"
    ranking_name: str = "AUC"


@dataclass(frozen=True)
class LearningCurve:
    """Loss of one candidate by training step; `validation` has None where it was not measured."""

    candidate: str
    steps: tuple[int, ...]
    training: tuple[float, ...]
    validation: tuple[float | None, ...]


@dataclass(frozen=True)
class MapPoint:
    """A segment on the similarity map: near points behave alike."""

    name: str
    x: float
    y: float
    rows: int
    group: str = ""
    nearest: tuple[str, ...] = ()
    """Names of the segments most like it."""


@dataclass(frozen=True)
class GradeBar:
    """One grade of the master scale: rows of this run and of the last, and its mean score."""

    name: str
    rows: int
    rows_before: int | None = None
    mean_score: float | None = None
    expected_loss: float | None = None


@dataclass(frozen=True)
class Told:
    """One of the riskiest rows with what it is told: (text, points) of each reason, the heaviest first."""

    entity: str
    segment: str
    score: float
    grade: str
    points: float | None
    reasons: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class BacktestLine:
    """What came of the published scores of one cohort and grade."""

    cohort: str
    grade: str
    rows: int
    events: int
    mean_score: float
    event_rate: float
    rate_low: float
    rate_high: float
    jeffreys_q: float
    vasicek_q: float
    status: Literal["ok", "blind", "watch", "understated"]


@dataclass(frozen=True)
class SwapLine:
    """Rows that one of two models alone would decline; `expected` is their mean score by the new one."""

    segment: str
    """`all` for the whole portfolio."""
    what: str
    rows: int
    expected: float


@dataclass(frozen=True)
class GroupLine:
    """One group of a protected column; `ratio` is of acceptance rates, `calibration` events over expected ones."""

    group: str
    rows: int
    ratio: float | None
    calibration: Interval | None
    note: str = ""


@dataclass(frozen=True)
class Waterfall:
    """One number's change since the last run: `before` and the parts, (name, value) in order, sum to `after`."""

    title: str
    before_label: str
    after_label: str
    before: float
    after: float
    parts: tuple[tuple[str, float], ...]
    number_format: str = ".4~%"
    """d3-format of the values."""


@dataclass(frozen=True)
class SegmentLoss:
    """What the loss of the chosen recipe differs by from the opponent's in one segment, partially pooled."""

    segment: str
    rows: int
    events: int
    difference: Interval
    worse: bool
    """Significantly, after Benjamini and Hochberg over all segments."""


@dataclass(frozen=True)
class HeldOutLine:
    """Segments that were held out of training and showed `events` events each: losses of the recipe and of others."""

    events: int
    rows: int
    judged_events: int
    loss: float
    others: tuple[tuple[str, float, Interval], ...]
    """Name and loss of each baseline, and what the recipe's loss differs by."""


@dataclass(frozen=True)
class MeasureRow:
    """One number that a risk type published of the night beside its scores; a note that begins with { is JSON."""

    kind: str
    item: str
    segment: str | None
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class NightReport:
    """Everything the page of one night shows."""

    title: str
    portfolio: str
    as_of: date
    run_id: str
    mode: Mode
    outcome: Outcome
    reason: str = ""
    """Why nothing was published, or why it was taken back, or why this is a backfill or a restatement."""
    published_at: datetime | None = None
    stopped_at: datetime | None = None
    """When a refused or failed attempt ended."""
    last_published: date | None = None
    """The night that readers keep when this one is not published."""
    champion: Champion | None = None
    score_unit: str = ""
    rows_extracted: int = 0
    rows_scored: int = 0
    rows_quarantined: int = 0
    steps: tuple[Step, ...] = ()
    quality: tuple[QualityCheck, ...] = ()
    segments: tuple[SegmentLine, ...] = ()
    """All segments: the page counts them and picks those worth a look."""
    scores: ScoreHistogram | None = None
    grades: tuple[GradeBar, ...] = ()
    """Every grade of the scale, best first."""
    riskiest: tuple[Told, ...] = ()
    moves: tuple[Waterfall, ...] = ()
    """Why the whole portfolio's numbers moved since the last run."""
    rows_entered: int = 0
    rows_left: int = 0
    """Since the last run."""
    extrapolated: tuple[tuple[str, int, int], ...] = ()
    """Segment, rows, and rows of them outside of what any labelled row shows, the most such rows first."""
    measures: tuple[MeasureRow, ...] = ()
    drift: tuple[DriftLine, ...] = ()
    """All rows of the night: the page counts them and picks the worst."""
    drift_page: str = ""
    """Address of the drift page, seen from this one."""
    evidence: Evidence | None = None
    warnings: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WeekReport:
    """Everything the page of one week of learning shows."""

    title: str
    portfolio: str
    as_of: date
    run_id: str
    decision: Decision
    reason: str
    """Why the challenger was promoted or not, in one sentence."""
    champion: Champion | None = None
    """Who scores from now on."""
    challenger: str = ""
    training_rows: int = 0
    training_events: int | None = None
    training_segments: int = 0
    steps: tuple[Step, ...] = ()
    quality: tuple[QualityCheck, ...] = ()
    evidence: Evidence | None = None
    out_of_time: Evidence | None = None
    """Reports and may veto, never chooses."""
    segment_losses: tuple[SegmentLoss, ...] = ()
    held_out: tuple[HeldOutLine, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    """Of the chosen recipe on validation rows."""
    level: str = ""
    """What was found about following the level of the latest months."""
    stability: str = ""
    """What was found about reasons, compared with the champion before."""
    swaps: tuple[SwapLine, ...] = ()
    """Where the new model takes over: the whole portfolio first."""
    migration: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Rows from each grade (a line) to every grade (its numbers), in the order of the lines."""
    backtests: tuple[BacktestLine, ...] = ()
    groups: tuple[GroupLine, ...] = ()
    curves: tuple[LearningCurve, ...] = ()
    similarity: tuple[MapPoint, ...] = ()
    warnings: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
