"""Risk types as values: what a target means, what a risk type is given of a night, and what it publishes beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from metarisk.domain.episodes import Array
from metarisk.domain.portfolio import LikelihoodName, Limits, Portfolio

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


DEMO_AS_OF = date(2025, 6, 30)
"""The night that demos run; source rows go on to the end of that year, for nights after it."""


@dataclass(frozen=True)
class Demo:
    """The generated data of one demo portfolio.

    Attributes:
        generate: (scale, seed) to readers of its tables by their name in schema `source`.
        as_of: the night that the demo runs.
    """

    generate: Callable[[float, int], Mapping[str, pa.RecordBatchReader]]
    as_of: date = DEMO_AS_OF


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


@dataclass(frozen=True)
class MeasureRow:
    """One number that a risk type published of a night beside its scores; a note that begins with { is JSON."""

    kind: str
    item: str
    segment: str | None
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class MeasureKind:
    """How the night's page shows measures of one kind.

    Attributes:
        title, text: heading, and a sentence under it.
        pictures: functions of the rows of the kind, each giving an SVG or a table as HTML.
        table: whether the rows are shown as a table, one line an item.
        formats: by metric, a format of Python for its numbers, or MILLIONS; others have four digits.
        words: by metric, how people read it, where that is more than its name.
    """

    MILLIONS: ClassVar[str] = "millions"

    title: str
    text: str = ""
    pictures: tuple[Callable[[Sequence[MeasureRow]], str], ...] = ()
    table: bool = True
    formats: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RiskSpec:
    """What a target means: the code half of a portfolio. The core knows these fields and never a risk's name.

    Example:
        >>> spec = RiskSpec(
        ...     name="prepayment",
        ...     likelihood="bernoulli",
        ...     label="event",
        ...     candidates=("pooled_logistic", "map_head"),
        ...     default="map_head",
        ...     promotion="interval",
        ...     score_unit="probability of early repayment",
        ... )
        >>> spec.limits.max_score_move, spec.derive is None, spec.look_back.days
        (0.7, True, 400)
    """

    name: str
    likelihood: LikelihoodName
    label: Literal["event", "value"]
    candidates: tuple[str, ...]
    """Names of recipes in adapt.RECIPES that compete by default."""
    default: str
    """Recipe that scores until validation shows another to be better."""
    promotion: Literal["interval", "always", "manual"]
    """How a challenger replaces a champion, where the portfolio does not say."""
    score_unit: str
    """Words for reports: what the number is."""
    derive: Callable[[NightView], Derived] | None = None
    """What else each night publishes: a pure function of the scored night."""
    cards: str = ""
    """Module whose KINDS say how pages show each kind of measure; imported when a page is drawn, for charts are heavy.
    A kind that it leaves out is a table under its own name."""
    trials: Callable[[WeekView], pl.DataFrame] | None = None
    """What a week keeps of each configuration that it judged: recipe, metric, value, and low, high, note."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that a portfolio may set under [options], with their defaults."""
    limits: Limits = field(default_factory=Limits)
    """What the guard stops."""
    demos: Mapping[str, Demo] = field(default_factory=dict)
    """Generated books, by the portfolio that they are for."""
    look_back: timedelta = timedelta(days=400)
    """How long before the newest mature rows published scores are handed to `derive`; by default a trading year of
    back-tests and a month to spare."""

    def unit_of(self, portfolio: Portfolio) -> str:
        """Words for reports of a portfolio: what the number is and, of an event, until when it counts."""
        return f"{self.score_unit} {portfolio.horizon}" if self.label == "event" else self.score_unit
