"""The choice of the recipe that is trained, whether it may become champion, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import polars as pl

from metarisk.domain import Portfolio, RiskSpec
from metarisk.evidence.losses import blocks_of
from metarisk.evidence.table import Evidence
from metarisk.metrics import Interval, judge_of, paired_bootstrap
from metarisk.tasks import LABEL

MIN_JUDGED_EVENTS = 20
"""Fewer judged events cannot tell candidates apart: the champion's recipe stays, or the risk type's default starts."""


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


def decide(
    judged: pl.DataFrame,
    evidence: Evidence,
    portfolio: Portfolio,
    spec: RiskSpec,
    champion: str | None,
    earlier: Sequence[str] = (),
    *,
    proves: bool = True,
) -> Decision:
    """Choose the recipe to train and whether it may become champion.

    The incumbent is the champion's recipe, or the risk type's default while there is no champion. The recipe with the
    lowest validation loss replaces it when the upper end of the paired interval against the incumbent is below zero in
    this week and the ones just before it, as many as the portfolio wants (rule `interval`); when a person approves it
    after that (`manual`); or at once (`always`). `earlier` names the challenger that was so far ahead of the incumbent
    in each earlier week, newest first; a week that does not itself count (not `proves`) replaces nobody. The first
    champion waits for nobody and needs one week's proof. The incumbent's own recipe, trained on newer labels, needs
    none. A pinned recipe is trained whatever the evidence says. Retrospective evidence replaces nobody and chooses no
    first champion either.
    """
    if evidence.retrospective:
        decision = _without_proof(portfolio, spec, champion)
        why = f"{decision.reason}; the evidence is retrospective and proves nothing: {evidence.retrospective}"
        return replace(decision, reason=why)
    return _proved(judged, evidence, portfolio, spec, champion, earlier, proves=proves)


def _without_proof(portfolio: Portfolio, spec: RiskSpec, champion: str | None) -> Decision:
    """What is trained where nothing speaks for a recipe: the pinned one, or the incumbent."""
    pinned, rule = portfolio.learner.name, portfolio.promotion.rule or spec.promotion
    if pinned != "auto":
        return Decision(pinned, champion in (None, pinned) or rule != "manual", f"{pinned} is pinned by the portfolio")
    stays = "stays" if champion else "starts, as the default"
    return Decision(champion or spec.default, True, f"{champion or spec.default} {stays}")


def _proved(
    judged: pl.DataFrame,
    evidence: Evidence,
    portfolio: Portfolio,
    spec: RiskSpec,
    champion: str | None,
    earlier: Sequence[str],
    *,
    proves: bool,
) -> Decision:
    """`decide` on evidence whose labels were known at the cuts."""
    unproved = _without_proof(portfolio, spec, champion)
    if portfolio.learner.name != "auto":
        return unproved
    rule, incumbent, stays = portfolio.promotion.rule or spec.promotion, unproved.recipe, unproved.reason
    if evidence.events < MIN_JUDGED_EVENTS:
        return Decision(incumbent, True, f"{stays}: {evidence.events} judged events tell no candidates apart")
    best = evidence.candidates[0].name
    if best == incumbent:
        return Decision(incumbent, True, f"{stays}: it has the lowest validation loss")
    if rule == "always":
        return Decision(best, True, f"{best} has the lowest validation loss, and the rule is `always`")
    interval = against(judged, best, incumbent, portfolio, spec)
    if interval is None:
        return Decision(incumbent, True, f"{stays}: it and {best} were not judged on the same rows")
    about = (incumbent, best, interval)
    span = f"{1e4 * interval.mean:+.1f} [{1e4 * interval.low:+.1f}, {1e4 * interval.high:+.1f}] x 1e-4"
    if interval.high >= 0:
        why = f"{stays}: {best} has the lowest loss, but its difference {span} is not wholly below zero"
        return Decision(incumbent, True, why, *about)
    why = f"the loss of {best} differs from that of {incumbent} by {span}, wholly below zero"
    if champion is None:
        return Decision(best, True, why, *about)
    if not proves:
        late = f"{stays}: {why}, which proves nothing: a backfill reads what the source has become"
        return Decision(incumbent, True, late, *about)
    weeks = 1 + sum(1 for _ in takewhile(lambda name: name == best, earlier))
    if weeks < portfolio.promotion.weeks:
        short = f"{stays}: {why}, in {weeks} of the {portfolio.promotion.weeks} weeks that are wanted"
        return Decision(incumbent, True, short, *about)
    if rule == "manual":
        return Decision(best, False, f"{why}; a person must approve it", *about)
    return Decision(best, True, why, *about)


def against(judged: pl.DataFrame, recipe: str, champion: str, portfolio: Portfolio, spec: RiskSpec) -> Interval | None:
    """Loss of one recipe minus that of another on the same judged rows; None where one was not judged."""
    if recipe not in judged.columns or champion not in judged.columns:
        return None
    y, loss = judged[LABEL].to_numpy(), judge_of(spec.likelihood).of
    difference = loss(judged[recipe].to_numpy(), y) - loss(judged[champion].to_numpy(), y)
    return paired_bootstrap(difference, blocks_of(judged, portfolio))


def decision_rows(decision: Decision, evidence: Evidence) -> list[dict[str, object]]:
    """The challenger against the incumbent: a row for the warehouse's `evidence` table, or none."""
    gain = decision.against_incumbent
    if gain is None:
        return []
    row: dict[str, object] = {
        "protocol": evidence.protocol,
        "candidate": decision.challenger,
        "slice": decision.incumbent,
    }
    row |= {"metric": "loss_minus_incumbent", "value": gain.mean, "low": gain.low, "high": gain.high}
    return [row | {"rows": evidence.rows, "events": evidence.events, "note": decision.reason}]
