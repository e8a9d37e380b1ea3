"""Nouns, protocols and errors that every layer shares.

No I/O and no mathematics lives here, and nothing heavier than numpy is imported, so that learners run on a GPU node
that has torch and numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[Any]
Arrays = Mapping[str, Array]

FeatureKind = Literal["numeric", "categorical", "date-age"]
Calendar = Literal["daily", "business", "month_end", "table"]
Mode = Literal["nightly", "backfill", "restatement"]
SegmentStatus = Literal["adapted", "carried", "abstained", "fallback"]
LikelihoodName = Literal[
    "bernoulli", "hazard", "gaussian", "gaussian_mv", "qlike", "poisson", "negative_binomial", "quantile"
]


# errors


class MetariskError(Exception):
    """What went wrong, where (portfolio, column, date) and what to do about it.

    The text is built once, in this order, so that every error of the job reads alike:
    ``<portfolio> / <column> / <date>: <what>. Remedy: <remedy>``.
    """

    def __init__(
        self,
        what: str,
        *,
        remedy: str,
        portfolio: str | None = None,
        column: str | None = None,
        on: date | None = None,
    ) -> None:
        self.what, self.remedy = what.rstrip("."), remedy.rstrip(".")
        self.portfolio, self.column, self.on = portfolio, column, on
        place = [
            f"{noun} {value}"
            for noun, value in (("portfolio", portfolio), ("column", column), ("as of", on))
            if value is not None
        ]
        super().__init__(f"{', '.join(place)}{': ' if place else ''}{self.what}. Remedy: {self.remedy}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (type(self), self.what, self.remedy, self.portfolio, self.column, self.on)


def _rebuild_error(
    kind: type[MetariskError], what: str, remedy: str, portfolio: str | None, column: str | None, on: date | None
) -> MetariskError:
    return kind(what, remedy=remedy, portfolio=portfolio, column=column, on=on)


class ConfigError(MetariskError):
    """A setting, a portfolio TOML, an extract SQL or a suite is wrong."""


class SourceLate(MetariskError):
    """The source was not ready by its deadline; nothing is published."""


class DataError(MetariskError):
    """The extract cannot be used: columns, types, keys or values."""


class QualityError(DataError):
    """A critical expectation failed; nothing is published."""

    results: Sequence[Mapping[str, Any]] = ()
    """Every verdict, as rows of `quality_result`, so that a refused run can be looked at."""


class ModelError(MetariskError):
    """No usable model, a model that does not fit the extract, or training that diverged."""


class WarehouseError(MetariskError):
    """The warehouse is down, read-only, full or refuses."""


class LockedError(MetariskError):
    """Another run of the same portfolio holds the lock."""


# portfolios
# Portfolios are plain frozen dataclasses: `portfolios.py` validates TOML against them with pydantic, which forbids
# unknown keys through `__pydantic_config__`.


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
    min_rows_vs_median: float = 0.5
    """Fewest extract rows, as a share of the median of the last published nights."""


@dataclass(frozen=True)
class Columns:
    """What the extract's columns mean."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    entity: str
    opened_on: str
    """Date from which the target's horizon runs (origination, transaction or price date)."""
    segments: tuple[str, ...]
    """Segment columns, parents of the cell: a segment's key is the tuple of their values."""
    event_date: str | None = None
    known_date: str | None = None
    """Date at which the event was (or will be) known to the lender; null while none is known."""
    value: str | None = None
    """Realised value, for targets that are not events; known from `known_date`."""
    exit_date: str | None = None
    """Date of a competing exit (prepayment); the row leaves the risk set and is no event."""
    protected: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Feature:
    """One model input; `date-age` is the age in years of a date column at `opened_on`."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: FeatureKind
    description: str = ""
    monotone: Literal[-1, 0, 1] = 0


@dataclass(frozen=True)
class Target:
    """What a score predicts and over what horizon."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    name: str
    horizon_months: int = 0
    horizon_days: int = 0
    reporting_lag_days: int = 0
    """Days after the horizon's end until events inside it are known: a row is mature only after them."""


@dataclass(frozen=True)
class Validation:
    """How candidates are judged: walk-forward folds inside the training period."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    folds: int = 4
    fold_months: int = 3


@dataclass(frozen=True)
class Thresholds:
    """Limits of a portfolio; every one has a default that suits a monthly credit book."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    min_support_rows: int = 30
    """Fewer matured rows: the segment's own effect is not used (abstained)."""
    min_support_events: int = 1
    max_support_rows: int = 20_000
    """Newest matured rows kept a segment."""
    max_training_rows: int = 400_000
    max_unseen_share: float = 0.20
    """Share of rows in never-seen segments above which the segment key is taken to be recoded."""
    max_model_age_days: int = 60


