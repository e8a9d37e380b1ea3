"""Portfolios as values.

Plain frozen dataclasses: `metarisk.portfolios` validates TOML against them with pydantic, which forbids unknown keys
through `__pydantic_config__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Literal

WHOLE_BOOK = "whole_book"
"""Segment column of a book without any; an extract derives it, with one value for all rows."""
FeatureKind = Literal["numeric", "categorical", "date-age"]
Calendar = Literal["daily", "business", "month_end", "table"]
LikelihoodName = Literal[
    "bernoulli",
    "hazard",
    "cumulative_hazard",
    "gaussian",
    "gaussian_mv",
    "qlike",
    "poisson",
    "negative_binomial",
    "quantile",
]


@dataclass(frozen=True)
class Source:
    """Where a portfolio's rows come from, and when they may be read."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    extract: str
    """File in sql/extracts: one SELECT with `$as_of` bound."""
    suite: str
    """File in expectations: the extract's suite. The score table's suite is `scores.json` unless named."""
    scores_suite: str = "scores.json"
    ready_sql: str | None = None
    """One SELECT with `$as_of` bound that yields one true or false; None: always ready."""
    deadline_minutes: int = 0
    """Minutes after the start to go on asking `ready_sql`; 0 asks once."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Files in sql/extracts by name, each one SELECT with `$as_of` bound: small tables that the risk type reads."""
    min_rows_vs_median: float = 0.55
    """Fewest rows, extracted and scored, as a share of those of usual nights."""
    partitions: int = 1
    """Ranges of the entity's key that are read at once, where the warehouse is a server."""
    bitemporal: bool = False
    """Whether the extract gives for a past `$as_of` what it gave then, so that nights made later prove as much."""


@dataclass(frozen=True)
class Columns:
    """What the extract's columns mean."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    entity: str
    opened_on: str
    """Date from which the target's horizon runs (origination, transaction or price date)."""
    segments: tuple[str, ...]
    """Segment columns, parents of the cell: a segment's key is the tuple of their values. None: the book is one."""
    event_date: str | None = None
    known_date: str | None = None
    """Date at which the event was (or will be) known to the lender; null while none is known."""
    value: str | None = None
    """Realised value, for targets that are not events; known from `known_date`."""
    exposure: str | None = None
    """What a count of events is proportional to (hours worked, policies, transactions), above 0 in every row."""
    exit_date: str | None = None
    """Date of a competing exit (prepayment); the row leaves the risk set and is no event."""
    booked_on: str | None = None
    """Date on which the lender took the row on its book; null for what was rejected, which never teaches."""
    settled_on: str | None = None
    """Date on which a review settled whether it was the event: the row is mature from then on, whatever its age."""
    history: str | None = None
    """Observations of the entity up to this row: rows of long histories teach what is to be made of short ones."""
    lags: tuple[str, ...] = ()
    """What the value was over a day, a week and a month, on the score's scale: the inputs of HAR."""
    decayed: str | None = None
    """Its exponentially weighted mean on the score's scale: the forecast of RiskMetrics."""
    numbers: tuple[str, ...] = ()
    """Numbers that only the risk type reads: a position, an amount."""
    texts: tuple[str, ...] = ()
    """Texts that only the risk type reads: the card that a transaction was paid by."""
    protected: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    lgd: str | None = None
    """Loss given default, a share of the exposure; with `ead` it gives the expected loss."""
    ead: str | None = None
    """Exposure at default, in the book's currency."""
    label: str | None = None
    """Flag of an event that has no dates, 0 or 1: it counts as one of the horizon's last day, and is known, either way,
    once the horizon and the reporting lag are over; null: never known."""
    matures_on: str | None = None
    """Date on which the row's contract ends, and its horizon with it where that is longer."""

    def completed(self) -> Columns:
        """The same with the columns that an extract derives: the segment of a book without any, the dates of a flag."""
        whole = replace(self, segments=self.segments or (WHOLE_BOOK,))
        if self.label is None:
            return whole
        return replace(whole, event_date=f"{self.label}_event_on", known_date=f"{self.label}_known_on")

    @property
    def derived(self) -> frozenset[str]:
        """Columns that no SELECT gives: an extract derives them."""
        dates = () if self.label is None else (self.event_date, self.known_date)
        return frozenset(name for name in (*dates, *self.segments) if name in dates or name == WHOLE_BOOK) - {None}


