"""The Reporter of flows: tables, links and progress of a run as Prefect artifacts, warnings as log lines.

An artifact that cannot be stored is a warning, never the end of a night. What is shown is decided by the pipeline.
"""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import artifacts
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from metarisk.domain import Job

MAX_ROWS = 500
"""Rows of a table artifact: beyond it the page grows slow, and the report has them all."""
PROGRESS_SECONDS = 5.0
"""Shortest time between two updates of one progress artifact."""
REPORT_URL = "METARISK_REPORT_URL"
"""Environment variable: address under which the folder of reports is served; unset, links show the path."""


@dataclass
class PrefectReporter:
    """Artifacts and log lines of one portfolio's run; used inside a flow or task run.

    `data` is the folder whose reports `METARISK_REPORT_URL` serves.
    """

    portfolio: str
    data: Path
    clock: Callable[[], float] = time.monotonic
    _progress: dict[str, tuple[UUID | None, float]] = field(default_factory=dict)

    @contextmanager
    def step(self, job: Job, name: str) -> Iterator[None]:
        """Nothing to add to the task run, but that what it showed half done is done once it has ended well."""
        before = set(self._progress)
        yield
        for shown in self._progress.keys() - before:
            artifact, _ = self._progress.pop(shown)
            if artifact is not None:
                with self._kept_going(f"progress of {shown}"):
                    artifacts.update_progress_artifact(artifact, 100.0, description=f"**{shown}**: done")

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`, at most every PROGRESS_SECONDS and at the end."""
        artifact, shown = self._progress.get(name, (None, -math.inf))
        last = 0 < total <= done
        if not last and self.clock() - shown < PROGRESS_SECONDS:
            return
        percent = 100.0 * min(done / total, 1.0) if total > 0 else 0.0
        description = f"**{name}**: {done:,}{f' of {total:,}' if total > 0 else ''}{f' ({note})' if note else ''}"
        with self._kept_going(f"progress of {name}"):
            if artifact is None:
                created = artifacts.create_progress_artifact(percent, key=self._key(name), description=description)
                artifact = cast(UUID, created)  # a coroutine only inside an async flow
            else:
                artifacts.update_progress_artifact(artifact, percent, description=description)
        self._progress[name] = (None if last else artifact, self.clock())

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Show the first MAX_ROWS rows as a searchable table."""
        shown = [{name: _cell(value) for name, value in row.items()} for row in rows[:MAX_ROWS]]
        more = f" First {MAX_ROWS:,} of {len(rows):,} rows; the report has all." if len(rows) > MAX_ROWS else ""
        with self._kept_going(f"table {key}"):
            artifacts.create_table_artifact(shown, key=self._key(key), description=f"{self._titled(title)}.{more}")

    def link(self, key: str, title: str, target: Path) -> None:
        """Link to a page: over METARISK_REPORT_URL where it is served, else by its path."""
        address = report_address(self.data, target)
        with self._kept_going(f"link {key}"):
            artifacts.create_link_artifact(
                address, link_text=title, key=self._key(key), description=f"{self._titled(title)}: `{target}`"
            )
        get_run_logger().info("%s: %s", title, address)

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        """Emit a Prefect event of the portfolio; prefect.yaml and `flows.notices` say what it triggers."""
        with self._kept_going(f"event {name}"):
            emit_event(
                f"metarisk.{name}",
                {
                    "prefect.resource.id": f"metarisk.portfolio.{self.portfolio}",
                    "prefect.resource.name": self.portfolio,
                },
                payload={key: _address(self.data, value) for key, value in about.items()},
            )

    def warn(self, message: str) -> None:
        """Log a warning."""
        get_run_logger().warning(message)

    def _titled(self, title: str) -> str:
        return title if self.portfolio in title else f"{self.portfolio}: {title}"

    def _key(self, name: str) -> str:
        """Artifacts of all portfolios share one space of keys: lower case and dashes, the portfolio in front."""
        key, portfolio = _slug(name), _slug(self.portfolio)
        return f"{portfolio}-{key.removesuffix(portfolio).strip('-')}"

    @contextmanager
    def _kept_going(self, what: str) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("The %s could not be stored in Prefect (%s); the run goes on.", what, error)


def report_address(reports: Path, target: Path) -> str:
    """The page's http address where reports are served, else its file address."""
    base = os.environ.get(REPORT_URL)
    if base and target.resolve().is_relative_to(reports.resolve()):
        return f"{base.rstrip('/')}/{target.resolve().relative_to(reports.resolve()).as_posix()}"
    return target.resolve().as_uri()


def _address(data: Path, value: str | Path) -> str:
    return report_address(data, value) if isinstance(value, Path) else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _cell(value: object) -> Any:
    """A value as JSON can hold and a person can read it: no NaN, dates in ISO form, four significant digits."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return str(value)
