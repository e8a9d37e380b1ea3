"""What walk-forward judgement says: the evidence table, the choice of a champion, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import polars as pl
from scipy.stats import norm

from metarisk.adapt import LEVEL_RULES, level_column
from metarisk.calibration import LevelRule
from metarisk.domain import Array, Portfolio, RiskSpec, segment_name
from metarisk.metrics import (
    Interval,
    auc,
    benjamini_hochberg,
    block_ids,
    brier,
    calibration_in_the_large,
    ece,
    gini,
    ks,
    log_loss,
    paired_bootstrap,
)
from metarisk.tasks import LABEL, segment_keys

MIN_JUDGED_EVENTS = 20
"""Fewer judged events cannot tell candidates apart: the risk type's fallback recipe is taken."""
MIN_LEVEL_GAIN = 1e-5
"""Log-loss that following the level must gain for certain: less is not worth a step of its own."""
MIN_SEGMENT_ROWS = 100
"""Rows of all segments that stand beside a segment's own in the variance of its differences."""
FALSE_DISCOVERIES = 0.05
Z95 = 1.959963984540054
SUPPORT_BANDS = ((0, 1), (1, 5), (5, 20), (20, None))
"""Events in a segment's support at the cut: bands of the table 'by support'."""


@dataclass(frozen=True)
class Candidate:
    """One line of the evidence table; intervals are 95 %, paired, over opening month x segment."""

    name: str
    baseline: bool
    metrics: Mapping[str, float]
    against_baseline: Interval
    """Loss minus that of the best baseline; below zero is better."""
    by_support: Mapping[str, Interval]
    """The same by the number of events in the segment's support."""


@dataclass(frozen=True)
class Evidence:
    """Candidates on identical rows, best first."""

    protocol: str
    rows: int
    events: int
    folds: tuple[str, ...]
    best_baseline: str
    candidates: tuple[Candidate, ...]

    def candidate(self, name: str) -> Candidate | None:
        """The line of one candidate."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


@dataclass(frozen=True)
class Decision:
    """Which recipe is trained for the coming week, whether it may take over, and why."""

    recipe: str
    promote: bool
    reason: str
    incumbent: str | None = None
    challenger: str | None = None
    """The recipe of lowest loss, where it is another than the incumbent and was judged on the same rows."""
    against_incumbent: Interval | None = None
    """The challenger's loss minus that of the incumbent."""


def summarise(
    judged: pl.DataFrame,
    names: Sequence[str],
    baselines: frozenset[str],
    portfolio: Portfolio,
    protocol: str = "walk_forward",
) -> Evidence:
    """The evidence table of judged rows (see training.walk_forward); without rows, a table without candidates."""
    if judged.is_empty():
        return Evidence(protocol, 0, 0, (), "", ())
    y = judged[LABEL].to_numpy()
    blocks = _blocks(judged, portfolio)
    losses = {name: log_loss(judged[name].to_numpy(), y) for name in names}
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    best = min((name for name in names if name in baselines), key=lambda name: means[name], default=names[0])
    bands = _bands(judged["support_events"].to_numpy())
    candidates = [
        Candidate(
            name,
            name in baselines,
            _metrics(judged[name].to_numpy(), y, means[name]),
            paired_bootstrap(losses[name] - losses[best], blocks),
            {
                band: paired_bootstrap((losses[name] - losses[best])[rows], blocks[rows], draws=500)
                for band, rows in bands.items()
            },
        )
        for name in names
    ]
    candidates.sort(key=lambda candidate: candidate.metrics["log_loss"])
    folds = tuple(sorted(judged["fold"].unique().to_list()))
    return Evidence(protocol, len(y), int(y.sum()), folds, best, tuple(candidates))


