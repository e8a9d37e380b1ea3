"""A Prefect server, its workers and the deployments as processes of this machine; and the HTTP page of reports.

What an operator types is in ops.py.
"""

import io
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, BinaryIO

import httpx
import psutil
from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkerStatus
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings
from prefect.workers.process import ProcessWorker

from flows import configuration, notices, standby, upkeep
from flows.reporter import REPORT_URL
from metarisk.domain import LockedError, MetariskError
from metarisk.settings import Settings

HOME = Path(__file__).resolve().parent.parent
"""Folder of prefect.yaml and flows/."""
HOST = "127.0.0.1"
DEFAULT_PORT = 4200  # Prefect's own
REPORTS_PORT = 4201  # the one beside it
POOLS = {"default": 1, "gpu": 1}
"""Work pools and how many runs their worker takes at once: a backlog runs one after another."""
SCHEDULED = ("nightly", "weekly")
"""Deployments that must have future runs."""
START_SECONDS = 180.0  # a first start builds the database: half a minute, on a busy machine more
STOP_SECONDS = 30.0  # then a process is killed
NEVER = threading.Event()
"""A stop signal that nobody gives."""


class ServerError(MetariskError):
    """Prefect's server or a worker did not start."""


def environment(settings: Settings, port: int) -> dict[str, str]:
    """The environment of server, workers and flow runs: own PREFECT_HOME under the data folder, no telemetry.

    PREFECT_SERVER_DATABASE_CONNECTION_URL and every other PREFECT_SERVER_* of the caller stay.
    """
    address = f"http://{HOST}:{port}"
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        **os.environ,
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(prefect_home(settings)),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_UI_API_URL": f"{address}/api",
        "PREFECT_UI_URL": address,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        "METARISK_HOME": str(HOME),
        "METARISK_PROJECT": str(settings.project.resolve()),
    }


def prefect_home(settings: Settings) -> Path:
    """Folder of the server's own files: its SQLite database and its logs."""
    return (settings.data_dir / "prefect").resolve()


