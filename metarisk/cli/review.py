"""Commands around a night's scores: score further rows from a file, and take in what reviewers found out."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarisk.cli.running import AsOf, Json, Name, day_of, run
from metarisk.domain import ConfigError, Job

if TYPE_CHECKING:
    from metarisk.jobs import Context

File = Annotated[Path, typer.Argument(help="CSV or Parquet.", exists=True, dir_okay=False)]


def score(
    file: File,
    portfolio: Name,
    out: Annotated[Path, typer.Option(help="CSV or Parquet to write.")],
    as_of: Annotated[str, typer.Option("--as-of", help="A published night; the newest if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Score the rows of a file by a night's adapted model; nothing is published."""

    from metarisk.answers import explain as explaining
    from metarisk.answers import score as answering

    def work(context: Context) -> tuple[dict[str, Any], str]:
        day = day_of(as_of, portfolio, as_json) if as_of else explaining.last_night(context)
        found = answering.answer(replace(context, job=Job(portfolio, day)), file)
        if out.suffix == ".parquet":
            found.write_parquet(out)
        elif out.suffix == ".csv":
            found.write_csv(out)
        else:
            raise ConfigError(f"{out.name} is neither .parquet nor .csv", remedy="name the output .parquet or .csv")
        text = f"{found.height:,} rows scored by the night of {day}, in {out}"
        return {"rows": found.height, "as_of": str(day), "out": out}, text

    run(Job(portfolio, date.min), work, as_json)


def feedback(
    file: File,
    portfolio: Name,
    as_of: AsOf,
    by: Annotated[str, typer.Option(help="Who says so.")],
    as_json: Json = False,
) -> None:
    """Record what reviewers found: entity, verdict (confirmed, cleared), decided_on, note."""
    from metarisk.upkeep.feedback import give_feedback

    def work(context: Context) -> tuple[dict[str, Any], str]:
        taken = give_feedback(context, file, by)
        text = (
            f"{taken.confirmed:,} confirmed and {taken.cleared:,} cleared; {taken.known:,} lines were known already\n"
            f"Next: metarisk nightly --portfolio {portfolio}"
        )
        return {"confirmed": taken.confirmed, "cleared": taken.cleared, "known": taken.known}, text

    run(Job(portfolio, day_of(as_of, portfolio, as_json)), work, as_json)
