"""Commands of those who answer for the scores: which model serves, is the log whole, what is taken back or erased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from metarisk.cli.console import date_of, errors, rich_table, say
from metarisk.cli.running import Json, Name, context_of, run
from metarisk.domain import Job

if TYPE_CHECKING:
    from metarisk.jobs import Context

models_app = typer.Typer(no_args_is_help=True, help="Which model serves, and by whose word.")
audit_app = typer.Typer(no_args_is_help=True, help="Whether the log and what it tells of are as they were written.")

Model = Annotated[str, typer.Option("--model", help="Id of the model: `metarisk models list` shows it.")]
By = Annotated[str, typer.Option("--by", help="Who decides.")]
Why = Annotated[str, typer.Option("--reason", help="Why.")]


@models_app.command("list")
def list_models(portfolio: Name, as_json: Json = False) -> None:
    """Show every model with its state, the newest first."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import models as promotion

        rows = promotion.models(context)
        if rows and not as_json:
            shown = [
                {
                    "model": row["model_id"],
                    "labels until": row["as_of"],
                    "recipe": row["recipe"],
                    "state": row["state"],
                    "since": f"{row['since']:%Y-%m-%d %H:%M}",
                    "by": row["by_whom"],
                }
                for row in rows
            ]
            Console().print(rich_table(f"Models of {portfolio}", shown))
        return {"models": rows}, "Next: metarisk models show" if rows else "no model yet\nNext: metarisk weekly"

    on_portfolio(portfolio, work, as_json)


@models_app.command()
def show(portfolio: Name, model: Model, as_json: Json = False) -> None:
    """Show one model: what it was made from, its evidence, and every state that it had."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import models as promotion

        found = promotion.describe(context, model)
        if not as_json:
            console = Console()
            for name, value in found["model"].items():
                console.print(f"  {name:<14} {escape(str(value))}", soft_wrap=True, highlight=False)
            if found["evidence"]:
                console.print(rich_table("Evidence", found["evidence"]))
            console.print(rich_table("States", found["states"]))
        return found, "Next: metarisk models promote, or rollback"

    on_portfolio(portfolio, work, as_json)


@models_app.command()
def card(portfolio: Name, model: Model, as_json: Json = False) -> None:
    """Write the model card: data, features, evidence, calibration, limits, hashes, and who approved it."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.pages.model_card import write_card

        markdown, html = write_card(context, model)
        return {"markdown": markdown, "html": html}, f"{markdown}\n{html}\nNext: open it in a browser"

    on_portfolio(portfolio, work, as_json)


@models_app.command()
def approve(portfolio: Name, model: Model, by: By, reason: Why, as_json: Json = False) -> None:
    """Make a candidate that waits for a person champion."""
    from metarisk import jobs

    _make_champion(jobs.approve, "approved by", portfolio, model, by, reason, as_json)


@models_app.command()
def promote(portfolio: Name, model: Model, by: By, reason: Why, as_json: Json = False) -> None:
    """Make any model with evidence champion; newer champions are withdrawn."""
    from metarisk import jobs

    _make_champion(jobs.promote, "by the word of", portfolio, model, by, reason, as_json)


def _make_champion(
    decide: Callable[[Context, str, str, str], str],
    how: str,
    portfolio: str,
    model: str,
    by: str,
    reason: str,
    as_json: bool,
) -> None:
    """Make a model champion on a person's word, and write its card anew."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.pages.model_card import write_card

        recipe = decide(context, model, by, reason)
        write_card(context, model)
        text = f"model {model} ({recipe}) is champion, {how} {by}\nNext: metarisk nightly scores by it"
        return {"model_id": model, "recipe": recipe, "by": by}, text

    on_portfolio(portfolio, work, as_json)


@models_app.command()
def rollback(portfolio: Name, by: By, reason: Why, as_json: Json = False) -> None:
    """Withdraw the champion and bring back the one before it."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk import jobs
        from metarisk.pages.model_card import write_card

        gone, back = jobs.roll_back(context, by, reason)
        write_card(context, back)
        text = f"model {gone} is withdrawn, {back} is champion again\nNext: metarisk nightly --restate REASON"
        return {"withdrawn": gone, "champion": back, "by": by}, text

    on_portfolio(portfolio, work, as_json)


