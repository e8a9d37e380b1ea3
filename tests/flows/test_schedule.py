"""The dates of scheduled runs: what prefect.yaml's crons give over clock changes and a year's end."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from metarisk.job.champion import SATURDAY
from metarisk.jobs import as_of_from_schedule
from tests.flows.tiny import REPOSITORY

DEPLOYMENTS = {
    deployment["name"]: deployment
    for deployment in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
}
OVER = {
    "clocks go forward": date(2026, 3, 26),
    "clocks go back": date(2026, 10, 22),
    "a year ends": date(2026, 12, 28),
    "a leap day": date(2028, 2, 26),
}


def scheduled(name: str, first: date, runs: int) -> list[datetime]:
    """The first runs of a deployment from local midnight of `first`, as Prefect's own scheduler places them."""
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    start = datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(schedule["timezone"]))
    return asyncio.run(cron.get_dates(runs, start=start.astimezone(UTC)))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "Pacific/Apia", "UTC"])
@pytest.mark.parametrize("first", OVER.values(), ids=OVER)
def test_every_night_is_scored_once(first: date, zone: str) -> None:
    nights = [as_of_from_schedule(start, zone) for start in scheduled("nightly", first, 9)]
    assert nights == [nights[0] + timedelta(days=i) for i in range(9)]


@pytest.mark.parametrize("first", OVER.values(), ids=OVER)
def test_a_night_starts_at_a_quarter_past_four_for_the_day_before(first: date) -> None:
    starts = scheduled("nightly", first, 9)
    assert {start.astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M") for start in starts} == {"04:15"}
    assert as_of_from_schedule(starts[0], "Europe/Berlin") == first - timedelta(days=1)


def test_weeks_end_on_saturdays_over_both_clock_changes_and_a_year() -> None:
    weeks = [as_of_from_schedule(start, "Europe/Berlin") for start in scheduled("weekly", date(2026, 1, 1), 60)]
    assert weeks == [date(2026, 1, 3) + timedelta(weeks=i) for i in range(60)]
    assert {week.weekday() for week in weeks} == {SATURDAY}  # where a backfill trains the weeks that are missing


def test_last_night_of_a_year_belongs_to_the_old_year() -> None:
    assert as_of_from_schedule(datetime(2027, 1, 1, 3, 15, tzinfo=UTC), "Europe/Berlin") == date(2026, 12, 31)


def test_pools_are_the_ones_that_have_workers() -> None:
    pools = {name: deployment["work_pool"]["name"] for name, deployment in DEPLOYMENTS.items()}
    assert pools == {"nightly": "default", "weekly": "gpu", "weekly-default": "default", "backfill": "default"}


def test_no_deployment_limits_concurrency() -> None:
    assert not [name for name, deployment in DEPLOYMENTS.items() if "concurrency_limit" in deployment]
