"""Whether nights follow the level of the latest known months."""

from dataclasses import dataclass

import polars as pl

from metarisk.adapt import LEVEL_RULES, level_column
from metarisk.calibration import LevelRule
from metarisk.domain import Portfolio, RiskSpec
from metarisk.evidence.decision import MIN_JUDGED_EVENTS
from metarisk.evidence.losses import blocks_of, finite
from metarisk.evidence.table import Evidence
from metarisk.metrics import Interval, judge_of, paired_bootstrap
from metarisk.tasks import LABEL, tells

MIN_LEVEL_GAIN = 1e-5
"""Loss that following the level must gain for certain: less is not worth a step of its own."""


@dataclass(frozen=True)
class LevelChoice:
    """Which level rule nights follow, and what it gained on forward rows: loss with it minus loss without."""

    rule: LevelRule
    tried: tuple[tuple[LevelRule, Interval], ...]


def choose_level(judged: pl.DataFrame, recipe: str, portfolio: Portfolio, spec: RiskSpec) -> LevelChoice:
    """The level rule with the lowest loss on walk-forward rows, if it gains MIN_LEVEL_GAIN by its paired interval.

    Otherwise, or where fewer than MIN_JUDGED_EVENTS events were judged, the level is left alone: scores that were right
    stay right. Intervals are at 95 % for all rules together (Bonferroni).
    """
    none = LEVEL_RULES[0]
    if judged.is_empty() or recipe not in judged.columns:
        return LevelChoice(none, ())
    y, blocks, loss = judged[LABEL].to_numpy(), blocks_of(judged, portfolio), judge_of(spec.likelihood).of
    if tells(y, spec).sum() < MIN_JUDGED_EVENTS:
        return LevelChoice(none, ())
    plain, share = loss(judged[recipe].to_numpy(), y), 0.05 / (len(LEVEL_RULES) - 1)

    def gain(number: int) -> Interval:
        moved = loss(judged[level_column(recipe, number)].to_numpy(), y)
        return paired_bootstrap(moved - plain, blocks, level=1 - share)

    tried = tuple((rule, gain(number)) for number, rule in enumerate(LEVEL_RULES[1:], start=1))
    rule, found = min(tried, key=lambda one: one[1].mean)
    return LevelChoice(rule if found.high < -MIN_LEVEL_GAIN else none, tried)


def level_rows(choice: LevelChoice, evidence: Evidence, recipe: str) -> list[dict[str, object]]:
    """Rows for the warehouse's `evidence` table on the level, less the keys of the model."""
    return [
        {
            "protocol": "level",
            "candidate": f"{recipe} + level of {rule.months} months",
            "slice": "all",
            "metric": "loss_minus_without_level",
            "value": finite(gain.mean),
            "low": finite(gain.low),
            "high": finite(gain.high),
            "rows": evidence.rows,
            "events": evidence.events,
            "note": f"prior variances {rule.portfolio_variance} (portfolio), {rule.segment_variance} (segment); "
            + ("chosen" if rule == choice.rule else "not chosen"),
        }
        for rule, gain in choice.tried
    ]