@dataclass(frozen=True)
class Feature:
    """One model input; `date-age` is the age in years of a date column at `opened_on`."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: FeatureKind
    description: str = ""
    monotone: Literal[-1, 0, 1] = 0
    relative_to: str | None = None
    """Another feature, the same for all rows of a date, that trees take this one relative to."""
    common: bool = False
    """Whether all rows of a date share it: trees would learn dates by heart, so that linear fits alone read it."""
    short: Mapping[int, str] = field(default_factory=dict)
    """Columns that hold what this one would be of an entity with so few observations (see Columns.history)."""
    outcome_free: bool = False
    """Whether a person vouches that it was known when the row was opened, though it looks as if it told the outcome."""


@dataclass(frozen=True)
class Target:
    """What a score predicts and over what horizon."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    name: str
    horizon_months: int = 0
    horizon_days: int = 0
    reporting_lag_months: int = 0
    reporting_lag_days: int = 0
    """Months and days after the horizon's end until events inside it are known: a row is mature only after them."""

    @property
    def matures_in(self) -> timedelta:
        """Time after which a row is mature, at most: months count 31 days."""
        months = self.horizon_months + self.reporting_lag_months
        return timedelta(days=31 * months + self.horizon_days + self.reporting_lag_days)

    @property
    def periods(self) -> int:
        """Months or days of the horizon; 0 where it has both and so no equal periods."""
        return 0 if self.horizon_months and self.horizon_days else self.horizon_months or self.horizon_days