def free_port(preferred: int = DEFAULT_PORT) -> int:
    """`preferred` if nothing listens there, else any free port of HOST."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"no port of {HOST} is free", remedy="stop a server, or pass --port")


class Stopped(Exception):
    """Somebody asked to stop while something was starting."""


class Child:
    """One process in a process group of its own, so that Ctrl-C reaches it only through `stop`."""

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._out: IO[bytes] = log.open("ab")
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "prefect", *arguments],
            env=dict(env),
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def check(self) -> None:
        """Raise ServerError, with the end of its log, if the process has ended."""
        if self.process.poll() is not None:
            tail = " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])
            raise ServerError(
                f"the {self.name} ended with status {self.process.returncode}: {tail}", remedy=f"read {self.log}"
            )

    def until(self, ready: Callable[[], bool], what: str, stop: threading.Event = NEVER) -> None:
        """Poll until `ready`; ServerError if the process ends or START_SECONDS pass first, Stopped if `stop` is set."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"no {what} within {START_SECONDS:.0f} s", remedy=f"read {self.log}")
            if stop.wait(0.1):
                raise Stopped

    def stop(self) -> None:
        """Ask the process to end, insist after STOP_SECONDS, and leave none of its descendants behind.

        A worker gives every flow run a session of its own, so that a process group would not be enough.
        """
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            psutil.wait_procs([psutil.Process(self.process.pid)], STOP_SECONDS)
            for process in (psutil.Process(self.process.pid), *family):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()
        self._out.close()


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at `api`."""
    try:
        with urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def server(env: Mapping[str, str], stop: threading.Event = NEVER) -> Iterator[str]:
    """A Prefect server while the block runs; yields its API address. One a PREFECT_HOME: LockedError for a second."""
    home, api = Path(env["PREFECT_HOME"]), env["PREFECT_API_URL"]
    home.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(home / "server.lock"), home / "address"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(f"a server of {home} is up or starting", remedy="use it, or stop it first") from None
    if note.exists() and healthy(note.read_text()):
        raise LockedError(
            f"a server of {home} that nobody looks after answers at {note.read_text()}",
            remedy="end the processes `prefect server start` and `prefect worker start`",
        )
    child = Child("server", ["server", "start"], env, home / "server.log")
    try:
        child.until(lambda: healthy(api), "answer of the Prefect server", stop)
        note.write_text(api)
        yield api
    finally:
        child.stop()
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def reporting_to(api: str, home: Path) -> Iterator[None]:
    """Flows called in this process report to `api`; all they had to say has arrived when the block ends.

    No heartbeats: they cost a second a flow, and tell other machines what a process that waits for its flows knows.
    """
    with temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        try:
            yield
        finally:
            EventsWorker.drain_all(timeout=STOP_SECONDS)
            APILogWorker.drain_all(timeout=STOP_SECONDS)


@contextmanager
def worker(pool: str, env: Mapping[str, str], limit: int = 1) -> Iterator[Child]:
    """A worker of `pool` while the block runs; it is online when the block starts."""
    name = f"worker-{pool}"
    arguments = ["worker", "start", "--pool", pool, "--type", "process", "--name", name, "--limit", str(limit)]
    child = Child(name, arguments, env, Path(env["PREFECT_HOME"]) / f"{name}.log")
    try:
        yield child
    finally:
        child.stop()


def online(api: str, pool: str) -> bool:
    """Whether some worker of `pool` sends heartbeats."""
    with SyncPrefectClient(api) as client:
        workers = client.read_workers_for_work_pool(pool)
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


def create_pools(api: str, pools: Sequence[str] = tuple(POOLS)) -> None:
    """Create the work pools that are missing."""
    with SyncPrefectClient(api) as client:
        for name in pools:
            try:
                client.create_work_pool(
                    WorkPoolCreate(
                        name=name, type="process", base_job_template=ProcessWorker.get_default_base_job_template()
                    )
                )
            except ObjectAlreadyExists:
                continue


def deploy(env: Mapping[str, str], stop: threading.Event = NEVER) -> None:
    """Create or update the deployments of prefect.yaml; deploying twice changes nothing."""
    log = Path(env["PREFECT_HOME"]) / "deploy.log"
    child = Child("deployment", ["--no-prompt", "deploy", "--all"], env, log)
    try:
        child.until(lambda: child.process.poll() is not None, "end of the deployment", stop)
        if child.process.returncode:
            child.check()
    finally:
        child.stop()


def automate(api: str, settings: Settings) -> list[str]:
    """Create or update the automations on a server that has the deployments; what they are."""
    with reporting_to(api, prefect_home(settings)):
        done = [standby.set_up(settings.gpu_wait_hours)]
        if addresses := os.environ.get(notices.NOTIFY) or configuration.kept("notify"):
            done += notices.set_up(addresses)
    return done


class _Pages(SimpleHTTPRequestHandler):
    """Serve reports alone: files that end in .html, no listings."""

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        if not self.path.split("?")[0].endswith(".html"):
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def pages(data: Path) -> Iterator[str]:
    """Serve the HTML reports under `data` to this machine; yields the address.

    The port is the same every time if it is free, so that yesterday's links still work.
    """
    httpd = ThreadingHTTPServer((HOST, free_port(REPORTS_PORT)), partial(_Pages, directory=str(data)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def abandon(api: str) -> None:
    """Mark what still seems to run as crashed, and what was about to run as scheduled: all workers have stopped."""
    with SyncPrefectClient(api) as client, suppress(httpx.HTTPError, PrefectException):
        upkeep.unstick(client, timedelta(0))


def all_scheduled(api: str) -> bool:
    """Whether every deployment with a schedule has a future run."""
    with SyncPrefectClient(api) as client:
        return set(SCHEDULED) <= set(upkeep.next_runs(client))


@contextmanager
def everything(settings: Settings, port: int, stop: threading.Event = NEVER) -> Iterator[tuple[str, list[Child]]]:
    """Pages, server, pools, one worker a pool and the deployments; workers end before the server does."""
    with ExitStack() as stack:
        env = environment(settings, port)
        env[REPORT_URL] = stack.enter_context(pages(settings.data_dir))
        api = stack.enter_context(server(env, stop))
        create_pools(api)
        stack.callback(abandon, api)
        workers = [stack.enter_context(worker(pool, env, limit)) for pool, limit in POOLS.items()]
        deploy(env, stop)
        automate(api, settings)
        for pool, child in zip(POOLS, workers, strict=True):
            child.until(partial(online, api, pool), f"heartbeat of {child.name}", stop)
        workers[0].until(partial(all_scheduled, api), "future run of each deployment", stop)
        yield api, workers
