"""The command line: every command says what it did and what to do next; `--json` says it to machines.

What needs a Prefect server (`up`, `demo`) is started as `python -m flows.…`, so that everything else works without one.
The pipeline is imported by the commands that run it: it brings torch, and `load` or `runs` should answer at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from metarisk import __version__
from metarisk.cli.console import errors, hint, plain, readable, rich_table, say
from metarisk.cli.drift import drift_app
from metarisk.cli.governance import audit_app, forget, models_app, replay, retract
from metarisk.cli.loading import load
from metarisk.cli.models import evaluate, explain, why
from metarisk.cli.overrides import override_app
from metarisk.cli.portfolio import portfolio_app
from metarisk.cli.review import feedback, score
from metarisk.cli.running import (
    YESTERDAY,
    AsOf,
    Json,
    Name,
    context_of,
    day_of,
    migrate,
    run,
    settings_of,
    warehouse_of,
)
from metarisk.cli.upkeep import doctor, prune, status, unstick
from metarisk.domain import Acceptance, ConfigError, Job, did_you_mean
from metarisk.risks import DEMOS

if TYPE_CHECKING:
    from metarisk.jobs import Context, NightResult

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(portfolio_app, name="portfolio")
app.add_typer(drift_app, name="drift")
app.add_typer(models_app, name="models")
app.add_typer(audit_app, name="audit")
app.add_typer(override_app, name="override")


@app.command()
def seed(
    portfolio: Annotated[str, typer.Option("--portfolio", "-p", help="Demo portfolio.")] = next(iter(DEMOS)),
    scale: Annotated[float, typer.Option(help="Multiplies the rows of the demo's book.")] = 1.0,
    random_seed: Annotated[int, typer.Option("--seed", help="Another seed is another book.")] = 0,
    as_json: Json = False,
) -> None:
    """Generate the book of a demo portfolio into schema `source`."""
    with errors(as_json):
        if portfolio not in DEMOS:
            raise ConfigError(
                f"nothing generates the book of {portfolio!r}{did_you_mean(portfolio, DEMOS)}",
                remedy=f"use one of {', '.join(DEMOS)}, or load your own with `metarisk load`",
            )
        chosen = DEMOS[portfolio]
        warehouse, settings = warehouse_of()
        migrate(warehouse, settings)
        rows = {name: warehouse.load(name, reader) for name, reader in chosen.generate(scale, random_seed).items()}
        say(
            {"rows": rows, "as_of": str(chosen.as_of), "portfolio": portfolio},
            "\n".join(f"{count:>12,} rows in source.{name}" for name, count in rows.items())
            + f"\nNext: metarisk weekly --portfolio {portfolio} --as-of {chosen.as_of}",
            as_json,
        )


@app.command()
def weekly(portfolio: Name, as_of: AsOf = YESTERDAY, as_json: Json = False) -> None:
    """Judge the candidates, train the chosen one, and register it."""

    from metarisk import jobs

    day = day_of(as_of, portfolio, as_json)

    def work(context: Context) -> tuple[dict[str, Any], str]:
        result = jobs.weekly(context)
        state = "champion" if result.promoted else "candidate"
        text = (
            f"model {result.model_id} ({result.recipe}) is {state}: {result.reason}\n"
            f"report {result.page}\nNext: metarisk nightly --portfolio {portfolio} --as-of {day}"
        )
        return plain(result), text

    run(Job(portfolio, day), work, as_json)


@app.command()
def nightly(
    portfolio: Name,
    as_of: AsOf = YESTERDAY,
    reason: Annotated[
        str, typer.Option("--restate", help="Publish a done night again from corrected inputs, for this reason.")
    ] = "",
    accept: Annotated[
        str, typer.Option("--accept", help="Publish what the guard stopped, for this reason; it is logged.")
    ] = "",
    by: Annotated[str, typer.Option("--by", help="Who accepts.")] = "",
    as_json: Json = False,
) -> None:
    """Adapt, score, watch for drift, publish."""

    from metarisk import jobs

    def work(context: Context) -> tuple[dict[str, Any], str]:
        result = jobs.nightly(context)
        return plain(result), f"{_night_text(result)}\n{_after_night(result)}"

    day, word = day_of(as_of, portfolio, as_json), Acceptance(accept, by) if accept or by else None
    run(Job(portfolio, day, "restatement" if reason else "nightly", reason, word), work, as_json)


@app.command()
def backfill(
    portfolio: Name,
    start: Annotated[str, typer.Option("--from", help="First night: YYYY-MM-DD.")],
    end: Annotated[str, typer.Option("--to", help="Last night: YYYY-MM-DD, or yesterday.")] = YESTERDAY,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Train the weeks that are missing first.")] = True,
    as_json: Json = False,
) -> None:
    """Train the weeks that are missing, then run past nights of the calendar, oldest first; what is done is skipped."""
    from metarisk import jobs

    first = day_of(start, portfolio, as_json)

    def work(context: Context) -> tuple[dict[str, Any], str]:
        found = jobs.backfill(context, first, train=train)
        done = [night for night in found.nights if night.outcome == "published"]
        weeks = [f"{week.as_of}: {week.recipe} trained as model {week.model_id}" for week in found.weeks]
        text = "\n".join([*weeks, *map(_night_text, found.nights)])
        return (
            {"weeks": [plain(week) for week in found.weeks], "nights": [plain(night) for night in found.nights]},
            f"{text}\n{len(done)} of {len(found.nights)} nights published now\n"
            f"Next: metarisk runs --portfolio {portfolio}",
        )

    run(Job(portfolio, day_of(end, portfolio, as_json), "backfill"), work, as_json)


@app.command()
def runs(
    portfolio: Annotated[str | None, typer.Option("--portfolio", "-p", help="Of one portfolio only.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many attempts to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the latest attempts, with how they ended."""
    from metarisk.job.archive import archives
    from metarisk.job.attempts import look_for_deaths
    from metarisk.record.attempts import latest_attempts
    from metarisk.record.publications import retracted_runs
    from metarisk.record.seals import SCORES, trusted_events

    with errors(as_json):
        warehouse, settings = warehouse_of()
        migrate(warehouse, settings)
        look_for_deaths(context_of(""))
        rows = latest_attempts(warehouse, portfolio, last)
        taken = retracted_runs(warehouse)
        gone = {name: archives(trusted_events(warehouse, name)) for name in {row["portfolio"] for row in rows}}
        for row in rows:
            archive = gone[row["portfolio"]].get(row["run_id"])
            row["pruned"] = archive is not None and SCORES in archive.left
            row["retracted"] = row["run_id"] in taken
        if as_json:
            say({"attempts": rows}, "", True)
        elif rows:
            console = Console()
            console.print(rich_table("Attempts, newest first", [readable(row) for row in rows]))
            for row in rows:
                if row["error"]:
                    console.print(escape(f"{row['as_of']} {row['step']}: {row['error']}"), soft_wrap=True)
            if any(row["pruned"] for row in rows):
                console.print("pruned: the rows of such a run are in the archive, no longer in the warehouse")
            if any(row["retracted"] for row in rows):
                console.print("retracted: a person took the night back; the view night says why, no reader has it")
            console.print(f"Next: metarisk report --portfolio {rows[0]['portfolio']} --as-of {rows[0]['as_of']}")
        else:
            Console().print("no attempt yet\nNext: metarisk weekly, then metarisk nightly")


