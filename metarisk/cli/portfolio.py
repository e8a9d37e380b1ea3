"""Commands on portfolios: list, check, draft."""

from __future__ import annotations

from typing import Annotated

import typer

from metarisk.cli.console import errors, hint, plain, say
from metarisk.cli.running import YESTERDAY, AsOf, Json, day_of, settings_of, warehouse_of
from metarisk.domain import ConfigError, Job
from metarisk.portfolios import draft_portfolio, list_portfolios

portfolio_app = typer.Typer(no_args_is_help=True, help="Draft, check and list portfolios.")


@portfolio_app.command("list")
def portfolio_list(as_json: Json = False) -> None:
    """Names of the project's portfolios."""
    with errors(as_json):
        names = list_portfolios(settings_of().project)
        say({"portfolios": names}, "\n".join(names) or "none yet", as_json)
        hint(f"Next: metarisk portfolio {f'check {names[0]}' if names else 'new'}", as_json)


@portfolio_app.command("check")
def portfolio_check(name: str, as_of: AsOf = YESTERDAY, as_json: Json = False) -> None:
    """Validate a portfolio against the live warehouse."""
    day = day_of(as_of, name, as_json)
    with errors(as_json):
        from metarisk.pipeline import Context, Quiet
        from metarisk.pipeline.portfolio_check import try_portfolio

        findings = try_portfolio(Context(Job(name, day), settings_of(), Quiet()))
        wrong = [finding for finding in findings if not finding.ok]
        lines = [
            f"{'WRONG' if not finding.ok else 'NOTE ' if finding.told else 'ok   '} {finding.about}: {finding.what}"
            + (f". Remedy: {finding.remedy}" if finding.remedy else "")
            for finding in findings
        ]
        following = (
            "correct what is wrong, then check again" if wrong else f"metarisk weekly --portfolio {name} --as-of {day}"
        )
        say({"findings": [plain(f) for f in findings]}, "\n".join([*lines, f"Next: {following}"]), as_json)
        if wrong:
            raise typer.Exit(1)


@portfolio_app.command("new")
def portfolio_new(
    name: str,
    table: Annotated[str, typer.Option(help="A table of schema source: source.NAME.")],
    as_json: Json = False,
) -> None:
    """Write a first draft of TOML, SQL and suite from a table's columns."""
    with errors(as_json):
        warehouse, settings = warehouse_of()
        draft = draft_portfolio(name, table, warehouse)
        existing = [str(path) for path in draft if (settings.project / path).exists()]
        if existing:
            raise ConfigError(f"{', '.join(existing)} exist already", portfolio=name, remedy="choose another name")
        for path, text in draft.items():
            target = settings.project / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        following = f"Next: edit portfolios/{name}.toml, then metarisk portfolio check {name}"
        lines = [*(f"wrote {path}" for path in draft), following]
        say({"written": [str(path) for path in draft]}, "\n".join(lines), as_json)
