"""The command that erases an entity from what the job keeps."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from metarisk.cli.console import rich_table
from metarisk.cli.governance import By, Why, on_portfolio
from metarisk.cli.running import Json, Name

if TYPE_CHECKING:
    from metarisk.jobs import Context


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
