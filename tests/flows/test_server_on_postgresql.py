"""A Prefect server whose database is PostgreSQL, as production has it: crons are scheduled, and a night is kept.

Prefect wants the extension pg_trgm, which the server that other tests use does not bring: this one is the system's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psycopg
import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows import server, upkeep
from flows.nightly import nightly
from metarisk import jobs
from metarisk.domain import Job
from metarisk.jobs import Context, Quiet
from tests.flows.conftest import until
from tests.flows.tiny import make_project, variables

pytestmark = pytest.mark.xdist_group("prefect")
CUT_OFF, NIGHT = date(2026, 6, 28), date(2026, 6, 29)
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture
def database() -> Iterator[str]:
    """Where the system's PostgreSQL listens, on a Unix socket alone; what follows `//` in its URL."""
    if not PROGRAMS:
        pytest.skip("no PostgreSQL server is installed in /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="metarisk-pg-"))
    data, user = folder / "data", None
    if os.geteuid() == 0:  # it refuses to run as root
        user = "postgres"
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        path = PROGRAMS[-1].with_name(program)
        subprocess.run([path, *arguments], user=user, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        run("initdb", "-D", str(data), "-U", "prefect", "--auth=trust", "--no-sync")
        log, options = str(folder / "log"), f"-c listen_addresses='' -k {folder} -c fsync=off"
        run("pg_ctl", "start", "-w", "-D", str(data), "-l", log, "-o", options)
        try:
            yield f"prefect@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(data))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_server_on_postgresql_schedules_and_keeps_a_night(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{database}")
    settings = make_project(tmp_path / "project", NIGHT)
    jobs.weekly(Context(Job("tiny", CUT_OFF), settings, Quiet()))
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)
    environment = server.environment(settings, server.free_port(0))
    home = server.prefect_home(settings)
    with server.server(environment) as api, SyncPrefectClient(api) as client:
        server.create_pools(api)
        server.deploy(environment)
        until(lambda: set(server.SCHEDULED) <= set(upkeep.next_runs(client)), "future runs of the crons")
        with server.reporting_to(api, home):
            assert nightly("tiny", NIGHT, return_state=True).is_completed()
    assert not list(home.rglob("*.db"))
    with psycopg.connect(f"postgresql://{database}") as kept:
        ended = kept.execute("SELECT name FROM flow_run WHERE state_type = 'COMPLETED'").fetchall()
    assert f"tiny {NIGHT}" in {name for (name,) in ended}
