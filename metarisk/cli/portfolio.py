"""Commands on portfolios: list, check, draft."""

from collections.abc import Sequence
from typing import Annotated

import typer

from metarisk.cli.console import errors, hint, plain, say
from metarisk.cli.running import YESTERDAY, AsOf, Json, context_of, day_of, settings_of, warehouse_of
from metarisk.domain import ConfigError
from metarisk.portfolios import Decision, Wanted, draft_portfolio, list_portfolios
from metarisk.risks import RISKS

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
        from metarisk.jobs.portfolio_check import try_portfolio

        findings = try_portfolio(context_of(name, day))
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
    entity: Annotated[str, typer.Option(help="Column of the key, instead of a guess.")] = "",
    opened: Annotated[str, typer.Option(help="Column of the date from which the horizon runs.")] = "",
    event: Annotated[str, typer.Option(help="Column of the event's date.")] = "",
    known: Annotated[str, typer.Option(help="Column of the date on which the event was known.")] = "",
    label: Annotated[str, typer.Option(help="Column of a flag without dates, or of a value.")] = "",
    segments: Annotated[str | None, typer.Option(help='Segment columns, as in "region,product"; "" for none.')] = None,
    risk: Annotated[str, typer.Option(help=f"Risk type: {', '.join(RISKS)}.")] = "",
    horizon: Annotated[str, typer.Option(help="12m, 30d, or lifetime: until the contract's end.")] = "",
    matures: Annotated[str, typer.Option(help="Column of the contract's end, until when the event counts.")] = "",
    as_json: Json = False,
) -> None:
    """Write a first draft of TOML, SQL and suite from a whole table, and say what was made of each column."""
    with errors(as_json):
        if risk and risk not in RISKS:
            raise ConfigError(f"no risk type is called {risk}", remedy=f"use one of {', '.join(RISKS)}")
        warehouse, settings = warehouse_of()
        parents = None if segments is None else tuple(one.strip() for one in segments.split(",") if one.strip())
        draft = draft_portfolio(
            name, table, warehouse, Wanted(entity, opened, event, known, label, parents, risk, horizon, matures)
        )
        existing = [str(path) for path in draft.files if (settings.project / path).exists()]
        if existing:
            raise ConfigError(f"{', '.join(existing)} exist already", portfolio=name, remedy="choose another name")
        for path, text in draft.files.items():
            target = settings.project / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        following = f"Next: edit portfolios/{name}.toml, then metarisk portfolio check {name}"
        lines = [*_decided(draft.decisions), *(f"wrote {path}" for path in draft.files), following]
        told = {"written": [str(path) for path in draft.files], "decisions": [plain(one) for one in draft.decisions]}
        say(told, "\n".join(lines), as_json)


def _decided(decisions: Sequence[Decision]) -> list[str]:
    """A line a column: CHECK where a person must look, its name, what it is, and why."""
    rows = [("CHECK" if one.check else "", one.column, one.role, one.why) for one in decisions]
    rows.insert(0, ("", "column", "role", "why"))
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    ]
