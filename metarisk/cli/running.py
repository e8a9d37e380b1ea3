"""What commands share: their common options, the environment, the warehouse, and running a job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from metarisk.cli.console import RichReporter, date_of, errors, say
from metarisk.domain import ConfigError, Job, Warehouse
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse

if TYPE_CHECKING:
    from metarisk.jobs import Context

Name = Annotated[str, typer.Option("--portfolio", "-p", help="Name of a file in portfolios/, without .toml.")]
AsOf = Annotated[
    str,
    typer.Option(
        "--as-of",
        help="Local date up to whose end things are known: YYYY-MM-DD, or yesterday, the newest one due that is over.",
    ),
]
YESTERDAY = "yesterday"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def run(job: Job, work: Callable[[Context], tuple[dict[str, Any], str]], as_json: bool) -> None:
    """Do a job's work under a reporter, and say what came of it."""
    from metarisk.jobs import Context, Quiet

    with errors(as_json):
        if as_json:
            content, text = work(Context(job, settings_of(), Quiet()))
        else:
            with RichReporter(Console(stderr=True)) as reporter:
                content, text = work(Context(job, settings_of(), reporter))
        say(content, text, as_json)


def context_of(portfolio: str, day: date = date.min) -> Context:
    """What a question about a portfolio is asked with: its date, or none, and nothing is told on the way."""
    from metarisk.jobs import Context, Quiet

    return Context(Job(portfolio, day), settings_of(), Quiet())


def day_of(text: str, portfolio: str, as_json: bool) -> date:
    """The date of an option; `yesterday` is the newest of the portfolio's calendar that is over where it lives."""
    if text != YESTERDAY:
        return date_of(text, as_json)
    from metarisk.jobs import newest_over

    with errors(as_json):
        return newest_over(context_of(portfolio))
    raise AssertionError


def settings_of() -> Settings:
    """The environment; ConfigError names the variable that is wrong, and never shows its value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"METARISK_{first['loc'][0]}".upper()
        raise ConfigError(
            f"{variable} is wrong: {first['msg']}", remedy="correct that environment variable, or leave it out"
        ) from None


def warehouse_of(timezone: str = "UTC") -> tuple[Warehouse, Settings]:
    """The warehouse of the environment, whose sessions run in a time zone, and the environment."""
    settings = settings_of()
    url = settings.warehouse.get_secret_value()
    limits = {"threads": settings.threads, "memory_mb": settings.memory_mb}
    opened = open_warehouse(url, settings.data_dir, **limits, timezone=timezone)
    return opened, settings


def migrate(warehouse: Warehouse, settings: Settings) -> None:
    """Bring schema `metarisk` up to date."""
    warehouse.migrate(settings.migrations, settings.views, settings.dictionary)
