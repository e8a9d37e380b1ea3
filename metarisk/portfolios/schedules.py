"""When nights start, read from prefect.yaml, and how long after it one is missing. No server is asked."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from metarisk.domain import ConfigError, Portfolio

GRACE = timedelta(hours=6)
"""A night is missing only so long after its start: as long as one step may take before it counts as stuck."""
LAST_MINUTE = 24 * 60 - 1  # 23:59, by when any start of the day has been
_DAILY = re.compile(r"(\d{1,2}) (\d{1,2}) \* \* \*")


@dataclass(frozen=True)
class Schedule:
    """The daily start of nights, by a wall clock."""

    minute: int = 4 * 60 + 15
    """Minutes after midnight; the last one of the day where the cron is not that of one start a day."""
    timezone: str = "Europe/Berlin"


def grace(portfolio: Portfolio) -> timedelta:
    """How long after its start a night may be missing: as long as it may wait for its source, and GRACE."""
    return GRACE + timedelta(minutes=portfolio.source.deadline_minutes)


def read_schedule(project: Path) -> Schedule:
    """The schedule of the deployment `nightly` in prefect.yaml; as delivered where that says nothing.

    The file is that of METARISK_HOME, of the project, or beside the flows. Raises ConfigError where it cannot be read.
    """
    flows = find_spec("flows")
    beside = [Path(flows.origin).parents[1]] if flows is not None and flows.origin is not None else []
    homes = [Path(home)] if (home := os.environ.get("METARISK_HOME")) else []
    file = next((path for folder in (*homes, project, *beside) if (path := folder / "prefect.yaml").is_file()), None)
    if file is None:
        return Schedule()
    try:
        return _nightly(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{file} does not say when the deployment `nightly` starts ({type(error).__name__})",
            remedy="restore its schedule; docs/operations.md shows it",
        ) from None


def _nightly(content: Any) -> Schedule:
    deployment: dict[str, Any] = next((one for one in content["deployments"] if one["name"] == "nightly"), {})
    if not deployment.get("schedules"):
        return Schedule()
    schedule = deployment["schedules"][0]
    zone = ZoneInfo(schedule.get("timezone", "UTC"))
    daily = _DAILY.fullmatch(str(schedule.get("cron", "")).strip())
    return Schedule(int(daily[2]) * 60 + int(daily[1]) if daily else LAST_MINUTE, zone.key)
