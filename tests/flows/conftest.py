"""One real Prefect server for the session, with pools and deployments; a test that wants a worker starts it."""

from __future__ import annotations

import json
import sqlite3
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from flows import server
from metarisk.settings import Settings
from tests.flows.tiny import variables

Value = TypeVar("Value")
PATIENCE_SECONDS = 400.0


@dataclass(frozen=True)
class Prefect:
    """The session's server: its API, the environment for its workers and flow runs, and its folder."""

    api: str
    environment: Mapping[str, str]

    @property
    def fresh(self) -> Path:
        """A copy of the database as it was after the deployment, before any test."""
        return self.home / "fresh.db"

    @property
    def home(self) -> Path:
        """PREFECT_HOME: database and logs."""
        return Path(self.environment["PREFECT_HOME"])

    def of(self, settings: Settings) -> dict[str, str]:
        """The environment of a worker or flow run of a project."""
        return {**self.environment, **variables(settings)}


def until(look: Callable[[], Value], what: str) -> Value:
    """Poll until `look` gives something true; its value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_SECONDS:.0f} s in vain: {what}")
        time.sleep(0.05)
    return value


def kept(prefect: Prefect) -> str:
    """All that Prefect keeps in its folder: files as they are, results unpacked, the database also row by row.

    What flows of this process had to say has arrived: an event that comes after all of it is waited for.
    """
    APILogWorker.drain_all(timeout=PATIENCE_SECONDS)
    last = uuid4().hex
    emit_event("metarisk.searched", {"prefect.resource.id": "metarisk.search"}, payload={"last": last})
    EventsWorker.drain_all(timeout=PATIENCE_SECONDS)
    until(lambda: last in _rows(prefect.home / "prefect.db"), "the last event")
    texts = [_rows(prefect.home / "prefect.db")]
    for path in (path for path in prefect.home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        texts.append(content.decode("utf-8", "replace"))
        with suppress(ValueError, KeyError, TypeError):  # no result
            texts.append(b64decode(json.loads(content)["result"]).decode("utf-8", "replace"))
    return "\n".join(texts)


def _rows(database: Path) -> str:
    """Every row of a database, for a long text lies in pieces in its file."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return "\n".join(connection.iterdump())


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server of this session with the deployments of prefect.yaml."""
    settings = Settings(project=tmp_path_factory.mktemp("prefect"))
    quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1"}
    environment = {**server.environment(settings, server.free_port(0)), **quick}
    with server.server(environment) as api:
        server.create_pools(api)
        server.deploy(environment)
        running = Prefect(api, environment)
        with sqlite3.connect(running.home / "prefect.db") as source, sqlite3.connect(running.fresh) as target:
            source.backup(target)
        yield running


@pytest.fixture
def client(prefect: Prefect) -> Iterator[SyncPrefectClient]:
    """A client of the session's server."""
    with SyncPrefectClient(prefect.api) as connected:
        yield connected


@pytest.fixture
def in_process(prefect: Prefect) -> Iterator[None]:
    """Flows called in the test report to the session's server."""
    with server.reporting_to(prefect.api, prefect.home):
        yield