def decide(
    judged: pl.DataFrame,
    evidence: Evidence,
    portfolio: Portfolio,
    spec: RiskSpec,
    champion: str | None,
    earlier: Sequence[str] = (),
) -> Decision:
    """Choose the recipe to train and whether it may become champion.

    The incumbent is the champion's recipe, or the risk type's default while there is no champion. The recipe with the
    lowest validation loss replaces it when the upper end of the paired interval against the incumbent is below zero in
    this week and the ones just before it, as many as the portfolio wants (rule `interval`); when a person approves it
    after that (`manual`); or at once (`always`). `earlier` names the challenger that was so far ahead of the incumbent
    in each earlier week, newest first. The first champion waits for nobody and needs one week's proof. The incumbent's
    own recipe, trained on newer labels, needs none. A pinned recipe is trained whatever the evidence says.
    """
    pinned, rule = portfolio.learner.name, portfolio.promotion.rule or spec.promotion
    incumbent = champion or spec.default
    stays = "stays" if champion else "starts, as the default"
    if pinned != "auto":
        free = champion in (None, pinned) or rule != "manual"
        return Decision(pinned, free, f"{pinned} is pinned by the portfolio")
    if evidence.events < MIN_JUDGED_EVENTS:
        return Decision(
            incumbent, True, f"{incumbent} {stays}: {evidence.events} judged events tell no candidates apart"
        )
    best = evidence.candidates[0].name
    if best == incumbent:
        return Decision(incumbent, True, f"{incumbent} {stays}: it has the lowest validation loss")
    if rule == "always":
        return Decision(best, True, f"{best} has the lowest validation loss, and the rule is `always`")
    interval = against(judged, best, incumbent, portfolio)
    if interval is None:
        return Decision(incumbent, True, f"{incumbent} {stays}: it and {best} were not judged on the same rows")
    about = (incumbent, best, interval)
    span = f"{1e4 * interval.mean:+.1f} [{1e4 * interval.low:+.1f}, {1e4 * interval.high:+.1f}] x 1e-4"
    if interval.high >= 0:
        why = f"{incumbent} {stays}: {best} has the lowest loss, but its difference {span} is not wholly below zero"
        return Decision(incumbent, True, why, *about)
    why = f"the loss of {best} differs from that of {incumbent} by {span}, wholly below zero"
    if champion is None:
        return Decision(best, True, why, *about)
    weeks = 1 + sum(1 for _ in takewhile(lambda name: name == best, earlier))
    if weeks < portfolio.promotion.weeks:
        short = f"{incumbent} {stays}: {why}, in {weeks} of the {portfolio.promotion.weeks} weeks that are wanted"
        return Decision(incumbent, True, short, *about)
    if rule == "manual":
        return Decision(best, False, f"{why}; a person must approve it", *about)
    return Decision(best, True, why, *about)


def by_segment(judged: pl.DataFrame, recipe: str, baseline: str, portfolio: Portfolio) -> list[dict[str, object]]:
    """Of each segment, what a recipe's loss differs by from a baseline's: rows for the table `evidence`.

    `value` is the partially pooled mean with its 95 % interval: normal around the mean of all segments, whose variance
    between segments is that of DerSimonian and Laird (1986, Controlled Clinical Trials 7, 177-188). The note says what
    was seen, and `worse` where the recipe loses significantly (one-sided, q <= 0.05 of Benjamini and Hochberg). A
    segment of few rows borrows the variance of all.
    """
    if judged.is_empty() or recipe == baseline or not {recipe, baseline} <= set(judged.columns):
        return []
    y = judged[LABEL].to_numpy()
    difference = log_loss(judged[recipe].to_numpy(), y) - log_loss(judged[baseline].to_numpy(), y)
    keys, codes = segment_keys(judged, portfolio)
    rows = np.bincount(codes)
    events = np.bincount(codes, weights=y)
    seen = np.bincount(codes, weights=difference) / rows
    spread = np.bincount(codes, weights=difference**2) / rows - seen**2
    pooled = max(float(difference.var()), 1e-30)
    variance = (np.maximum(spread, 0.0) * rows + pooled * MIN_SEGMENT_ROWS) / (rows + MIN_SEGMENT_ROWS) / rows
    weight = 1 / variance
    centre = float(weight @ seen / weight.sum())
    excess = float(weight @ (seen - centre) ** 2) - (len(seen) - 1)
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    between = max(excess / scale, 0.0) if scale > 0 else 0.0
    shrunk = centre + between / (between + variance) * (seen - centre)
    deviation = np.sqrt(between * variance / (between + variance) + 1 / weight.sum())
    worse = benjamini_hochberg(norm.sf(seen / np.sqrt(variance))) <= FALSE_DISCOVERIES
    return [
        {
            "protocol": "segments",
            "candidate": recipe,
            "slice": segment_name(key),
            "metric": "loss_minus_best_baseline",
            "value": float(shrunk[s]),
            "low": float(shrunk[s] - Z95 * deviation[s]),
            "high": float(shrunk[s] + Z95 * deviation[s]),
            "rows": int(rows[s]),
            "events": int(events[s]),
            "note": f"{'worse' if worse[s] else 'not worse'} than {baseline}; seen {seen[s]:+.6f}",
        }
        for s, key in enumerate(keys)
    ]


@dataclass(frozen=True)
class LevelChoice:
    """Which level rule nights follow, and what it gained on forward rows: loss with it minus loss without."""

    rule: LevelRule
    tried: tuple[tuple[LevelRule, Interval], ...]


