"""A project with a champion, trained once a warehouse and copied for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.conftest import BOTH
from tests.end_to_end import tiny
from tests.end_to_end.tiny import FIRST, Project
from tests.warehouses import Server


@pytest.fixture(scope="session")
def trained_on_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project on DuckDB, one week done; to be copied."""
    project = tiny.make(tmp_path_factory.mktemp("trained") / "project")
    project.weekly()
    return project


@pytest.fixture(scope="session")
def trained_on_postgresql(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """The tiny project on PostgreSQL, one week done, and its database; to be copied."""
    database = postgresql.create_database()
    project = tiny.make(tmp_path_factory.mktemp("trained") / "project", postgresql.url(database))
    project.weekly()
    return project, database


@pytest.fixture(scope="session")
def published_on_duckdb(trained_on_duckdb: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same after the night of FIRST, which nothing disturbed; to be copied."""
    project = tiny.copy(trained_on_duckdb, tmp_path_factory.mktemp("published") / "project")
    project.nightly(FIRST)
    return project


@pytest.fixture(scope="session")
def published_on_postgresql(
    trained_on_postgresql: tuple[Project, str], postgresql: Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str]:
    """The same on PostgreSQL, and its database; to be copied."""
    trained, template = trained_on_postgresql
    database = postgresql.create_database(template)
    project = tiny.copy(trained, tmp_path_factory.mktemp("published") / "project", postgresql.url(database))
    project.nightly(FIRST)
    return project, database


@pytest.fixture(scope="session")
def undisturbed(published_on_duckdb: Project) -> dict[str, list[str]]:
    """What the warehouse holds after a night that nothing disturbed."""
    return published_on_duckdb.contents()


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
def project(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A project of one's own on either warehouse, with a champion."""
    return _own(kind, request, "trained", tmp_path / "project")


@pytest.fixture
def published_project(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A project of one's own on either warehouse, with a champion and the night of FIRST."""
    return _own(kind, request, "published", tmp_path / "published")


def _own(kind: str, request: pytest.FixtureRequest, state: str, folder: Path) -> Project:
    """A copy of a session's project."""
    found = request.getfixturevalue(f"{state}_on_{kind}")
    if kind == "duckdb":
        return tiny.copy(found, folder)
    server: Server = request.getfixturevalue("postgresql")
    return tiny.copy(found[0], folder, server.url(server.create_database(found[1])))


@pytest.fixture
def make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Project]:
    """`tiny.make` on either warehouse, as often as a test likes."""

    def new(name: str = "new", **options: object) -> Project:
        if kind == "duckdb":
            return tiny.make(tmp_path / name, **options)  # type: ignore[arg-type]
        server: Server = request.getfixturevalue("postgresql")
        return tiny.make(tmp_path / name, server.url(server.create_database()), **options)  # type: ignore[arg-type]

    return new


@pytest.fixture(scope="session")
def forked() -> Iterator[ForkServerContext]:
    """Processes that are forked from one that has imported everything and started nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "lightgbm", "torch", "metarisk.pipeline"])
    yield context
