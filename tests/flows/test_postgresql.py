"""Prefect's own database on PostgreSQL, as operations.md has it for production: crons are scheduled, a night completes."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import psycopg
import pytest

from flows import server
from flows.nightly import nightly
from metarisk import pipeline
from metarisk.domain import Job
from metarisk.pipeline import Context, Quiet
from metarisk.settings import Settings
from tests.flows.conftest import until
from tests.flows.tiny import make_project, variables

pytestmark = pytest.mark.xdist_group("prefect")
CUT_OFF, NIGHT = date(2026, 6, 20), date(2026, 6, 29)


def programs() -> Path | None:
    """Where a PostgreSQL with the extension pg_trgm lies, which Prefect wants and the one that other tests use lacks."""
    for config in ("pg_config", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_config")))):
        if shutil.which(config) is None:
            continue
        asked = [config, "--bindir", "--sharedir"]
        binaries, shared = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
        if (Path(shared) / "extension" / "pg_trgm.control").exists() and (Path(binaries) / "initdb").exists():
            return Path(binaries)
    return None


@contextmanager
def postgresql(binaries: Path) -> Iterator[str]:
    """A PostgreSQL on a Unix socket while the block runs, not as root, which it refuses; yields the socket's folder."""
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    # A short path: a Unix socket's may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="metarisk-pg-"))
    who = {"user": user} if os.getuid() == 0 else {}
    if who:
        shutil.chown(folder, user)
    make = [binaries / "initdb", "-D", folder / "data", "-U", "prefect", "-A", "trust", "--no-sync"]
    start = [binaries / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        subprocess.run(make, check=True, stdout=log, cwd=folder, env={"LC_ALL": "C.UTF-8"}, **who)
        process = subprocess.Popen(start, stdout=log, stderr=log, cwd=folder, env={"LC_ALL": "C.UTF-8"}, **who)
    try:
        until(lambda: "ready to accept" in (folder / "log").read_text(), "PostgreSQL")
        yield str(folder)
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nothing is to be kept
        process.wait(60)
        shutil.rmtree(folder)


def test_a_night_on_a_server_whose_database_is_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = programs()
    if binaries is None:
        pytest.skip("no PostgreSQL with the extension pg_trgm (Debian: postgresql, postgresql-contrib)")
    settings = make_project(tmp_path / "project", NIGHT)
    pipeline.weekly(Context(Job("tiny", CUT_OFF), settings, Quiet()))
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)
    with postgresql(binaries) as socket:
        database = f"postgresql+asyncpg://prefect@/postgres?host={socket}"
        monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
        environment = server.environment(settings, server.free_port(0))
        with server.server(environment) as api:
            server.create_pools(api)
            server.deploy(environment)
            until(lambda: server.all_scheduled(api), "future runs of each deployment")
            with server.reporting_to(api, server.prefect_home(settings)):
                assert nightly("tiny", NIGHT, return_state=True).is_completed()
        with psycopg.connect(f"postgresql://prefect@/postgres?host={socket}") as connection:
            counted = dict(connection.execute("SELECT state_name, count(*) FROM flow_run GROUP BY 1").fetchall())
    assert counted["Completed"] == 2  # the night and the flow that it is in
    assert counted["Scheduled"] >= len(server.SCHEDULED)
    assert not (server.prefect_home(settings) / "prefect.db").exists()
