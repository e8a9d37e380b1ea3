"""`python -m flows.demo PORTFOLIO ...`: seed, one week and one night of demo portfolios, through the flows.

The Prefect server lives as long as that takes; it keeps its files, so that `metarisk up` shows these runs later.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import typer

from flows import server
from flows.nightly import nightly
from flows.running import Line, lines_of
from flows.weekly import weekly
from metarisk.domain import MetariskError
from metarisk.settings import Settings


def demo(portfolios: Sequence[str]) -> list[Line]:
    """What became of each week and night; the rows are generated while the server starts."""
    settings = Settings()
    environment = server.environment(settings, server.free_port())
    lines: list[Line] = []
    with ThreadPoolExecutor(1) as pool:
        seeding = pool.submit(lambda: [_seed(name) for name in portfolios])
        with server.server(environment) as api:
            nights = dict(zip(portfolios, seeding.result(), strict=True))
            with server.reporting_to(api, server.prefect_home(settings)):
                for name, as_of in nights.items():
                    for flow in (weekly, nightly):
                        lines += lines_of(flow(name, as_of, return_state=True))
    return lines


def _seed(portfolio: str) -> date:
    """Generate a portfolio's book in a process of its own; the night that its demo runs."""
    command = [sys.executable, "-m", "metarisk.cli", "seed", "--portfolio", portfolio, "--json"]
    seeding = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if seeding.returncode:
        raise typer.Exit(seeding.returncode)
    return date.fromisoformat(json.loads(seeding.stdout)["as_of"])


def main(portfolios: list[str]) -> None:
    """Run the demo and say what to do next."""
    try:
        lines = demo(portfolios)
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
    typer.run(main)
