"""Realistic values for report pages, shared by the unit tests and the browser test."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TypeVar

import numpy as np

from metarisk.metrics import Interval, ReliabilityBin
from metarisk.pages.cards.evidence import Evidence, EvidenceLine
from metarisk.pages.cards.night.grades import GradeBar
from metarisk.pages.cards.night.scores import ScoreHistogram
from metarisk.pages.cards.steps import Step
from metarisk.pages.cards.week.groups import GroupLine
from metarisk.pages.cards.week.held_out import HeldOutLine
from metarisk.pages.cards.week.segment_losses import SegmentLoss
from metarisk.pages.cards.week.similarity import MapPoint
from metarisk.pages.cards.week.takeover import Takeover
from metarisk.pages.night import Night
from metarisk.pages.page import Champion, Page
from metarisk.pages.subjects import DriftLine, SegmentLine
from metarisk.pages.week import Week

P = TypeVar("P", bound=Page)
FEATURES = (
    "fico", "dti", "annual_inc", "loan_amnt", "int_rate", "revol_util", "inq_last_6mths", "open_acc", "emp_length",
    "home_ownership", "term", "delinq_2yrs", "total_acc", "pub_rec",
)  # fmt: skip
PURPOSES = ("debt_consolidation", "credit_card", "car", "small_business", "home_improvement", "medical", "wedding")
STATES = ("CA", "NY", "TX", "FL", "NJ", "IL", "GA")
CHAMPION = Champion("lending_club-20110102-5f2c91ab", "map_head(hazard)", date(2011, 1, 2), 29)
EVIDENCE = Evidence(
    rows=(
        EvidenceLine(
            "map_head(hazard)",
            0.11121,
            0.6921,
            Interval(-0.00051, -0.00092, -0.00011),
            Interval(-0.00069, -0.0011, -0.0002),
            role="champion",
        ),
        EvidenceLine("hazard", 0.11149, 0.6880, Interval(-0.00023, -0.00058, 0.00012), role="candidate"),
        EvidenceLine("lightgbm + segments", 0.11172, 0.6823, None, role="baseline"),
        EvidenceLine("lightgbm", 0.11190, 0.6811, Interval(0.00018, -0.00004, 0.00041), role="baseline"),
        EvidenceLine("logistic", 0.11231, 0.6790, Interval(0.00059, 0.00021, 0.00099), role="baseline"),
        EvidenceLine("maml", 0.11304, 0.6702, Interval(0.00132, 0.00071, 0.00196)),
        EvidenceLine("reptile", 0.11342, 0.6688, Interval(0.00170, 0.00098, 0.00244)),
    ),
    opponent="lightgbm + segments",
    oracle="lightgbm",
    note="12,418 validation rows issued 2009-10 to 2010-12 in 312 segments, labels as they were known.",
)
STEPS = (
    Step("ready", 0.2),
    Step("extract", 3.8),
    Step("check", 5.1),
    Step("adapt", 1.2),
    Step("score", 2.4),
    Step("check scores", 2.2),
    Step("drift", 1.9),
    Step("publish", 0.8),
    Step("report", 1.3),
)
PROVENANCE = {
    "code": "metarisk 0.1.0",
    "extract": "sha256 5b0c1f7e",
    "configuration": "sha256 9d20aa41",
    "host": "batch-01",
}


def segments() -> tuple[SegmentLine, ...]:
    rng = np.random.default_rng(1)
    lines = []
    for i, state in enumerate(STATES):
        for j, purpose in enumerate(PURPOSES):
            rows = int(9000 / (1 + i) / (1 + 2 * j))
            events = rows // 60
            status = "abstained" if events < 3 else "carried" if (i + j) % 3 == 0 else "adapted"
            mean = float(0.03 + 0.02 * rng.random())
            lines.append(
                SegmentLine(
                    f"{purpose}|{state}",
                    "fallback" if (i, j) == (4, 1) else status,
                    rows,
                    rows // 2,
                    events,
                    mean,
                    mean * float(1 + 0.08 * rng.normal()),
                    {"abstained": f"{events} events, 3 needed", "adapted": "new labels since last night"}.get(
                        status, ""
                    ),
                )
            )
    return tuple(lines)


def scores() -> ScoreHistogram:
    edges = np.geomspace(0.003, 0.4, 41)
    middle = np.log(edges[:-1])
    now, before = (np.exp(-0.5 * ((middle - m) / 0.75) ** 2) * 2400 for m in (np.log(0.031), np.log(0.028)))
    return ScoreHistogram(
        tuple(edges.tolist()), tuple(map(int, now)), tuple(map(int, before)), "30 Jan 2011",
        "probability of default in 12 months", ".1~%", log_scale=True,
    )  # fmt: skip


def drift() -> tuple[DriftLine, ...]:
    rng, lines = np.random.default_rng(2), []
    names = ["", *(f"{p}|{s}" for s in STATES for p in PURPOSES[:3])]
    for name in names:
        for feature in FEATURES:
            effect = float(abs(rng.normal(0, 0.012)))
            status = "ok"
            if feature == "int_rate" and name.endswith("CA"):
                effect, status = 0.17 + effect, "alert"
            elif feature == "revol_util" and rng.random() < 0.3:
                effect, status = 0.06 + effect, "watch"
            elif name.startswith("car") and feature == "pub_rec":
                status = "blind"
            lines.append(
                DriftLine(
                    name,
                    "cell" if name else "all",
                    feature,
                    "psi",
                    status,
                    effect + 0.01,
                    effect,
                    0.10,
                    25_000,
                    1200,
                    1e-6 if status == "alert" else 0.02 if status == "watch" else 0.6,
                    {"alert": "more mass above 16.3", "blind": "constant in the reference"}.get(status, ""),
                )
            )
    return tuple(lines)


GRADES = tuple(
    GradeBar(name, rows, before, 0.0007 * 2**i if rows else None, rows * 14.0 * 2**i)
    for i, (name, rows, before) in enumerate(
        zip("ABCDEFGHIJ", (0, 310, 1900, 5200, 8400, 7600, 4200, 1300, 380, 22),
            (0, 420, 2300, 5900, 8300, 7000, 3700, 1100, 300, 12), strict=True)
    )
)  # fmt: skip
RISKIEST = tuple(
    {
        "entity": f"LC-{2_000_411 + 37 * i}", "segment": f"small_business|{state}", "score": 0.41 - 0.02 * i,
        "grade": "J", "points": 497.0 + i,
        "reasons": [
            {"text": "drawn share of revolving limits", "points": -14.2 + i},
            {"text": "credit inquiries of the last six months", "points": -9.9 + i / 2},
            {"text": f"what is known of others in small_business, {state}", "points": -8.1},
            {"text": "amount of the loan in dollars", "points": -2.4},
        ][: 4 - i % 3],
    }
    for i, state in enumerate(STATES)
)  # fmt: skip
_BACKTEST = (
    "cohort", "grade", "rows", "events", "mean_score", "event_rate", "rate_low", "rate_high", "jeffreys_q", "vasicek_q",
    "status",
)  # fmt: skip
BACKTESTS = tuple(
    dict(zip(_BACKTEST, row, strict=True))
    for row in (
        ("2009", "C", 812, 3, 0.0031, 0.0037, 0.0010, 0.0099, 0.61, 0.72, "blind"),
        ("2009", "E", 4_120, 91, 0.0124, 0.0221, 0.0179, 0.0269, 0.0003, 0.031, "understated"),
        ("2009", "F", 3_020, 98, 0.0244, 0.0325, 0.0266, 0.0392, 0.012, 0.19, "watch"),
        ("2009", "G", 1_200, 57, 0.0461, 0.0475, 0.0366, 0.0606, 0.55, 0.61, "ok"),
    )
)
RELIABILITY = tuple(
    ReliabilityBin(1_240, p, o, 0.7 * o, 1.35 * o + 1e-4)
    for p, o in zip(
        (0.003, 0.006, 0.009, 0.012, 0.016, 0.021, 0.027, 0.036, 0.052, 0.11),
        (0.0, 0.007, 0.008, 0.013, 0.015, 0.024, 0.026, 0.041, 0.05, 0.12), strict=True,
    )
)  # fmt: skip
SWAPS = tuple(
    dict(zip(("slice", "metric", "rows", "value"), row, strict=True))
    for row in (
        ("all", "newly_declined", 212, 0.118),
        ("all", "newly_accepted", 212, 0.061),
        ("credit_card|CA", "newly_accepted", 41, 0.058),
        ("small_business|NY", "newly_declined", 33, 0.164),
    )
)
MIGRATION = tuple(
    (old, tuple(max(0, 4_000 - 900 * abs(i - j) - 60 * i**2) if abs(i - j) < 3 else 0 for j in range(10)))
    for i, old in enumerate("ABCDEFGHIJ")
)
GROUPS = (
    GroupLine("age_band = 18-24", 3_120, 0.71, Interval(1.08, 0.84, 1.37), "accepted 66.4%, below four fifths"),
    GroupLine("age_band = 25-59", 24_300, 1.0, Interval(0.98, 0.91, 1.06), "accepted 93.5%"),
    GroupLine("age_band = 60+", 1_892, 0.99, None, "accepted 92.6%"),
)


def check(rule: str, severity: str, failing: int = 0, **changes: object) -> dict[str, object]:
    """A row of `quality_result`."""
    found: dict[str, object] = {
        "suite": "lending_club.json", "rule": rule, "column_name": None, "severity": severity, "success": True,
        "failing_rows": failing, "total_rows": 29_347, "detail": None,
    }  # fmt: skip
    return found | changes


def made(page: type[P], values: dict[str, object]) -> P:
    """A page of values: those that its head does not know belong to the cards of that name."""
    head = {name: value for name, value in values.items() if name in page.__dataclass_fields__}
    return page(**head, cards={name: value for name, value in values.items() if name not in head})  # type: ignore[arg-type]


def changed(page: P, **changes: object) -> P:
    """The page with another head, or with cards that show something else."""
    head = {name: value for name, value in changes.items() if name in page.__dataclass_fields__}
    cards = {name: value for name, value in changes.items() if name not in head}
    return replace(page, **head, cards={**page.cards, **cards})


def night(**changes: object) -> Night:
    """A published night; changes are of its head, or of what a card shows."""
    values: dict[str, object] = {
        "title": "Lending Club consumer loans",
        "portfolio": "lending_club",
        "as_of": date(2011, 1, 31),
        "run_id": "9f3b6c2e1d7a4405",
        "mode": "nightly",
        "outcome": "published",
        "published_at": datetime(2011, 2, 1, 4, 16, 8, tzinfo=UTC),
        "champion": CHAMPION,
        "rows_extracted": 29_347,
        "rows_scored": 29_312,
        "rows_quarantined": 35,
        "steps": STEPS,
        "quality": (
            check(
                "annual_inc is between 0 and 10,000,000", "warning", 35, success=False, column_name="annual_inc",
                detail="max 61,000,000",
            ),
            *(check(f"{f} is never null", "critical") for f in FEATURES),
            check("one row an entity", "critical", suite="scores.json", total_rows=29_312),
        ),
        "segments": segments(),
        "statuses": segments(),
        "scores": scores(),
        "grades": GRADES,
        "riskiest": RISKIEST,
        "drift": drift(),
        "evidence": EVIDENCE,
        "warnings": ("3 segments were never seen in training and are scored by the portfolio's model.",),
        "next_steps": (
            "See which rows were quarantined: `metarisk runs show 9f3b6c2e`",
            "Look at int_rate in California: `metarisk drift --portfolio lending_club --feature int_rate`",
        ),
        "provenance": PROVENANCE,
    }  # fmt: skip
    if "segments" in changes:
        changes.setdefault("statuses", changes["segments"])
    return made(Night, {**values, **changes})


def refused() -> Night:
    """A night that a check stopped."""
    broken = check(
        "segment key recoded?", "critical", 28_400, success=False, column_name="purpose",
        detail="97% of rows are in segments never seen before; purpose: new values 'DEBT CONSOLIDATION', 'CAR'; known "
        "values that are gone: 'car', 'credit_card', 'debt_consolidation', 'home_improvement', 'medical' and 2 more",
    )  # fmt: skip
    return night(
        outcome="refused", published_at=None, stopped_at=datetime(2011, 2, 1, 4, 15, 59, tzinfo=UTC), run_id="",
        last_published=date(2011, 1, 30), reason=f"Column purpose: {broken['rule']}: {broken['detail']}.",
        champion=None, rows_scored=0, rows_quarantined=0, steps=(*STEPS[:2], Step("check", 4.4, "failed")),
        quality=(broken, *night().cards["quality"]), segments=(), scores=None, drift=(), evidence=None,
        next_steps=("Map new values to old ones in the extract SQL.", "Then run `metarisk nightly`."),
    )  # fmt: skip


_SHIFTS = np.random.default_rng(8).normal(-0.0005, 0.0006, 60)
SEGMENT_LOSSES = tuple(
    SegmentLoss(
        f"{PURPOSES[i % 7]}|{STATES[i // 9]}",
        40 + 3 * i,
        i // 4,
        Interval(shift, shift - 0.001, shift + 0.001),
        i == 17,
    )
    for i, shift in enumerate(_SHIFTS.tolist())
)
HELD_OUT = tuple(
    HeldOutLine(k, 2_000 - 20 * k, 90 - k, 0.147 - k * 1e-5, (("pooled_lightgbm", Interval(-1e-3, -2e-3, k * 1e-5)),))
    for k in (5, 10, 20, 50)
)


def week(**changes: object) -> Week:
    """A week that waits for a person; changes are of its head, or of what a card shows."""
    rng = np.random.default_rng(3)
    values: dict[str, object] = {
        "title": "Lending Club consumer loans",
        "portfolio": "lending_club",
        "as_of": date(2011, 1, 2),
        "run_id": "77aa0c2e1d7a4405",
        "decision": "waiting",
        "reason": "hazard is better than the champion (−5.1, 95 % −9.2 to −1.1), and credit waits for a person.",
        "champion": CHAMPION,
        "challenger": "hazard",
        "training_rows": 412_330,
        "training_events": 4_981,
        "training_segments": 312,
        "steps": (Step("extract", 9.1), Step("check", 4.0), Step("train", 141.0), Step("evidence", 22.5)),
        "quality": (check("fico is never null", "critical", total_rows=412_330, column_name="fico"),),
        "evidence": EVIDENCE,
        "segment_losses": SEGMENT_LOSSES,
        "held_out": HELD_OUT,
        "reliability": RELIABILITY,
        "level": [
            "The level is left alone: following the latest 6 known months gave −0.2 [−1.1, 0.8] x 1e-4 of loss.",
            "Of the 294 riskiest rows, 4.1% have another first reason than by model `5f2c91ab`.",
        ],
        "takeover": Takeover(SWAPS, MIGRATION),
        "backtests": BACKTESTS,
        "groups": GROUPS,
        "similarity": tuple(
            MapPoint(f"{p}|{s}", float(i + 0.4 * rng.normal()), float(rng.normal()), int(4000 / (1 + i * j)), p)
            for i, p in enumerate(PURPOSES[:5])
            for j, s in enumerate(STATES)
        ),
        "next_steps": ("Approve it: `metarisk promote lending_club 5f2c91ab`",),
        "provenance": PROVENANCE,
    }  # fmt: skip
    return made(Week, {**values, **changes})
