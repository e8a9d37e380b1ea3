"""What every step receives (job, settings, reporter, clock), and how a step is called."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from metarisk.domain import ConfigError, Job, Portfolio, Reporter, RiskSpec, Warehouse, did_you_mean
from metarisk.portfolios import load_portfolio
from metarisk.risks import RISKS
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse

Part = TypeVar("Part")
Result = TypeVar("Result")


class Quiet:
    """A Reporter that says nothing."""

    @contextmanager
    def step(self, job: Job, name: str) -> Iterator[None]:
        """Run the step."""
        yield

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Say nothing."""

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Say nothing."""

    def link(self, key: str, title: str, target: Path) -> None:
        """Say nothing."""

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


def utc_now() -> datetime:
    """The clock, as a value that tests replace."""
    return datetime.now(UTC)


class Spread(Protocol):
    """How named parts of a step are done, each as a piece of work that people see."""

    @property
    def here(self) -> bool:
        """Whether they are done in this process, one after another; elsewhere parts and results are pickled."""
        ...

    def __call__(self, work: Callable[[Part], Result], parts: Mapping[str, Part]) -> Iterable[Result]:
        """`work(part)` of every part, in their order."""
        ...


@dataclass(frozen=True)
class Context:
    """One job with what it needs; steps take it first."""

    job: Job
    settings: Settings
    reporter: Reporter
    clock: Callable[[], datetime] = utc_now
    spread: Spread | None = None
    """How parts of a step that are worth it are done; None: the step is one piece."""

    @property
    def folder(self) -> Path:
        """The folder of the lake that holds all of the job's date."""
        return self.settings.data_dir / "lake" / self.job.portfolio / str(self.job.as_of)

    @cached_property
    def portfolio(self) -> Portfolio:
        """The job's portfolio, read from its TOML."""
        return load_portfolio(self.settings.project, self.job.portfolio, risks=RISKS)

    @cached_property
    def spec(self) -> RiskSpec:
        """What the portfolio's targets mean."""
        return RISKS[self.portfolio.risk]

    @cached_property
    def options(self) -> Mapping[str, object]:
        """The risk type's options, with the portfolio's own; a ConfigError for one that the risk type does not have."""
        known = self.spec.options
        for name, value in self.portfolio.options.items():
            if name not in known:
                raise ConfigError(
                    f"portfolios/{self.portfolio.name}.toml: risk type {self.spec.name} has no option {name!r}"
                    f"{did_you_mean(name, known)}",
                    portfolio=self.portfolio.name,
                    remedy=f"use one of {', '.join(known)}" if known else "take [options] out",
                )
            wanted = float if isinstance(known[name], float) else type(known[name])
            if not isinstance(value, (int, float) if wanted is float else wanted):
                raise ConfigError(
                    f"portfolios/{self.portfolio.name}.toml: option {name!r} is {value!r}, not like {known[name]!r}",
                    portfolio=self.portfolio.name,
                    remedy="correct it in [options]",
                )
        return dict(known) | dict(self.portfolio.options)

    @property
    def timezone(self) -> str:
        """Where the portfolio's days begin; UTC where its TOML is wrong, so that the failure can be recorded."""
        try:
            return self.portfolio.timezone
        except ConfigError:
            return "UTC"

    @cached_property
    def warehouse(self) -> Warehouse:
        """The warehouse of METARISK_WAREHOUSE; its sessions run in the portfolio's time zone."""
        return open_warehouse(
            self.settings.warehouse.get_secret_value(),
            self.settings.data_dir,
            threads=self.settings.threads,
            memory_mb=self.settings.memory_mb,
            timezone=self.timezone,
        )


class Caller(Protocol):
    """How a step is run: directly, or as a Prefect task of the same name."""

    def __call__(self, step: Callable[..., Result], context: Context, *inputs: object) -> Result:
        """Run `step(context, *inputs)`."""
        ...


def direct(step: Callable[..., Result], context: Context, *inputs: object) -> Result:
    """Run a step in this process, inside the reporter's step."""
    with context.reporter.step(context.job, step.__name__):
        return step(context, *inputs)
