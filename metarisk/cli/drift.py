"""Commands on drift: what moved in the last night, a feature before and now, and what people do about alerts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from metarisk.cli.console import date_of, errors, rich_table, say
from metarisk.cli.running import Json, Name, context_of, day_of
from metarisk.domain import Job
from metarisk.portfolios import local_day

if TYPE_CHECKING:
    from metarisk.jobs import Context

drift_app = typer.Typer(help="Show what drifted; acknowledge and mute alerts.")
Alert = Annotated[str, typer.Option("--alert", help="Id of the alert: `metarisk drift` lists them.")]
By = Annotated[str, typer.Option(help="Who says so.")]
Why = Annotated[str, typer.Option("--reason", help="Why.")]
_BAR = 16  # characters: two of them fit a terminal


@drift_app.callback(invoke_without_command=True)
def show(
    command: typer.Context,
    portfolio: Annotated[
        str, typer.Option("--portfolio", "-p", help="Name of a file in portfolios/, without .toml.")
    ] = "",
    feature: Annotated[str, typer.Option(help="A feature or the score: its histogram before and now.")] = "",
    segment: Annotated[str, typer.Option(help="With --feature: a segment as the tables name it; left out: all.")] = "",
    as_of: Annotated[str, typer.Option("--as-of", help="A published night; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Show the worst findings of a night and the open alerts, or one feature before and now."""
    if command.invoked_subcommand is not None:
        return
    if not portfolio:
        raise typer.BadParameter("is missing", param_hint="--portfolio")
    from metarisk.answers import drift as showing

    with errors(as_json):
        context = _night(portfolio, as_of, as_json)
        if feature:
            picture = showing.feature(context, feature, segment or None)
            _picture(context, picture, as_json)
            return
        found, opened = showing.worst(context), showing.alerts(context)
        if as_json:
            say({"as_of": str(context.job.as_of), "worst": found, "alerts": opened}, "", True)
            return
        lines = [f"{portfolio} as of {context.job.as_of}: {f'the worst {len(found)}' if found else 'nothing drifts'}"]
        lines += [f"  {row['status']:<6} {showing.sentence(row)}" for row in found]
        lines.append(f"{len(opened)} alerts are open" if opened else "no alert is open")
        lines += [
            f"  {row['alert']}  since {row['since']}  {row['what']} in {row['segment']}{row['state']}" for row in opened
        ]
        lines.append(f"Next: metarisk drift --portfolio {portfolio} --feature NAME")
        say({}, "\n".join(lines), False)


@drift_app.command()
def ack(portfolio: Name, alert: Alert, by: By, reason: Why, as_json: Json = False) -> None:
    """Acknowledge an open alert: somebody looks after it."""
    from metarisk.upkeep import alerts

    with errors(as_json):
        sentence = alerts.acknowledge(_today(portfolio), alert, by, reason)
        say({"alert": alert, "by": by}, f"acknowledged by {by}: {sentence}", as_json)


@drift_app.command()
def mute(
    portfolio: Name,
    alert: Alert,
    until: Annotated[str, typer.Option(help="Last day on which nobody is told: YYYY-MM-DD.")],
    by: By,
    reason: Why,
    as_json: Json = False,
) -> None:
    """Tell nobody of an alert until a date, should it open again too."""
    from metarisk.upkeep import alerts

    day = date_of(until, as_json)
    with errors(as_json):
        sentence = alerts.mute(_today(portfolio), alert, day, by, reason)
        say({"alert": alert, "by": by, "until": str(day)}, f"muted by {by} until {day}: {sentence}", as_json)


def _picture(context: Context, picture: Any, as_json: bool) -> None:
    """A feature's histogram, tonight's bars against the reference's, and what the night found of it."""
    if as_json:
        say(picture, "", True)
        return
    console = Console()
    console.print(f"[bold]{escape(picture['feature'])}[/] in {escape(picture['segment'])}, as of {context.job.as_of}")
    most = max([0.0, *(max(side["reference"], side["current"]) for side in picture["sides"])]) or 1.0
    rows = [
        {
            "bin": side["name"],
            "reference": f"{side['reference']:.1%}",
            "before": "░" * round(_BAR * side["reference"] / most),
            "now": "█" * round(_BAR * side["current"] / most),
            "tonight": f"{side['current']:.1%}",
        }
        for side in picture["sides"]
    ]
    if rows:
        console.print(rich_table("Share of rows", rows))
    for line in picture["findings"]:
        console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)


def _night(portfolio: str, as_of: str, as_json: bool) -> Context:
    from metarisk.answers import explain as explaining

    day = day_of(as_of, portfolio, as_json) if as_of else explaining.last_night(context_of(portfolio))
    return context_of(portfolio, day)


def _today(portfolio: str) -> Context:
    from metarisk.jobs import utc_now

    context = context_of(portfolio)
    return replace(context, job=Job(portfolio, local_day(utc_now(), context.timezone)))
