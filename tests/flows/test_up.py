"""`up` as an operator uses it: it comes up, says where, refuses to come up twice, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows import server, upkeep
from metarisk.domain import LockedError
from metarisk.settings import Settings
from tests.flows.conftest import Prefect, until
from tests.flows.tiny import REPOSITORY

pytestmark = pytest.mark.xdist_group("prefect")


@dataclass(frozen=True)
class Life:
    """What was seen of one `up` from its start to Ctrl-C in the middle of a run."""

    address: str
    said: str
    findings: list[upkeep.Finding]
    second: str
    processes: int
    status: int
    left: list[psutil.Process]
    states: set[str]


@pytest.fixture(scope="module")
def life(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Start `up` on a copy of the session's database (building one takes long), look at it, stop it in mid-run."""
    settings = Settings(project=tmp_path_factory.mktemp("up"))
    home = server.prefect_home(settings)
    home.mkdir(parents=True)
    shutil.copy(prefect.fresh, home / "prefect.db")
    log, port = settings.project / "up.log", server.free_port(0)
    command = [sys.executable, "-m", "flows.ops", "up", "--port", str(port)]
    environment = {**prefect.of(settings), "PREFECT_HOME": str(home)}
    with log.open("w") as out:
        up = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        until(lambda: up.poll() is not None or "Ctrl-C" in log.read_text(), "up to be up")
        assert up.poll() is None, log.read_text()
        with pytest.raises(LockedError) as second, server.server(environment):
            pytest.fail("two servers of one folder")
        with SyncPrefectClient(f"http://{server.HOST}:{port}/api") as client:
            findings = upkeep.findings(client, tuple(server.POOLS), server.SCHEDULED)
            run = client.create_flow_run_from_deployment(client.read_deployment_by_name("nightly/nightly").id)
            until(lambda: client.read_flow_run(run.id).infrastructure_pid, "the process of a flow run")
        family = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGINT)
        status = up.wait(90)
        left = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    finally:
        for process in (up, *family):
            if process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running():
                process.kill()
    with sqlite3.connect(home / "prefect.db") as database:
        states = {state for (state,) in database.execute("SELECT DISTINCT state_type FROM flow_run")}
    address = f"http://{server.HOST}:{port}"
    return Life(address, log.read_text(), findings, str(second.value), len(family), status, left, states)


def test_everything_is_up(life: Life) -> None:
    assert [finding for finding in life.findings if not finding.fine] == []
    subjects = {finding.subject for finding in life.findings}
    assert subjects >= {"pool default", "pool gpu", "deployment nightly", "deployment weekly"}


def test_it_says_where_and_what_next(life: Life) -> None:
    assert life.address in life.said
    assert "prefect deployment run nightly/nightly" in life.said


def test_a_second_up_of_the_same_folder_is_refused(life: Life) -> None:
    assert "is up or starting. Remedy: use it, or stop it first." in life.second


def test_ctrl_c_ends_server_workers_and_a_running_flow(life: Life) -> None:
    assert life.processes >= 4
    assert (life.status, life.left) == (0, [])


def test_ctrl_c_leaves_no_run_that_seems_to_run(life: Life) -> None:
    assert not {"RUNNING", "PENDING"} & life.states
