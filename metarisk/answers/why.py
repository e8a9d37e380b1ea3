"""Why scores moved between two published nights: the book, a segment, or one entity."""

from datetime import date

import numpy as np
import polars as pl

from metarisk.domain import DataError
from metarisk.job.context import Context
from metarisk.job.published import Replay, entity_row, published
from metarisk.job.unlike import published_row, unlike
from metarisk.moves import FACTORS, INPUTS, shapley
from metarisk.steps.attribute import LOSS, Move, _losses, move_of, moves

LOGIT = "logit"
"""Of an entity, what is split beside its score and expected loss."""


def why(context: Context, before: date, segment: str | None = None) -> list[Move]:
    """Why the book, or one segment of it, moved from a published night to that of the job's as_of.

    Raises:
        DataError: one of the nights is not published, has lost its files, or would now be scored otherwise; no row of
            either night is in the segment.
    """
    found = moves(published(context, before), published(context, context.job.as_of))
    wanted = found.filter(pl.col("segment").eq_missing(pl.lit(segment, pl.String)))
    if wanted.is_empty():
        raise DataError(
            f"neither night has a row of segment {segment!r}",
            portfolio=context.job.portfolio,
            on=context.job.as_of,
            remedy="names of segments are in the view `segment_health`: values joined by |",
        )
    return [move_of(row) for row in wanted.iter_rows(named=True)]


def untold(context: Context, before: date) -> list[str]:
    """Why `why` cannot split what moved rows that stayed; none where it can. Raises what `why` does."""
    return unlike(published(context, before), published(context, context.job.as_of))


def why_entity(context: Context, before: date, entity: str) -> list[Move]:
    """Why one entity's logit, score and expected loss moved; raises what `why` does, and where a night has no row."""
    nights = published(context, before), published(context, context.job.as_of)
    other = unlike(*nights)
    rows = [(published_row if other else entity_row)(night, entity) for night in nights]
    for night, row in zip(nights, rows, strict=True):
        if row.is_empty():
            raise DataError(
                f"{entity!r} has no score in this night: it entered or left the book",
                portfolio=context.job.portfolio,
                column=context.portfolio.columns.entity,
                on=night.as_of,
                remedy="choose two nights that both score it; the view `score_history` has them",
            )
    if other:
        pairs = {name: (rows[0][name][0], rows[1][name][0]) for name in ("score", LOSS)}
        return [
            Move(name, 1, 1, 0, 0, start, end, {**dict.fromkeys(FACTORS), INPUTS: end - start})
            for name, (start, end) in pairs.items()
            if start is not None and end is not None
        ]
    replay = Replay(*nights)
    links = replay.links(rows)
    scores = replay.scores(links)
    replay.require(scores, rows)
    logits = [replay.model(m).logit(links[:, i])[0] for i, (_, _, m, _) in enumerate(replay.mixtures)]
    values = {LOGIT: np.array(logits), "score": scores[0]}
    losses = _losses(scores, rows, context.portfolio, replay)
    if losses is not None:
        values[LOSS] = losses[0]
    out = []
    for measure, value in values.items():
        moved = dict(zip(replay.changed, shapley(value).tolist(), strict=True))
        parts = {factor: moved.get(factor, 0.0) for factor in FACTORS}
        out.append(Move(measure, 1, 1, 0, 0, float(value[0]), float(value[-1]), parts))
    return out
