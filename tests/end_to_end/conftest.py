"""A project with a champion, trained once a warehouse and copied for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

import pytest

from metarisk.warehouse.duckdb.locks import file_lock
from tests.conftest import BOTH
from tests.end_to_end import tiny
from tests.end_to_end.tiny import SECOND, Project
from tests.warehouses import Server


def month_end(project: Project) -> None:
    """Nights of 30 June (a month end) and 1 July, the last by a newer model."""
    project.nightly(SECOND)
    project.weekly(SECOND)
    project.nightly(SECOND + timedelta(1))


def days(project: Project) -> None:
    """Four nights more, from 30 June to 3 July."""
    for ahead in range(4):
        project.nightly(SECOND + timedelta(ahead))


STATES: Mapping[str, tuple[str | None, Callable[[Project], object]]] = {
    "trained": (None, Project.weekly),
    "published": ("trained", Project.nightly),
    "month_end": ("published", month_end),
    "days": ("published", days),
}
"""What a project has lived through: a state before, and what ran since."""
Grown = Callable[[str, str], tuple[Project, str]]
Own = Callable[[str, str], Project]
PATIENCE_SECONDS = 600.0
ON_DUCKDB = pytest.mark.parametrize("kind", ["duckdb"])
"""What such a test shows is no property of the warehouse, or another test shows it on both."""


class NewDatabase(Protocol):
    """See `database`."""

    def __call__(self, kind: str, template: str = "") -> tuple[str, str]:
        """URL and name."""
        ...


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> NewDatabase:
    """By warehouse a new database's URL and name, with what a template holds; DuckDB's is a file of the project."""

    def new(kind: str, template: str = "") -> tuple[str, str]:
        if kind == "duckdb":
            return "duckdb:///warehouse.duckdb", ""
        server: Server = request.getfixturevalue("postgresql")
        name = server.create_database(template or None)
        return server.url(name), name

    return new


@pytest.fixture(scope="session")
def grown(database: NewDatabase, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Grown:
    """By warehouse and state a project and its database, made once when first asked for; to be copied.

    On DuckDB one worker makes it and the others copy its folder; all of PostgreSQL is on one worker anyway.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "grown"

    @cache
    def of(kind: str, state: str) -> tuple[Project, str]:
        if kind == "duckdb":
            with file_lock(shared / "locks", state, wait_seconds=PATIENCE_SECONDS):
                if not (shared / state).exists():
                    grow(kind, state)[0].settings.project.rename(shared / state)
                return tiny.copy(tiny.of(shared / state), tmp_path_factory.mktemp(state) / "project"), ""
        return grow(kind, state)

    def grow(kind: str, state: str) -> tuple[Project, str]:
        before, run = STATES[state]
        folder = tmp_path_factory.mktemp(state) / "project"
        old, template = of(kind, before) if before else (None, "")
        url, name = database(kind, template)
        project = tiny.copy(old, folder, url) if old else tiny.make(folder, url)
        run(project)
        return project, name

    return of


@pytest.fixture(scope="session")
def trained_on_duckdb(grown: Grown) -> Project:
    """The tiny project on DuckDB, one week done; to be copied."""
    return grown("duckdb", "trained")[0]


@pytest.fixture(scope="session")
def trained_on_postgresql(grown: Grown) -> tuple[Project, str]:
    """The tiny project on PostgreSQL, one week done, and its database; to be copied."""
    return grown("postgresql", "trained")


@pytest.fixture(scope="session")
def published_on_duckdb(grown: Grown) -> Project:
    """The same on DuckDB after the night of FIRST, which nothing disturbed; to be copied."""
    return grown("duckdb", "published")[0]


@pytest.fixture(scope="session")
def undisturbed(published_on_duckdb: Project) -> dict[str, list[str]]:
    """What the warehouse holds after a night that nothing disturbed."""
    return published_on_duckdb.contents()


@pytest.fixture
def own(grown: Grown, database: NewDatabase, tmp_path: Path) -> Own:
    """A project of one's own, by warehouse and state."""

    def copied(kind: str, state: str) -> Project:
        project, template = grown(kind, state)
        return tiny.copy(project, tmp_path / state, database(kind, template)[0])

    return copied


@pytest.fixture
def duckdb(trained_on_duckdb: Project, tmp_path: Path) -> Project:
    """A project of one's own on DuckDB, with a champion."""
    return tiny.copy(trained_on_duckdb, tmp_path / "project")


@pytest.fixture
def published(published_on_duckdb: Project, tmp_path: Path) -> Project:
    """A project of one's own on DuckDB, with a champion and the night of FIRST."""
    return tiny.copy(published_on_duckdb, tmp_path / "published")


@pytest.fixture(params=BOTH)
def kind(request: pytest.FixtureRequest) -> str:
    """Either warehouse."""
    name: str = request.param
    return name


@pytest.fixture
def project(kind: str, own: Own) -> Project:
    """A project of one's own on either warehouse, with a champion."""
    return own(kind, "trained")


@pytest.fixture
def published_project(kind: str, own: Own) -> Project:
    """A project of one's own on either warehouse, with a champion and the night of FIRST."""
    return own(kind, "published")


@pytest.fixture
def make(kind: str, database: NewDatabase, tmp_path: Path) -> Callable[..., Project]:
    """`tiny.make` on either warehouse, as often as a test likes."""

    def new(name: str = "new", **options: Any) -> Project:
        return tiny.make(tmp_path / name, database(kind)[0], **options)

    return new


@pytest.fixture(scope="session")
def forked() -> Iterator[ForkServerContext]:
    """Processes that are forked from one that has imported everything and started nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "lightgbm", "torch", "metarisk.jobs"])
    yield context