@app.command()
def report(
    portfolio: Name,
    as_of: Annotated[str, typer.Option(help="A night; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Print the path of a night's report."""
    with errors(as_json):
        night = str(day_of(as_of, portfolio, as_json)) if as_of else "2"
        pages = list((settings_of().data_dir / "reports" / portfolio).glob(f"{night}*.html"))
        if not pages:
            raise ConfigError(
                "there is no report",
                portfolio=portfolio,
                remedy="run `metarisk nightly` first; `metarisk runs` shows what ran",
            )
        # Of a restated night the page that was written last.
        newest = max(pages, key=lambda page: (page.name[:10], page.stat().st_mtime))
        say({"page": newest}, str(newest), as_json)
        hint("Next: open it in a browser", as_json)


@app.command()
def up() -> None:
    """Start server, workers and deployments; Ctrl-C stops all of it."""
    # Takes this process's place: a parent that Ctrl-C reaches first would kill it before it has stopped its workers.
    os.execv(sys.executable, [sys.executable, "-m", "flows.ops", "up"])  # noqa: S606


@app.command("demo")
def run_demo(
    every: Annotated[bool, typer.Option("--all", help="One portfolio of every risk type, not loans alone.")] = False,
) -> None:
    """Run the whole job once on generated data, through the flows."""
    portfolios = list(DEMOS) if every else list(DEMOS)[:1]
    raise typer.Exit(subprocess.call([sys.executable, "-m", "flows.demo", *portfolios]))  # noqa: S603


for command in (load, evaluate, explain, why, score, feedback, replay, retract, forget, status, doctor, unstick, prune):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """metarisk: risk scoring that learns across many thin segments."""
    if version:
        Console().print(f"metarisk {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the `metarisk` script."""
    app()


def _night_text(result: NightResult) -> str:
    if result.outcome == "retracted":
        return f"{result.portfolio} {result.as_of}: retracted by a person; left alone"
    if result.outcome == "already_published":
        return f"{result.portfolio} {result.as_of}: already published as run {result.run_id}; nothing was done"
    return (
        f"{result.portfolio} {result.as_of}: {result.rows_scored:,} rows published as run {result.run_id}\n"
        f"report {result.page}"
    )


def _after_night(result: NightResult) -> str:
    """What to do after a night."""
    if result.outcome == "already_published":
        return "Next: nothing; `--restate REASON` publishes it again from corrected inputs"
    return "Next: open the report; `metarisk up` runs nights by schedule"
