"""What commands share: their common options, the environment, the warehouse, and running a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from metarisk.cli.console import RichReporter, errors, say
from metarisk.domain import ConfigError, Job, Warehouse
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse

if TYPE_CHECKING:
    from metarisk.pipeline import Context

Name = Annotated[str, typer.Option("--portfolio", "-p", help="Name of a file in portfolios/, without .toml.")]
AsOf = Annotated[str, typer.Option("--as-of", help="Local date up to whose end things are known: YYYY-MM-DD.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def run(job: Job, work: Callable[[Context], tuple[dict[str, Any], str]], as_json: bool) -> None:
    """Do a job's work under a reporter, and say what came of it."""
    from metarisk.pipeline import Context, Quiet

    with errors(as_json):
        if as_json:
            content, text = work(Context(job, settings_of(), Quiet()))
        else:
            with RichReporter(Console(stderr=True)) as reporter:
                content, text = work(Context(job, settings_of(), reporter))
        say(content, text, as_json)


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


def warehouse_of() -> tuple[Warehouse, Settings]:
    """The warehouse of the environment, and the environment."""
    settings = settings_of()
    url = settings.warehouse.get_secret_value()
    opened = open_warehouse(url, settings.data_dir, threads=settings.threads, memory_mb=settings.memory_mb)
    return opened, settings


def migrate(warehouse: Warehouse, settings: Settings) -> None:
    """Bring schema `metarisk` up to date."""
    warehouse.migrate(settings.project / "sql" / "migrations", settings.project / "sql" / "views")