@audit_app.command()
def verify(
    portfolio: Name,
    every_night: Annotated[bool, typer.Option("--all", help="Read every night again, and the archive.")] = False,
    head: Annotated[str | None, typer.Option(help="Hash that an earlier audit printed, kept elsewhere.")] = None,
    as_json: Json = False,
) -> None:
    """Read the event log and what it tells of again; exit 1 where one row is not as it was written."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import audit

        found = audit.verify(context, every_night=every_night, head=head)
        faults.extend(found.faults)
        lines = [
            f"{found.events} events, {found.runs} runs, scores of {found.nights} nights read again",
            *(f"BAD {fault.as_of or ''} {fault.what}".replace("  ", " ") for fault in found.faults),
            f"head {found.head}" if found.head else "nothing is chained yet",
        ]
        if found.unchained:
            lines.insert(1, f"{found.unchained} events are of before the log was chained: nothing proves them")
        if found.unsealed:
            lines.insert(1, f"{found.unsealed} events are of before publications, states and evidence were: not sealed")
        next_step = "restore the warehouse from its backup" if faults else "keep the head where nobody can change it"
        return asdict(found), "\n".join([*lines, f"Next: {next_step}"])

    faults: list[object] = []
    on_portfolio(portfolio, work, as_json)
    raise typer.Exit(1 if faults else 0)


def retract(
    portfolio: Annotated[str, typer.Argument(help="Name of a file in portfolios/, without .toml.")],
    as_of: Annotated[str, typer.Argument(metavar="DATE", help="The published night to take back: YYYY-MM-DD.")],
    by: By,
    reason: Why,
    as_json: Json = False,
) -> None:
    """Take a published night back: readers get the night before at once; what was known before stays as it was."""
    from metarisk import jobs

    def work(context: Context) -> tuple[dict[str, Any], str]:
        jobs.migrate(context)
        found = jobs.retract(context, by, reason)
        done = "was retracted before, nothing was done: taken back" if found.already else "retracted: taken back"
        lines = [
            f"{portfolio} {found.as_of} {done} by {found.by}: {found.reason}",
            f"readers have the night of {found.latest} now" if found.latest else "readers have no night now",
            *([f"report {found.page}"] if found.page else []),
            f"Next: mend the cause; metarisk nightly --portfolio {portfolio} --as-of {found.as_of} --restate REASON",
        ]
        return asdict(found), "\n".join(lines)

    run(Job(portfolio, date_of(as_of, as_json)), work, as_json)


def forget(
    entity: Annotated[str, typer.Argument(help="Whose rows: account, transaction or asset.")],
    portfolio: Name,
    by: By,
    reason: Why,
    as_json: Json = False,
) -> None:
    """Erase an entity: published scores keep a pseudonym, the lake loses its rows, the log never had the name."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import forget as forgetting

        found = forgetting.forget(context, entity, by, reason)
        if found.changed and not as_json:
            Console().print(rich_table(f"Erased from {portfolio}", [asdict(change) for change in found.changed]))
        lines = [
            f"{found.pseudonym} stands in place of the name",
            *(f"LEFT {place}" for place in found.left),
            f"The source still has it: remove it from what {context.portfolio.source.extract} reads, or the next night "
            "brings it back",
            "Backups, and logs outside of this job, still have it",
            "Next: metarisk audit verify --all; metarisk replay RUN",
        ]
        return asdict(found), "\n".join(lines)

    on_portfolio(portfolio, work, as_json)


def replay(
    run_id: Annotated[str, typer.Argument(help="Id of a published run: `metarisk runs` shows it.")],
    as_json: Json = False,
) -> None:
    """Do a past run again from its manifest: bit for bit the same, or exactly what differs (then exit 1)."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.answers import replay as reproducing

        found = reproducing.reproduce(context, run_id)
        same.append(found.identical)
        what = "bit for bit the same" if found.identical else "not the same"
        lines = [
            f"run {run_id}, {found.portfolio} {found.as_of}: {found.rows:,} rows done again, {what}",
            *([f"{found.erased:,} {'row' if found.erased == 1 else 'rows'} erased"] if found.erased else []),
            *(f"DIFFERS {line}" for line in found.differences),
            *(f"since then: {line}" for line in found.changed),
            "Next: nothing"
            if found.identical
            else "Next: run the code and the configuration of then, and replay again",
        ]
        return asdict(found), "\n".join(lines)

    same: list[bool] = []
    on_portfolio("", work, as_json)
    raise typer.Exit(0 if all(same) else 1)


def on_portfolio(portfolio: str, work: Callable[[Context], tuple[dict[str, Any], str]], as_json: bool) -> None:
    """Do work that belongs to no date."""
    from metarisk import jobs

    with errors(as_json):
        context = context_of(portfolio)
        jobs.migrate(context)
        content, text = work(context)
        say(content, text, as_json)
