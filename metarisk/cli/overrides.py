"""Commands by which a person decides a score in place of the model, and takes that back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from metarisk.cli.console import date_of, rich_table
from metarisk.cli.governance import By, Why, on_portfolio
from metarisk.cli.running import Json, Name

if TYPE_CHECKING:
    from metarisk.jobs import Context

override_app = typer.Typer(no_args_is_help=True, help="Scores that a person decides in place of the model.")

Entity = Annotated[str, typer.Option("--entity", help="Whose score.")]


@override_app.command("set")
def set_score(
    portfolio: Name,
    entity: Entity,
    score: Annotated[float, typer.Option("--score", help="The score that is to stand.")],
    by: By,
    reason: Why,
    until: Annotated[str, typer.Option("--until", help="Last night for which it stands: YYYY-MM-DD.")] = "",
    as_json: Json = False,
) -> None:
    """Let a score stand in place of the model's, from the latest night on."""
    last_night = date_of(until, as_json) if until else None

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import override as overriding

        row = overriding.override(context, entity, score, by, reason, last_night)
        text = f"{entity}: {row['score']:g} stands in place of the model's {row['model_score']:g}, by {by}"
        return row, f"{text}\nNext: metarisk override list"

    on_portfolio(portfolio, work, as_json)


@override_app.command()
def lift(portfolio: Name, entity: Entity, by: By, reason: Why, as_json: Json = False) -> None:
    """Let the model's score stand again."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import override as overriding

        overriding.lift(context, entity, by, reason)
        return {"entity": entity, "by": by}, f"{entity}: the model's score stands again, by {by}"

    on_portfolio(portfolio, work, as_json)


@override_app.command("list")
def list_overrides(portfolio: Name, as_json: Json = False) -> None:
    """Show the overrides that stand at the latest night."""

    def work(context: Context) -> tuple[dict[str, Any], str]:
        from metarisk.upkeep import override as overriding

        rows = overriding.current(context)
        if rows and not as_json:
            names = ("entity", "score", "model_score", "author", "reason", "last_night")
            Console().print(
                rich_table(f"Overrides of {portfolio}", [{name: row[name] for name in names} for row in rows])
            )
        return {"overrides": rows}, "" if rows else "no score is overridden"

    on_portfolio(portfolio, work, as_json)
