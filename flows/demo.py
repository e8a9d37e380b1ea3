"""`python -m flows.demo`: seed, one week and one night of the demo's portfolio, through the flows.

The Prefect server lives as long as that takes; it keeps its files, so that `metarisk up` shows these runs later.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date

import typer

from flows import server
from flows.nightly import nightly
from flows.running import Line, lines_of
from flows.weekly import weekly
from metarisk.domain import MetariskError
from metarisk.settings import Settings

PORTFOLIO = "consumer_loans"


def demo() -> list[Line]:
    """What became of the week and of the night; the rows are generated while the server starts."""
    settings = Settings()
    environment = server.environment(settings, server.free_port())
    command = [sys.executable, "-m", "metarisk.cli", "seed", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as seeding, server.server(environment) as api:  # noqa: S603
        said, _ = seeding.communicate()
        if seeding.returncode:
            raise typer.Exit(seeding.returncode)
        as_of = date.fromisoformat(json.loads(said)["as_of"])
        with server.reporting_to(api, server.prefect_home(settings)):
            states = [flow(PORTFOLIO, as_of, return_state=True) for flow in (weekly, nightly)]
    return [line for state in states for line in lines_of(state)]


def main() -> None:
    """Run the demo and say what to do next."""
    try:
        lines = demo()
    except MetariskError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(1) from None
    typer.echo("")
    for line in lines:
        typer.echo(line.text)
    for line in lines:
        if line.page:
            typer.echo(f"report   {line.page}")
    typer.echo(
        "next     open the reports; `metarisk up` for schedules and the dashboard; docs/portfolios.md for your own"
    )
    raise SystemExit(any(line.failed for line in lines))


if __name__ == "__main__":
    main()
