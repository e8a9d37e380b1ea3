"""Fixtures that many tests share: a PostgreSQL server a test process, and a migrated warehouse of either kind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metarisk.domain import Warehouse
from metarisk.warehouse.duckdb.warehouse import DuckDBWarehouse
from tests.warehouses import Server, open_duckdb, open_postgresql, schema, server

POSTGRESQL = pytest.mark.xdist_group("postgresql")
BOTH = [pytest.param("duckdb"), pytest.param("postgresql", marks=POSTGRESQL)]


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in a hook of the same name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a module makes once is made once a run: tests that share a fixture of their module stay on one worker."""
    for item in (item for item in items if isinstance(item, pytest.Function)):
        made = (definitions[-1].scope for definitions in item._fixtureinfo.name2fixturedefs.values())
        if "module" in made and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server; tests that use it directly belong to the xdist group `postgresql`."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def migrated_template(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a database with the schema `metarisk`, to be copied."""
    name = postgresql.create_database()
    open_postgresql(postgresql.url(name), tmp_path_factory.mktemp("template")).migrate(*schema())
    return name


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DuckDB file with the schema `metarisk`, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    open_duckdb(folder).migrate(*schema())
    return folder / "warehouse.duckdb"


@pytest.fixture
def embedded(migrated_file: Path, tmp_path: Path) -> DuckDBWarehouse:
    """A DuckDB warehouse with the schema `metarisk`."""
    shutil.copyfile(migrated_file, tmp_path / "warehouse.duckdb")
    opened = open_duckdb(tmp_path)
    assert isinstance(opened, DuckDBWarehouse)
    return opened


@pytest.fixture(params=BOTH)
def empty_warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """A warehouse of either kind without any table."""
    if request.param == "duckdb":
        return open_duckdb(tmp_path)
    running: Server = request.getfixturevalue("postgresql")
    return open_postgresql(running.url(running.create_database()), tmp_path)


@pytest.fixture(params=BOTH)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """A warehouse of either kind with the schema `metarisk`."""
    if request.param == "duckdb":
        opened: Warehouse = request.getfixturevalue("embedded")
        return opened
    running: Server = request.getfixturevalue("postgresql")
    template: str = request.getfixturevalue("migrated_template")
    return open_postgresql(running.url(running.create_database(template)), tmp_path)