@dataclass(frozen=True)
class Promotion:
    """When a challenger replaces the champion."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    rule: Literal["interval", "always", "manual"] = "interval"


@dataclass(frozen=True)
class LearnerChoice:
    """A pinned learner and its options; `auto` lets validation choose among all candidates."""

    name: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Portfolio:
    """One configured job: everything the core needs to know of a book."""

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
    scheduled: bool = True
    """Whether scheduled flows run it; false: it runs only when it is named."""
    learner: LearnerChoice = LearnerChoice()
    candidates: tuple[str, ...] = ()
    """Recipes that compete each week; empty: the risk type's own list."""
    validation: Validation = Validation()
    thresholds: Thresholds = Thresholds()
    promotion: Promotion = Promotion()

    @property
    def target(self) -> Target:
        """The first target: the one that trains the model."""
        return self.targets[0]


@dataclass(frozen=True)
class RiskSpec:
    """What a target means: the code half of a portfolio. The core knows these fields and never a risk's name."""

    name: str
    likelihood: LikelihoodName
    label: Literal["event", "value"]
    candidates: tuple[str, ...]
    """Names of recipes in adapt.RECIPES that compete by default."""
    default: str
    """Recipe that scores until validation shows another to be better."""
    score_unit: str
    """Words for reports: what the number is."""


# segments
SegmentKey = tuple[str, ...]


def segment_name(key: SegmentKey) -> str:
    """One printable, collision-free name: values joined by ``|``, with ``|`` and ``\\`` escaped."""
    return "|".join(value.replace("\\", "\\\\").replace("|", "\\|") for value in key)


