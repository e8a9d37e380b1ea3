"""Report pages of a night and of a week: fill the values of `NightReport` or `WeekReport`, get one HTML page.

Values are in `model`, what is shown first in `render`, pictures in `charts`, words and looks in the templates.
"""

from metarisk.report.card import ModelCard, Section, card_html, card_markdown
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
    MeasureRow,
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
from metarisk.report.render import render_night, render_week, written

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
    "MeasureRow",
    "ModelCard",
    "NightReport",
    "QualityCheck",
    "ScoreHistogram",
    "Section",
    "SegmentLine",
    "SegmentLoss",
    "Step",
    "SwapLine",
    "Told",
    "Waterfall",
    "WeekReport",
    "card_html",
    "card_markdown",
    "render_night",
    "render_week",
    "written",
]
