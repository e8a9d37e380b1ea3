"""How every portfolio stands now: the view `portfolio_status`, once the warehouse is told what it lacks."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from metarisk.domain import Job, MetariskError, WarehouseError
from metarisk.job.attempts import look_for_deaths
from metarisk.job.context import Context, Quiet
from metarisk.job.dates import what_is_due
from metarisk.portfolios import list_portfolios
from metarisk.record.portfolios import append_due, news_of_due, statuses
from metarisk.settings import Settings


@dataclass(frozen=True)
class Standing:
    """How one portfolio stands, and what to do about it."""

    portfolio: str
    status: str
    """green, amber, red, or grey where nothing is due and so nothing can be judged."""
    reason: str
    remedy: str
    """Empty where nothing is to be done."""
    row: Mapping[str, Any]
    """Of the view `portfolio_status`; empty where the warehouse knows nothing of the portfolio."""

    @property
    def line(self) -> str:
        """Newest night, last attempt, model and alerts in a line."""
        row = self.row
        if not row:
            return "nothing is known of it"
        night = (
            f"night {row['newest_night']}, {_days(row['night_age_days'])} old" if row["newest_night"] else "no night"
        )
        owed = f", {row['nights_owed']} owed" if row["nights_owed"] else ""
        tried = f"last attempt {_tried(row)}" if row["last_outcome"] else "no attempt"
        model = f"model {row['model_as_of']}, {_days(row['model_age_days'])} old" if row["model_id"] else "no model"
        return f"{night}{owed}; {tried}; {model}; {row['open_alerts']} alerts open"


def standings(settings: Settings) -> list[Standing]:
    """All portfolios of the project and of the warehouse, by name.

    Attempts that died are recorded first, and what a TOML says of its nights by now. Raises MetariskError where the
    warehouse does not answer, or lacks the view.
    """
    whole = Context(Job("", date.min), settings, Quiet())
    with suppress(WarehouseError):  # an auditor may only read
        look_for_deaths(whole)
    wrong: dict[str, MetariskError] = {}
    names = list_portfolios(settings.project)
    for name in names:
        try:
            _tell(Context(Job(name, date.min), settings, Quiet()))
        except MetariskError as error:
            wrong[name] = error
    rows = statuses(whole.warehouse)
    return [_standing(name, rows.get(name, {}), wrong.get(name), name in names) for name in sorted({*rows, *names})]


def _tell(context: Context) -> None:
    due = what_is_due(context)
    about = context.job.portfolio, due.row, due.dates, context.clock()
    if any(news_of_due(context.warehouse, *about).values()):
        with suppress(WarehouseError), context.warehouse.transaction() as transaction:
            append_due(transaction, *about)


def _standing(name: str, row: Mapping[str, Any], error: MetariskError | None, configured: bool) -> Standing:
    if error is not None:
        return Standing(name, "red", error.what, error.remedy, row)
    if not configured and row["scheduled"]:
        what = f"portfolios/{name}.toml is gone, so no night of it runs any more"
        return Standing(name, "red", what, "restore it, or set `scheduled = false` there before it goes", row)
    if not row:
        return Standing(name, "grey", "nothing of it ever ran", "", row)
    remedy = "; ".join(_remedies(row)) if row["status"] in ("red", "amber") else ""
    return Standing(name, row["status"], row["status_reason"] or "", remedy, row)


def _remedies(row: Mapping[str, Any]) -> Iterator[str]:
    name = row["portfolio"]
    if row["night_failure"] or row["week_failure"]:
        yield "mend what it says and run it again; `metarisk runs` has all attempts"
    if row["nights_owed"] or row["is_stale"]:
        yield (
            f"run `metarisk nightly --portfolio {name}` for each date, or `metarisk up`, which catches up; look why "
            "nothing did; where the book has ended, set `scheduled = false`"
        )
    if row["model_id"] is None or (row["model_judged_age_days"] or 0) > row["max_model_age_days"]:
        yield f"run `metarisk weekly --portfolio {name} --as-of DATE`, and look why the weekly did not"
    if row["last_outcome"] == "running":
        yield "look at the process that runs, or let it end"


def _tried(row: Mapping[str, Any]) -> str:
    return f"{row['last_job']} {row['last_as_of']} {row['last_outcome'].replace('_', ' ')}"


def _days(days: int) -> str:
    return f"{days} day" if days == 1 else f"{days} days"
