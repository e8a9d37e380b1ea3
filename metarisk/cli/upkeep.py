"""Commands of those who keep the job running; what needs a Prefect server is done by `python -m flows.ops`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from metarisk.cli.console import errors, hint, say
from metarisk.cli.running import Json, context_of, migrate, settings_of, warehouse_of
from metarisk.domain import ConfigError, Finding, did_you_mean
from metarisk.portfolios import list_portfolios
from metarisk.settings import Settings

OPS = [sys.executable, "-m", "flows.ops"]


def doctor(as_json: Json = False) -> None:
    """Look at warehouse, disk, portfolios, models, versions and, where one is known, Prefect; exit 1 on a fault."""
    from metarisk.upkeep import doctor as health

    with errors(as_json):
        settings = settings_of()
        found = [*health.examine(settings, datetime.now(UTC).date()), *_prefect(settings)]
    if as_json:
        say({"findings": [asdict(finding) | {"fine": finding.fine} for finding in found]}, "", True)
    else:
        console = Console()
        for finding in found:
            mark = "[green]ok [/]" if finding.fine else "[bold red]BAD[/]"
            console.print(f"{mark} {escape(finding.subject)}: {escape(finding.what)}", soft_wrap=True, highlight=False)
            if not finding.fine:
                console.print(f"    {escape(finding.remedy)}", soft_wrap=True, highlight=False)
    raise typer.Exit(0 if all(finding.fine for finding in found) else 1)


def status(
    portfolio: Annotated[str | None, typer.Option("--portfolio", "-p", help="Of one portfolio only.")] = None,
    as_json: Json = False,
) -> None:
    """Say in a line how each portfolio stands: nights, last attempt, model, alerts, next start; 1 if one is red."""
    from metarisk.upkeep.status import standings

    with errors(as_json):
        warehouse, settings = warehouse_of()
        migrate(warehouse, settings)
        found = [one for one in standings(settings) if portfolio in (None, one.portfolio)]
        if portfolio is not None and not found:
            known = list_portfolios(settings.project)
            raise ConfigError(
                f"there is no portfolio {portfolio!r}{did_you_mean(portfolio, known)}",
                remedy=f"use one of {', '.join(known)}" if known else "write one with `metarisk portfolio new`",
            )
        starts = _next_starts(settings)
    if as_json:
        lines = [asdict(one) | {"row": dict(one.row)} for one in found]
        say({"portfolios": lines, "next_starts": starts}, "", True)
    else:
        console = Console()
        for one in found:
            after = f"; next start {starts['nightly']}" if "nightly" in starts and one.row.get("scheduled") else ""
            head = f"[{_COLOURS[one.status]}]{one.status:<5}[/] {escape(one.portfolio)}"
            said = f": {one.line}{after}{f'; {one.reason}' if one.reason else ''}"
            console.print(f"{head}{escape(said)}", soft_wrap=True, highlight=False)
        hint(_after_status(starts, any(one.remedy for one in found)), as_json)
    raise typer.Exit(1 if any(one.status == "red" for one in found) else 0)


_COLOURS = {"green": "green", "amber": "yellow", "red": "bold red", "grey": "dim"}


def _after_status(starts: Mapping[str, str], wrong: bool) -> str:
    """What to do after `status`."""
    told = "" if starts else "No Prefect server is known here: nights run when a command runs them. "
    return f"{told}Next: {'metarisk doctor has the remedies' if wrong else 'nothing'}"


def _next_starts(settings: Settings) -> dict[str, str]:
    """When each scheduled deployment starts next, by name; empty where no server is known or it does not answer."""
    if _no_server(settings):
        return {}
    told = subprocess.run([*OPS, "next"], capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return dict(json.loads(told.stdout))
    except ValueError:
        return {}


def unstick(
    minutes: Annotated[int, typer.Option(min=0, help="Leave runs alone that showed life since.")] = 15,
    as_json: Json = False,
) -> None:
    """Free what dead runs hold: Pending ones are scheduled again, Running ones without a process are crashed."""
    command = [*OPS, "unstick", "--minutes", str(minutes), *(["--json"] if as_json else [])]
    raise typer.Exit(subprocess.call(command))  # noqa: S603 - this interpreter and numbers


def prune(
    keep: Annotated[str, typer.Option(help="Days before the newest night that stay whole: 90d.")],
    portfolio: Annotated[str | None, typer.Option("--portfolio", "-p", help="Of one portfolio only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Move rows of old nights to Parquet, and remove old files of lake and registry."""
    from metarisk import jobs
    from metarisk.upkeep import prune as pruning

    with errors(as_json):
        if (days := re.fullmatch(r"(\d+)d?", keep)) is None:
            raise ConfigError(f"{keep!r} is no number of days", remedy="write it as 90d")
        names = [portfolio] if portfolio else list_portfolios(settings_of().project)
        found = []
        for name in names:
            context = context_of(name)
            jobs.migrate(context)
            found.append(pruning.prune(context, int(days[1]), dry_run=dry_run))
    lines = [
        f"{one.portfolio}: {len(one.runs)} runs ({sum(one.rows.values()):,} rows) to the archive, "
        f"{len(one.nights)} nights and {len(one.models)} models of before {one.cut} removed, "
        f"{one.freed / 2**20:,.0f} MiB"
        if one.cut
        else f"{one.portfolio}: no night yet"
        for one in found
    ]
    last = "Nothing was changed. Next: the same without --dry-run" if dry_run else "Next: metarisk audit verify"
    say({"pruned": [asdict(one) for one in found], "dry_run": dry_run}, "\n".join([*lines, last]), as_json)


def _prefect(settings: Settings) -> list[Finding]:
    """What `flows.ops` says of the server of the environment, or of the one that `up` runs for this data folder."""
    if _no_server(settings):
        return [Finding("Prefect", "no server is known here: nights run when a command runs them")]
    told = subprocess.run([*OPS, "doctor", "--json"], capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return [Finding(**line) for line in json.loads(told.stdout)]
    except ValueError:
        last = (told.stderr.strip().splitlines() or ["no answer"])[-1]
        return [Finding("Prefect", f"could not be looked at: {last}", "run `python -m flows.ops doctor`")]


def _no_server(settings: Settings) -> bool:
    return "PREFECT_API_URL" not in os.environ and not (settings.data_dir / "prefect" / "address").exists()
