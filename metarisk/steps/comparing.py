"""A new model beside the champion before it, on the same rows and labels: reasons, who is accepted, grades."""

from __future__ import annotations

import polars as pl

from metarisk import backtests, reasons, scoring
from metarisk.adapt import Adapted, adapt
from metarisk.adapt import level as adapted_level
from metarisk.calibration import GRADED
from metarisk.domain import ModelError
from metarisk.job.champion import champion_for, load_card, load_model
from metarisk.job.context import Context
from metarisk.job.inputs import misfits
from metarisk.job.population import LINK, SCORE, FrameFile, linked
from metarisk.job.week import Comparison

STABILITY_SHARE = 0.01
"""Share of the riskiest rows whose reasons are compared where the portfolio asks for no reasons."""
MOST_COMPARED = 20_000


def compare_with_champion(
    context: Context, adapted: Adapted, teach: pl.DataFrame, scored: FrameFile
) -> Comparison | None:
    """Compare on the rows to be scored, with their scores by the new model; both adapted to `teach`.

    None where there was no champion before, or none that this version reads. Of the rows that one of the two alone
    declines, segment and score are held.
    """
    portfolio, champion = context.portfolio, champion_for(context)
    if champion is None:
        return None
    try:
        if other := misfits(context, champion.model_id):
            context.reporter.warn(f"the champion before is not compared with the new model: {'; '.join(other)}")
            return None
        before = adapt(load_model(context, champion.model_id), "", teach, portfolio, context.spec)
        rule = load_card(context, champion.model_id).level
    except ModelError as error:
        context.reporter.warn(str(error))
        return None
    share = portfolio.reasons.share or STABILITY_SHARE
    riskiest = scored.frame.filter(pl.col(LINK) >= scored.cut(LINK, share))
    worst = riskiest.head(MOST_COMPARED).collect(engine="streaming")
    changed = reasons.changed(*(reasons.reasons(worst, night, portfolio) for night in (before, adapted)))
    if {adapted.model.likelihood, before.model.likelihood} - GRADED:
        return Comparison(champion.model_id, worst.height, changed)
    card, level = portfolio.scorecard, adapted_level(before, teach, portfolio, rule)

    def of_both(rows: pl.DataFrame) -> pl.DataFrame:
        old = scoring.mean_score(before, linked(rows, before, portfolio, level))
        return pl.DataFrame({"segment": scoring.segments_of(rows, portfolio), "old": old, "new": rows[SCORE]})

    both = FrameFile.write(map(of_both, scored.batches()), scored.file.with_name("both.parquet"))
    declined, declines = (pl.col(name) >= both.cut(name, card.cut) for name in ("old", "new"))
    swapped = both.frame.filter(declined != declines).with_columns(declined=declined, declines=declines)
    found = swapped.collect(engine="streaming")
    segments, by_old, by_new = found["segment"], found["declined"].to_numpy(), found["declines"].to_numpy()
    grades = ((rows["old"].to_numpy(), rows["new"].to_numpy()) for rows in both.batches(["old", "new"]))
    return Comparison(
        champion.model_id,
        worst.height,
        changed,
        tuple(backtests.swap_set(segments, by_old, by_new, found["new"].to_numpy())),
        tuple(backtests.grade_migration(grades, card)),
    )
