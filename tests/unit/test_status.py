"""How portfolios stand now: nights that are due, owed, stale; attempts that failed, died or run; ages of models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from metarisk.domain import ConfigError, Scalar, Warehouse
from metarisk.portfolios import Schedule, as_of_from_schedule, read_schedule
from tests.warehouses import insert, publish_night

NOW = datetime.now(UTC)
TODAY = NOW.date()
YESTERDAY = TODAY - timedelta(days=1)
TOLD: Mapping[str, Scalar] = {
    "title": "Loans",
    "timezone": "UTC",
    "calendar": "daily",
    "catch_up": "all",
    "scheduled": True,
    "start_minute": 0,
    "start_timezone": "UTC",
    "grace_minutes": 0,
    "max_model_age_days": 60,
}


def tell(warehouse: Warehouse, portfolio: str = "loans", days_ago: int = 400, seq: int = 1, **others: Scalar) -> None:
    """What an attempt told of a portfolio, by default that a night is due at midnight and no minute later."""
    with warehouse.transaction() as transaction:
        row = {"portfolio": portfolio, "seq": seq, "told_at": NOW - timedelta(days=days_ago)} | TOLD | others
        insert(transaction, "metarisk.portfolio", **row)


def champion(warehouse: Warehouse, as_of: date = YESTERDAY, portfolio: str = "loans", model: str = "m1") -> None:
    with warehouse.transaction() as transaction:
        insert(
            transaction, "metarisk.model", model_id=model, portfolio=portfolio, as_of=as_of, recipe="map_head",
            created_at=NOW, path="p", metrics="{}", config_hash="c", code_version="1",
        )  # fmt: skip
        insert(
            transaction, "metarisk.model_state", model_id=model, portfolio=portfolio, seq=1, state="champion",
            since=NOW, by_whom="job",
        )  # fmt: skip


def attempt(
    warehouse: Warehouse,
    name: str,
    outcome: str | None,
    *,
    job: str = "night",
    hours_ago: float = 1.0,
    step: str = "check",
) -> None:
    """An attempt of the loans; None: it has not ended."""
    about: dict[str, Scalar] = {
        "attempt_id": name, "portfolio": "loans", "as_of": YESTERDAY, "mode": "nightly",
        "started_at": NOW - timedelta(hours=hours_ago), "host": "h", "pid": 7,
    }  # fmt: skip
    with warehouse.transaction() as transaction:
        insert(transaction, "metarisk.attempt_start", **about, job=job)
        if outcome is not None:
            ended = {"ended_at": NOW, "outcome": outcome, "step": step, "error": "no such table"}
            insert(transaction, "metarisk.run_attempt", **about, **ended)


def status(warehouse: Warehouse, portfolio: str = "loans") -> dict[str, Any]:
    (row,) = warehouse.rows(
        "SELECT * FROM metarisk.portfolio_status WHERE portfolio = $portfolio", {"portfolio": portfolio}
    )
    return row


def test_all_is_well(warehouse: Warehouse) -> None:
    tell(warehouse)
    champion(warehouse)
    publish_night(warehouse, YESTERDAY, run_id="r", at=NOW)
    found = status(warehouse)
    assert (found["status"], found["status_reason"]) == ("green", None)
    assert (found["newest_night"], found["night_age_days"], found["due_until"]) == (YESTERDAY, 1, YESTERDAY)
    assert (found["nights_owed"], found["is_stale"], found["open_alerts"]) == (0, False, 0)
    assert (found["model_id"], found["model_age_days"]) == ("m1", 1)
    assert (found["last_job"], found["last_outcome"]) == ("night", "published")


def day(back: int) -> date:
    return TODAY - timedelta(days=back)


def test_nights_are_owed_from_the_first_published_one(warehouse: Warehouse) -> None:
    tell(warehouse)
    champion(warehouse)
    for back in (5, 3):
        publish_night(warehouse, day(back), run_id=f"r{back}", at=NOW - timedelta(days=back))
    found = status(warehouse)
    assert (found["nights_owed"], found["oldest_owed"], found["newest_owed"]) == (3, day(4), day(1))
    assert (found["status"], found["status_reason"]) == ("red", f"3 owed, {day(4)} to {day(1)}")
    tell(warehouse, seq=2, catch_up="latest")
    found = status(warehouse)
    assert (found["nights_owed"], found["oldest_owed"]) == (1, day(1))
    tell(warehouse, seq=3, scheduled=False)
    found = status(warehouse)
    assert (found["nights_owed"], found["status"]) == (0, "grey")
    assert found["status_reason"] == "no schedule: no night is due"


def test_a_portfolio_without_a_night_owes_the_newest_once_a_start_has_passed(warehouse: Warehouse) -> None:
    tell(warehouse, days_ago=2)
    champion(warehouse)
    assert (status(warehouse)["nights_owed"], status(warehouse)["newest_owed"]) == (1, YESTERDAY)
    tell(warehouse, "new", days_ago=0)
    champion(warehouse, portfolio="new", model="m2")
    assert (status(warehouse, "new")["nights_owed"], status(warehouse, "new")["status"]) == (0, "green")
    tell(warehouse, "untrained", days_ago=0)
    assert status(warehouse, "untrained")["status_reason"] == "no champion: run the weekly"


def due(calendar: str, first: date) -> list[date]:
    """Dates from `first` to yesterday on which a night is due, by hand."""
    days = [first + timedelta(days=step) for step in range((TODAY - first).days)]
    if calendar == "business":
        return [one for one in days if one.strftime("%a") not in {"Sat", "Sun"}]
    if calendar == "month_end":
        return [one for one in days if one.month != (one + timedelta(days=1)).month]
    return days if calendar == "daily" else [one for one in days if one.day % 3 == 0]


def test_what_a_calendar_owes(warehouse: Warehouse) -> None:
    first = day(100)
    with warehouse.transaction() as transaction:
        for one in due("table", first):
            insert(transaction, "metarisk.calendar_date", portfolio="table", as_of=one, seq=1, due=True)
        # A date that was due and is so no more.
        last = due("table", first)[-1]
        insert(transaction, "metarisk.calendar_date", portfolio="table", as_of=last, seq=2, due=False)
    for calendar in ("daily", "business", "month_end", "table"):
        tell(warehouse, calendar, calendar=calendar)
        publish_night(warehouse, first, run_id=calendar, portfolio=calendar, at=NOW - timedelta(days=99))
        wanted = [one for one in due(calendar, first) if one not in {first, last if calendar == "table" else None}]
        found = status(warehouse, calendar)
        assert (found["nights_owed"], found["oldest_owed"], found["newest_owed"]) == (
            len(wanted),
            wanted[0],
            wanted[-1],
        )


def test_a_calendar_that_knows_no_later_date_is_stale(warehouse: Warehouse) -> None:
    tell(warehouse, calendar="table")
    champion(warehouse)
    with warehouse.transaction() as transaction:
        for back in (40, 37, 35):
            insert(transaction, "metarisk.calendar_date", portfolio="loans", as_of=day(back), seq=1, due=True)
    for back in (40, 37, 35):
        publish_night(warehouse, day(back), run_id=f"r{back}", at=NOW - timedelta(days=back))
    found = status(warehouse)
    assert (found["nights_owed"], found["is_stale"], found["status"]) == (0, True, "red")
    assert "35 days old" in found["status_reason"]


def test_a_night_is_due_after_its_start_and_grace(warehouse: Warehouse) -> None:
    wanted = {}
    with warehouse.transaction() as transaction:
        for start_zone in ("Europe/Berlin", "Asia/Tokyo"):
            graced = datetime.now(ZoneInfo(start_zone)) - timedelta(minutes=90)
            for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/New_York"):
                for away in (-5, 5):  # five minutes before it would be told, and after
                    start = graced.replace(second=0, microsecond=0) - timedelta(minutes=away)
                    about = {"timezone": zone, "start_minute": start.hour * 60 + start.minute}
                    name = f"{start_zone} {zone} {away}"
                    more = about | {"start_timezone": start_zone, "grace_minutes": 90}
                    told = {"portfolio": name, "seq": 1, "told_at": NOW} | TOLD | more
                    insert(transaction, "metarisk.portfolio", **told)
                    last = start if start <= graced else start - timedelta(days=1)
                    wanted[name] = as_of_from_schedule(last, zone)
    rows = warehouse.rows("SELECT portfolio, due_until FROM metarisk.portfolio_status")
    assert {row["portfolio"]: row["due_until"] for row in rows} == wanted


@pytest.mark.parametrize("job", ["night", "week"])
def test_the_last_attempt_of_each_job_counts(job: str, warehouse: Warehouse) -> None:
    tell(warehouse)
    champion(warehouse)
    publish_night(warehouse, YESTERDAY, run_id="r", at=NOW - timedelta(hours=30))
    good = {"night": "published", "week": "registered"}
    words = {"failed": "failed", "source_late": "found its source late", "died": "died"}
    for number, (outcome, said) in enumerate(words.items()):
        attempt(warehouse, outcome, outcome, job=job, hours_ago=20 - number)
        found = status(warehouse)
        assert (found["status"], found["last_outcome"]) == ("red", outcome)
        assert found["status_reason"] == f"the last {job} ({YESTERDAY}) {said} in step check: no such table"
    other = "week" if job == "night" else "night"
    attempt(warehouse, "other", good[other], job=other, hours_ago=3)
    assert (status(warehouse)["status"], status(warehouse)["last_outcome"]) == ("red", good[other])
    attempt(warehouse, "good", good[job], job=job, hours_ago=2)
    assert status(warehouse)["status"] == "green"


def test_an_attempt_that_has_not_ended_runs(warehouse: Warehouse) -> None:
    tell(warehouse)
    champion(warehouse)
    publish_night(warehouse, YESTERDAY, run_id="r", at=NOW - timedelta(days=3))
    attempt(warehouse, "now", None)
    assert (status(warehouse)["last_outcome"], status(warehouse)["status"]) == ("running", "green")
    attempts = warehouse.rows("SELECT outcome, ended_at, job FROM metarisk.attempt_recent WHERE attempt_id = 'now'")
    assert attempts == [{"outcome": "running", "ended_at": None, "job": "night"}]


def test_a_model_is_as_old_as_it_is_today(warehouse: Warehouse) -> None:
    tell(warehouse, max_model_age_days=30)
    champion(warehouse, day(31))
    champion(warehouse, TODAY + timedelta(days=4), model="tomorrow")
    publish_night(warehouse, YESTERDAY, run_id="r", at=NOW)
    found = status(warehouse)
    assert (found["model_id"], found["model_age_days"], found["status"]) == ("m1", 31, "amber")
    assert "31 days old, more than max_model_age_days = 30" in found["status_reason"]
    champion(warehouse, day(30), model="younger")
    assert status(warehouse)["status"] == "green"
    # Without a schedule nothing is due today: the model is judged at the newest night.
    tell(warehouse, "adhoc", scheduled=False, max_model_age_days=30)
    champion(warehouse, day(300), portfolio="adhoc", model="m3")
    publish_night(warehouse, day(270), run_id="adhoc", portfolio="adhoc", at=NOW)
    found = status(warehouse, "adhoc")
    assert (found["model_age_days"], found["model_judged_age_days"], found["status"]) == (300, 30, "grey")


def test_the_schedule_is_that_of_prefect_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_schedule(tmp_path) == Schedule(4 * 60 + 15, "Europe/Berlin")
    file = tmp_path / "prefect.yaml"
    head = "deployments:\n  - name: nightly\n    schedules:\n"
    for cron, zone, wanted in (
        ("30 22 * * *", "Asia/Tokyo", Schedule(22 * 60 + 30, "Asia/Tokyo")),
        ("0 */6 * * *", "UTC", Schedule(24 * 60 - 1, "UTC")),
    ):
        file.write_text(f"{head}      - cron: '{cron}'\n        timezone: {zone}\n")
        assert read_schedule(tmp_path) == wanted
    for wrong in ("deployments: 3", f"{head}      - cron: '1 2 * * *'\n        timezone: Nowhere/Land\n", "a: ["):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=r"does not say when the deployment `nightly` starts.*Remedy"):
            read_schedule(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "prefect.yaml").write_text("deployments: []")
    monkeypatch.setenv("METARISK_HOME", str(home))
    assert read_schedule(tmp_path) == Schedule()