@dataclass(frozen=True)
class Packed:
    """Rows of many segments laid end to end; rows of segment ``i`` are ``starts[i]:starts[i+1]``.

    Attributes:
        keys: segment keys, length S; a key may appear more than once (one task a segment and cut-off).
        starts: int64 (S+1,), non-decreasing, ``starts[0] == 0`` and ``starts[-1] == N``.
        x: float (N, D), C-contiguous, no NaN: what a network sees.
        y: float (N,), in the likelihood's range; zeros where the rows are to be scored and have no label.
        weight: float (N,), non-negative.
        base: float (N,): a base score on the link scale (logit, log rate, log variance); zeros if there is none.
    """

    keys: tuple[SegmentKey, ...]
    starts: Array
    x: Array
    y: Array
    weight: Array
    base: Array

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return int(self.x.shape[0])

    @property
    def sizes(self) -> Array:
        """Rows of each segment, int64 (S,)."""
        return np.diff(self.starts)

    @property
    def index(self) -> Array:
        """Segment number of each row, int64 (N,)."""
        return np.repeat(np.arange(len(self.keys)), self.sizes)

    def select(self, segments: Sequence[int] | Array) -> Packed:
        """The same rows of some segments, in the order given."""
        chosen = np.asarray(segments, dtype=np.int64)
        sizes = self.sizes[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(self.starts[chosen] - starts[:-1], sizes) + np.arange(starts[-1])
        return Packed(
            tuple(self.keys[i] for i in chosen),
            starts,
            np.ascontiguousarray(self.x[rows]),
            self.y[rows],
            self.weight[rows],
            self.base[rows],
        )

    def with_base(self, base: Array) -> Packed:
        """The same rows with another base score (N,)."""
        return replace(self, base=base)


@dataclass(frozen=True)
class Episodes:
    """Tasks of meta-learning: support rows adapt, query rows (later in time) judge. Same segments in both."""

    support: Packed
    query: Packed

    def __post_init__(self) -> None:
        if self.support.keys != self.query.keys:
            raise ValueError("support and query of Episodes must hold the same segments in the same order")


@dataclass(frozen=True)
class Adaptation:
    """What the inner loop learned: arrays whose first axis is the segment.

    Metric learners keep embedded supports of unequal length; such an array is packed and listed in ``ragged`` with the
    name of its (S+1,) starts array.
    """

    keys: tuple[SegmentKey, ...]
    arrays: Arrays
    ragged: Mapping[str, str] = field(default_factory=dict)


Progress = Callable[[int, int, str], None]
"""Called with (done, total, note) by long work."""


class Learner(Protocol):
    """One way to learn across segments. Instances are frozen dataclasses whose fields are the configuration.

    All three methods are pure: the same arguments give the same bits on the same hardware. `state` holds numpy arrays
    only, so that it can be written as safetensors.
    """

    def train(
        self, tasks: Episodes, validation: Episodes | None, likelihood: LikelihoodName, *, seed: int, progress: Progress
    ) -> Arrays:
        """Meta-train; `validation` (later in time) is for early stopping. Raises ModelError on divergence."""
        ...

    def adapt(self, state: Arrays, support: Packed, likelihood: LikelihoodName) -> Adaptation:
        """Adapt to every segment of `support` at once; a segment without rows gets the prior."""
        ...

    def predict(
        self, state: Arrays, adaptation: Adaptation, rows: Packed, likelihood: LikelihoodName
    ) -> tuple[Array, Array | None]:
        """Link-scale score (N,) of rows whose segments are `rows.keys`, and its posterior variance or None.

        A segment of `rows` that `adaptation` lacks is scored from the prior (and its parents, where the learner has
        them). Segments are matched by key, not by position.
        """
        ...


def quoted(identifier: str) -> str:
    """An SQL identifier in double quotes: the one place that quotes names. Raises ConfigError on an unusable one."""
    if not identifier or "\0" in identifier:
        raise ConfigError(
            f"{identifier!r} cannot name a table or column", remedy="give it a name without NUL characters"
        )
    return '"' + identifier.replace('"', '""') + '"'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for error texts, or nothing when no known word is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# runs


@dataclass(frozen=True)
class Job:
    """What a run is asked to do; picklable and free of secrets."""

    portfolio: str
    as_of: date
    mode: Mode = "nightly"
    reason: str = ""


@dataclass(frozen=True)
class Model:
    """A row of the `model` table with its current state."""

    model_id: str
    portfolio: str
    as_of: date
    """Label cut-off: nothing known later taught this model."""
    recipe: str
    state: Literal["candidate", "approved", "champion", "retired"]
    path: Path


class Reporter(Protocol):
    """Where progress and tables of a run go: Rich in the CLI, artifacts in Prefect, nothing in tests."""

    def step(self, job: Job, name: str) -> AbstractContextManager[None]:
        """Enclose one step, for its name and time."""
        ...

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Say how far long work has come."""
        ...

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Show a table; `key` is lower case with dashes."""
        ...

    def link(self, key: str, title: str, target: Path) -> None:
        """Point to a page."""
        ...

    def warn(self, message: str) -> None:
        """Say what is not right, though the run goes on."""
        ...


# warehouse
Scalar = str | int | float | bool | date | datetime | None


class Transaction(Protocol):
    """Writes that all become visible at once, or never."""

    def append(self, table: str, batches: Iterable[pa.RecordBatch]) -> int:
        """Append batches by column name to `schema.table`; the number of rows."""
        ...

    def execute(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> None:
        """Run one statement with `$name` parameters."""
        ...

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """A small result, as seen inside the transaction."""
        ...


class Warehouse(Protocol):
    """A database that holds the sources and the schema `metarisk`: DuckDB embedded, or PostgreSQL."""

    @property
    def dialect(self) -> Literal["duckdb", "postgresql"]: ...

    def stream(
        self, sql: str, parameters: Mapping[str, Scalar] | None = None, *, batch_rows: int = 65_536
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """Read-only: stream one SELECT (or WITH ... SELECT) in batches of flat memory. Writing SQL is refused."""
        ...

    def rows(self, sql: str, parameters: Mapping[str, Scalar] | None = None) -> list[dict[str, Any]]:
        """Read-only: a small result."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Commit at the end of the block, roll back on any exception."""
        ...

    def lock(self, name: str, *, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Hold the exclusive lock `name` across processes, freed when the holder dies. Raises LockedError."""
        ...

    def migrate(self, migrations: Path, views: Path) -> list[str]:
        """Apply numbered migrations not applied yet, then drop, create and re-grant all views in one transaction."""
        ...

    def load(self, table: str, batches: pa.RecordBatchReader) -> int:
        """Create or replace `source.<table>` from batches; any other schema is refused."""
        ...

    def snapshot(self) -> Path | None:
        """Swap in the read-only file for BI (DuckDB); None where readers use the warehouse itself."""
        ...