@dataclass(frozen=True)
class Validation:
    """How candidates are judged: walk-forward folds inside the training period."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    folds: int = 4
    fold_months: int = 3
    held_out: bool = True
    """Whether a week holds segments out of training, to see how few events of theirs it needs."""


@dataclass(frozen=True)
class Limits:
    """What a night may differ by from the last one before the guard stops it; each risk type has its own."""

    max_score_move: float = 0.7
    """Median move of the same rows: of log-odds or logarithms, else in standard deviations of the scores."""
    min_score_agreement: float = 0.5
    """Rank correlation of the same rows."""
    max_score_stretch: float = 2.0
    """Ratio of the standard deviations of the same rows, either way."""
    min_vanished_rows: int = 30
    """Rows of a segment value at the last night from which none at all tonight is no chance."""


@dataclass(frozen=True)
class Thresholds:
    """Limits of a portfolio; every one has a default that suits a monthly credit book."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    min_support_rows: int = 30
    """Fewer matured rows: the segment's own effect is not used (abstained)."""
    min_support_events: int = 1
    max_support_rows: int = 20_000
    """Newest matured rows kept a segment."""
    share_events: int = 0
    """Newest known events that join the support of every segment, for learners that adapt each one to rows of its own:
    what was found out in one may come in all."""
    max_training_rows: int = 400_000
    max_unseen_share: float = 0.20
    """Share of rows in never-seen segments above which the segment key is taken to be recoded."""
    max_model_age_days: int = 60
    max_stale_days: int = 7
    """Days after its horizon's end for which an entity's latest row is still scored, with `population = "latest"`."""
    alert_budget: int = 5
    """Drift alerts that are told one by one in seven days; more go to the digest."""
    alert_close_nights: int = 3
    """Nights in a row without a finding after which an alert closes."""
    max_score_move: float | None = None
    min_score_agreement: float | None = None
    max_score_stretch: float | None = None
    min_vanished_rows: int | None = None
    """These four are Limits; None: the risk type's own."""

    def limits(self, own: Limits) -> Limits:
        """What stops a night: the risk type's `own`, where nothing is said here."""
        said = {field.name: getattr(self, field.name) for field in fields(Limits)}
        return replace(own, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class Promotion:
    """When a challenger replaces the champion."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    rule: Literal["interval", "always", "manual"] | None = None
    """None: the risk type's own."""
    weeks: int = 2
    """Weeks in a row in which a challenger must be ahead of the champion for certain."""


@dataclass(frozen=True)
class Grade:
    """One line of a master scale: probabilities up to and including `upper`, above that of the grade before."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    name: str
    upper: float


DOUBLING_SCALE = tuple(
    Grade(name, upper) for name, upper in zip("ABCDEFGHIJ", (*(0.001 * 2**step for step in range(9)), 1.0), strict=True)
)
"""The default master scale: each bound is twice the one before, as odds double over `pdo` points."""


@dataclass(frozen=True)
class Scorecard:
    """How the probability of an event reads as points and as a grade, and how grades are back-tested."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    base: float = 600.0
    """Points at `odds`."""
    odds: float = 50.0
    """Good:bad odds that have `base` points."""
    pdo: float = 20.0
    """Points that double the odds."""
    grades: tuple[Grade, ...] = DOUBLING_SCALE
    """The master scale, best grade first; the last bound is 1."""
    asset_correlation: float = 0.04
    """Of the one-factor back-test; 0 is independence."""
    cut: float = 0.1
    """Share of the riskiest rows that a policy would decline: where adverse impact and swap sets are looked at."""


@dataclass(frozen=True)
class Reasons:
    """Which rows get reasons, and whether the segment may be one."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    share: float = 0.01
    """Share of the riskiest rows, by the scores at the model's label cut-off; 0: none, 1: all."""
    segment: bool = True
    """Whether the segment's own effect may be among the reasons; false where law forbids it."""
    moves: bool = True
    """Whether each night tells why scores moved since the last one."""


@dataclass(frozen=True)
class LearnerChoice:
    """A pinned learner and its options; `auto` lets validation choose among all candidates."""

    name: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Portfolio:
    """One configured job: everything the core needs to know of a book.

    Example:
        >>> book = Portfolio(
        ...     name="my_loans",
        ...     risk="credit",
        ...     source=Source("my_loans.sql", "my_loans.json"),
        ...     columns=Columns("loan_id", "opened_on", ("region", "product"), "defaulted_on", "reported_on"),
        ...     targets=(Target("pd_12m", horizon_months=12, reporting_lag_days=30),),
        ...     features={"amount": Feature("numeric"), "channel": Feature("categorical")},
        ... )
        >>> book.target.name, book.periods, book.horizon, book.target.matures_in.days
        ('pd_12m', 12, 'within 12 months', 402)
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    name: str
    risk: str
    source: Source
    columns: Columns
    targets: tuple[Target, ...]
    features: Mapping[str, Feature]
    title: str = ""
    timezone: str = "UTC"
    calendar: Calendar = "daily"
    calendar_sql: str | None = None
    """With calendar `table`: one SELECT that yields the dates on which a night is due."""
    catch_up: Literal["all", "latest"] = "all"
    population: Literal["application", "booked", "latest"] = "booked"
    """Who is scored: the lender's own book; applicants, of whom some are unlike any row that has a label; or each
    entity once, by its latest row: an asset that has a row a day."""
    scheduled: bool = True
    """Whether scheduled flows run it; false: it runs only when it is named."""
    learner: LearnerChoice = LearnerChoice()
    candidates: tuple[str, ...] = ()
    """Recipes that compete each week; empty: the risk type's own list."""
    validation: Validation = Validation()
    thresholds: Thresholds = Thresholds()
    promotion: Promotion = Promotion()
    scorecard: Scorecard = Scorecard()
    reasons: Reasons = Reasons()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the risk type."""

    @property
    def target(self) -> Target:
        """The first target: the one that trains the model."""
        return self.targets[0]

    @property
    def periods(self) -> int:
        """Months or days of its horizon; 0 where rows have no equal ones, or nobody knows in which an event fell."""
        return 0 if self.columns.label or self.columns.matures_on else self.target.periods

    @property
    def horizon(self) -> str:
        """In words: `within 12 months`."""
        parts = [(self.target.horizon_months, "month"), (self.target.horizon_days, "day")]
        told = " and ".join(f"{count} {unit}{'s' if count > 1 else ''}" for count, unit in parts if count)
        return f"by the contract's end, within {told} at most" if self.columns.matures_on else f"within {told}"
