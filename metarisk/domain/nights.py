"""What a risk type is given of a night, and what it may publish beside the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from metarisk.domain.episodes import Array
from metarisk.domain.portfolio import Portfolio

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class NightView:
    """A night after its rows were scored, as a risk type sees it; N rows were scored.

    Attributes:
        portfolio: the job.
        as_of: the night.
        options: the risk type's options with what the portfolio says of them.
        rows: the scored rows of the extract, (N) in its order.
        scores: their scores, (N) in the same order: scoring.KEPT.
        history: every row of the extract as it was known at as_of; an outcome that was not known is null.
        tables: the portfolio's further extracts by name (`source.also`).
        score: rows of `history` to scores (M,) on the target's own scale, by fits that have not seen their entities
            where the champion has such fits.
        published: earlier nights as they were known then, as far back as the risk type's `look_back` says: as_of,
            entity, target, score.
        seed: of anything that is drawn, the same whenever this night is done again.
        recipe: that of tonight's model.
        trials: what had been judged out of sample when tonight's model was registered: as_of, recipe, configuration,
            metric, value, low, high, note; oldest first.
    """

    portfolio: Portfolio
    as_of: date
    options: Mapping[str, Any]
    rows: pl.DataFrame
    scores: pl.DataFrame
    history: pl.LazyFrame
    tables: Mapping[str, pl.LazyFrame]
    score: Callable[[pl.DataFrame], Array]
    published: Callable[[], pl.DataFrame]
    seed: int
    recipe: str = ""
    trials: Callable[[], pl.DataFrame] | None = None


@dataclass(frozen=True)
class WeekView:
    """What a week judged, as a risk type sees it that keeps trials.

    Attributes:
        portfolio: the job.
        options: the risk type's options with what the portfolio says of them.
        judged: rows that no fit had seen, with the portfolio's `numbers` and a column of scores a recipe.
        names: the recipes.
    """

    portfolio: Portfolio
    options: Mapping[str, Any]
    judged: pl.DataFrame
    names: tuple[str, ...]


@dataclass(frozen=True)
class Derived:
    """What a risk type makes of a night.

    Attributes:
        scores: further rows of `risk_score`: entity, target, segment, score, and where there are any score_low,
            score_high, reasons.
        measures: rows of `measure`: kind, item, metric, value, and where there are any segment, low, high, note.
    """

    scores: pl.DataFrame | None = None
    measures: pl.DataFrame | None = None
