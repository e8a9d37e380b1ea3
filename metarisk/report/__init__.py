"""Report pages of a night and of a week: fill the values of `NightReport` or `WeekReport`, get one HTML page.

Values are in `model`, what is shown first in `render`, pictures in `charts`, words and looks in the templates.
"""

from metarisk.report.model import (
    BacktestLine,
    Champion,
    DriftLine,
    Evidence,
    EvidenceLine,
    GradeBar,
    GroupLine,
    HeldOutLine,
    LearningCurve,
    MapPoint,
    NightReport,
    QualityCheck,
    ScoreHistogram,
    SegmentLine,
    SegmentLoss,
    Step,
    SwapLine,
    Told,
    Waterfall,
    WeekReport,
)
from metarisk.report.render import render_night, render_week

__all__ = [
    "BacktestLine",
    "Champion",
    "DriftLine",
    "Evidence",
    "EvidenceLine",
    "GradeBar",
    "GroupLine",
    "HeldOutLine",
    "LearningCurve",
    "MapPoint",
    "NightReport",
    "QualityCheck",
    "ScoreHistogram",
    "SegmentLine",
    "SegmentLoss",
    "Step",
    "SwapLine",
    "Told",
    "Waterfall",
    "WeekReport",
    "render_night",
    "render_week",
]
