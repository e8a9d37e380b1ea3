"""Jobs and models, and the protocol of reporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, Protocol

Mode = Literal["nightly", "backfill", "restatement"]
SegmentStatus = Literal["adapted", "carried", "abstained", "fallback"]


@dataclass(frozen=True)
class Acceptance:
    """A person's word that what the guard stopped is to be published."""

    reason: str
    by: str

    def __str__(self) -> str:
        return f"accepted by {self.by}: {self.reason}"


@dataclass(frozen=True)
class Job:
    """What a run is asked to do; picklable and free of secrets."""

    portfolio: str
    as_of: date
    mode: Mode = "nightly"
    reason: str = ""
    acceptance: Acceptance | None = None


@dataclass(frozen=True)
class Model:
    """A row of the `model` table with its current state."""

    model_id: str
    portfolio: str
    as_of: date
    """Label cut-off: nothing known later taught this model."""
    recipe: str
    state: Literal["candidate", "approved", "champion", "retired", "withdrawn"]
    path: Path


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` is empty where nothing is to be done."""

    subject: str
    what: str
    remedy: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is to be done."""
        return not self.remedy


class Reporter(Protocol):
    """Where progress and tables of a run go: Rich in the CLI, artifacts in Prefect, nothing in tests."""

    def step(self, job: Job, name: str) -> AbstractContextManager[None]:
        """Enclose one step, for its name and time."""
        ...

    def progress(self, name: str, done: int, total: int, note: str = "") -> None:
        """Say how far long work has come."""
        ...

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Show a table; `key` is lower case with dashes."""
        ...

    def link(self, key: str, title: str, target: Path) -> None:
        """Point to a page."""
        ...

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        """Raise an event that something outside may act on; `name` is lower case with dots."""
        ...

    def warn(self, message: str) -> None:
        """Say what is not right, though the run goes on."""
        ...
