"""A new model beside the champion before it, on the same rows and labels: reasons, who is accepted, grades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from metarisk import backtests, reasons, scoring
from metarisk.adapt import Adapted, adapt, shifts
from metarisk.adapt import level as adapted_level
from metarisk.calibration import GRADED
from metarisk.domain import Array, ModelError
from metarisk.pipeline.context import Context
from metarisk.pipeline.models import champion_for, load_card, load_model

STABILITY_SHARE = 0.01
"""Share of the riskiest rows whose reasons are compared where the portfolio asks for no reasons."""
MOST_COMPARED = 20_000


@dataclass(frozen=True)
class Comparison:
    """What changes where the new model takes over from the champion before it."""

    before: str
    """Id of the champion before."""
    told: int
    """Riskiest rows whose reasons were compared."""
    changed: float
    """Share of them whose first reason is another."""
    swaps: tuple[dict[str, Any], ...] = ()
    """See backtests.swap_set; empty where the score is no probability."""
    migration: tuple[dict[str, Any], ...] = ()
    """See backtests.grade_migration."""

    def evidence_rows(self, recipe: str) -> list[dict[str, object]]:
        """Rows for the warehouse's `evidence` table, less the keys of the model."""
        about = {"candidate": recipe, "note": f"compared with model {self.before}"}
        told: dict[str, object] = {"protocol": "reasons", "slice": "all", "metric": "first_reason_changed"}
        rows = [told | {"value": self.changed, "rows": self.told}]
        rows += [{"protocol": "swap_set"} | line for line in self.swaps]
        rows += [{"protocol": "grade_migration"} | line for line in self.migration]
        return [about | row for row in rows]


def compare(
    context: Context, adapted: Adapted, teach: pl.DataFrame, rows: pl.DataFrame, link: Array
) -> Comparison | None:
    """Compare on the rows to be scored (N), `link` (N,) being the new model's scores; both adapted to `teach`.

    None where there was no champion before, or none that this version reads.
    """
    portfolio, champion = context.portfolio, champion_for(context)
    if champion is None or rows.is_empty():
        return None
    try:
        before = adapt(load_model(context, champion.model_id), "", teach, portfolio, context.spec)
        rule = load_card(context, champion.model_id).level
    except ModelError as error:
        context.reporter.warn(str(error))
        return None
    share = portfolio.reasons.share or STABILITY_SHARE
    worst = rows.filter(pl.Series(link >= scoring.reasons_cut(link, share))).head(MOST_COMPARED)
    changed = reasons.changed(*(reasons.reasons(worst, night, portfolio) for night in (before, adapted)))
    if {adapted.model.likelihood, before.model.likelihood} - GRADED:
        return Comparison(champion.model_id, worst.height, changed)
    moved = shifts(rows, portfolio, adapted_level(before, teach, portfolio, rule))
    old = scoring.mean_score(before, before.score(rows, portfolio)[0] + moved)
    new = scoring.mean_score(adapted, link)
    card, names = portfolio.scorecard, scoring.segments_of(rows, portfolio)
    declined, declines = (score >= scoring.reasons_cut(score, card.cut) for score in (old, new))
    return Comparison(
        champion.model_id,
        worst.height,
        changed,
        tuple(backtests.swap_set(names, declined, declines, new)),
        tuple(backtests.grade_migration(old, new, card)),
    )