def choose_level(judged: pl.DataFrame, recipe: str, portfolio: Portfolio) -> LevelChoice:
    """The level rule with the lowest loss on walk-forward rows, if it gains MIN_LEVEL_GAIN by its paired interval.

    Otherwise, or where fewer than MIN_JUDGED_EVENTS events were judged, the level is left alone: scores that were right
    stay right. Intervals are at 95 % for all rules together (Bonferroni).
    """
    none = LEVEL_RULES[0]
    if judged.is_empty() or recipe not in judged.columns or judged[LABEL].sum() < MIN_JUDGED_EVENTS:
        return LevelChoice(none, ())
    y, blocks = judged[LABEL].to_numpy(), _blocks(judged, portfolio)
    plain, share = log_loss(judged[recipe].to_numpy(), y), 0.05 / (len(LEVEL_RULES) - 1)

    def gain(number: int) -> Interval:
        moved = log_loss(judged[level_column(recipe, number)].to_numpy(), y)
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
            "value": _finite(gain.mean),
            "low": _finite(gain.low),
            "high": _finite(gain.high),
            "rows": evidence.rows,
            "events": evidence.events,
            "note": f"prior variances {rule.portfolio_variance} (portfolio), {rule.segment_variance} (segment); "
            + ("chosen" if rule == choice.rule else "not chosen"),
        }
        for rule, gain in choice.tried
    ]


def evidence_rows(evidence: Evidence, decision: Decision) -> list[dict[str, object]]:
    """Rows for the warehouse's `evidence` table, less the keys of the model."""
    note = f"best baseline: {evidence.best_baseline}; folds from {', '.join(evidence.folds)}"
    about = {"rows": evidence.rows, "events": evidence.events, "note": note}
    rows: list[dict[str, object]] = []
    for candidate in evidence.candidates:
        numbers = [("all", metric, Interval(value, math.nan, math.nan)) for metric, value in candidate.metrics.items()]
        against_baseline = {"all": candidate.against_baseline} | dict(candidate.by_support)
        numbers += [(part, "loss_minus_best_baseline", interval) for part, interval in against_baseline.items()]
        for part, metric, interval in numbers:
            row: dict[str, object] = {"protocol": evidence.protocol, "candidate": candidate.name}
            row |= {"slice": part, "metric": metric, "value": _finite(interval.mean)}
            rows.append(row | {"low": _finite(interval.low), "high": _finite(interval.high)} | about)
    if decision.against_incumbent is not None:
        gain = decision.against_incumbent
        row = {"protocol": evidence.protocol, "candidate": decision.challenger, "slice": decision.incumbent}
        row |= {"metric": "loss_minus_incumbent", "value": gain.mean, "low": gain.low, "high": gain.high}
        rows.append(row | about)
    return rows


def table(evidence: Evidence) -> list[dict[str, object]]:
    """The evidence as people read it: one line a candidate, differences x 1e-4."""
    return [
        {
            "candidate": line.name + (" (baseline)" if line.baseline else ""),
            "log-loss": round(line.metrics["log_loss"], 5),
            "AUC": round(line.metrics["auc"], 4),
            f"minus {evidence.best_baseline}, x 1e-4": round(1e4 * line.against_baseline.mean, 1),
            "95 % interval": f"[{1e4 * line.against_baseline.low:.1f}, {1e4 * line.against_baseline.high:.1f}]",
        }
        for line in evidence.candidates
    ]


def against(judged: pl.DataFrame, recipe: str, champion: str, portfolio: Portfolio) -> Interval | None:
    """Loss of one recipe minus that of another on the same judged rows; None where one was not judged."""
    if recipe not in judged.columns or champion not in judged.columns:
        return None
    y = judged[LABEL].to_numpy()
    difference = log_loss(judged[recipe].to_numpy(), y) - log_loss(judged[champion].to_numpy(), y)
    return paired_bootstrap(difference, _blocks(judged, portfolio))


def _blocks(judged: pl.DataFrame, portfolio: Portfolio) -> Array:
    """Number (N,) of each row's opening month and segment: rows of a block may depend on each other."""
    month = judged[portfolio.columns.opened_on].dt.month_start().to_physical().to_numpy()
    return block_ids(segment_keys(judged, portfolio)[1], month)


def _metrics(logit: Array, y: Array, loss: float) -> dict[str, float]:
    p = 1.0 / (1.0 + np.exp(-logit))
    both = 0 < y.sum() < len(y)
    return {
        "log_loss": loss,
        "auc": auc(logit, y) if both else float("nan"),
        "gini": gini(logit, y) if both else float("nan"),
        "ks": ks(logit, y) if both else float("nan"),
        "brier": brier(p, y),
        "ece": ece(p, y),
        "calibration_in_the_large": calibration_in_the_large(logit, y) if both else float("nan"),
    }


def _bands(events: Array) -> dict[str, Array]:
    bands = {}
    for low, high in SUPPORT_BANDS:
        rows = (events >= low) & (events < high if high is not None else True)
        if rows.any():
            name = (
                f"{low}+ events" if high is None else f"{low}-{high - 1} events" if high - low > 1 else f"{low} events"
            )
            bands[name] = rows
    return bands


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
