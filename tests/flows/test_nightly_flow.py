"""The nightly flow called in this process against a real server: fan-out, done nights, locks, retries, secrets."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import TaskRunSort
from prefect.variables import Variable
from typer.testing import CliRunner

from flows import configuration, running
from flows.backfill import backfill
from flows.nightly import nightly
from flows.weekly import weekly
from metarisk import jobs
from metarisk.cli import app
from metarisk.domain import ConfigError, DataError, Job, MetariskError, WarehouseError
from metarisk.jobs import Context, Quiet
from metarisk.settings import Settings
from metarisk.warehouse import open_warehouse
from tests import warehouses
from tests.end_to_end.tiny import Project
from tests.flows.conftest import Prefect
from tests.flows.tiny import REPOSITORY, make_project, variables

pytestmark = pytest.mark.xdist_group("prefect")
CUT_OFF, FIRST, SECOND, THIRD = date(2026, 6, 20), date(2026, 6, 29), date(2026, 6, 30), date(2026, 7, 1)
STEPS = ["ready", "extract", "check", "adapt", "score", "guard", "drift", "attribute", "publish", "report_night"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two portfolios, one of which selects from a missing table; a champion for the other. Nights stand alone."""
    folder = tmp_path_factory.mktemp("nightly") / "project"
    settings = make_project(folder, THIRD, ("tiny",), ("broken",), catch_up="latest")
    jobs.weekly(Context(Job("tiny", CUT_OFF), settings, Quiet()))
    return settings


@pytest.fixture
def chosen(project: Settings, in_process: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The project is the one that flows called here see."""
    choose(project, monkeypatch)
    return project


def choose(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)


def published(settings: Settings, portfolio: str) -> list[date]:
    """Dates published for a portfolio, in the order of publication."""
    warehouse = open_warehouse(settings.warehouse.get_secret_value(), settings.data_dir, threads=1, memory_mb=256)
    rows = warehouse.rows(
        "SELECT as_of FROM metarisk.publication WHERE portfolio = $portfolio ORDER BY published_at",
        {"portfolio": portfolio},
    )
    return [row["as_of"] for row in rows]


def sub_flows(client: SyncPrefectClient, state: State) -> dict[str, UUID]:
    """Ids of the sub-flows of the flow run that ended in `state`, by name."""
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    children = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    )
    return {child.name: child.id for child in children}


def task_runs(client: SyncPrefectClient, state: State, sub_flow: str) -> dict[str, str | None]:
    """State names of the steps of a sub-flow by their names, in their order; all of them have a duration."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[sub_flows(client, state)[sub_flow]]))
    runs = client.read_task_runs(flow_run_filter=only, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
    assert all(run.total_run_time > timedelta(0) for run in runs)
    return {run.name: run.state_name for run in runs}


def artifacts(client: SyncPrefectClient) -> dict[str, str]:
    """The newest artifact of each key, as text."""
    return {str(artifact.key): str(artifact.data) for artifact in client.read_latest_artifacts(limit=200)}


def test_a_failing_portfolio_stops_no_other_and_is_named(chosen: Settings, client: SyncPrefectClient) -> None:
    state = nightly(as_of=THIRD, return_state=True)
    assert state.is_failed()
    assert THIRD in published(chosen, "tiny")
    assert re.match(r"1 of \d failed\. broken 2026-07-01: failed, .*no_such_table", str(state.message))
    assert set(sub_flows(client, state)) >= {"broken 2026-07-01", "tiny 2026-07-01"}
    steps = task_runs(client, state, "tiny 2026-07-01")
    assert [name.removesuffix(" tiny 2026-07-01") for name in steps] == STEPS
    assert set(steps.values()) == {"Completed"}
    assert task_runs(client, state, "broken 2026-07-01") == {
        "ready broken 2026-07-01": "Completed",
        "extract broken 2026-07-01": "Failed",
    }
    shown = artifacts(client)
    assert {"tiny-quality", "tiny-drift", "tiny-extract", "tiny-score", "nightly-summary"} <= set(shown)
    assert "published" in shown["nightly-summary"]
    # Both portfolios have a page: the one that failed says why.
    for portfolio, page in (("tiny", f"{THIRD}-"), ("broken", f"{THIRD}-not-published.html")):
        assert f"reports/{portfolio}/{page}" in shown[f"{portfolio}-report"]
        assert f"reports/{portfolio}/{page}" in shown["nightly-summary"]


def test_a_done_night_ends_at_once(chosen: Settings, client: SyncPrefectClient) -> None:
    nightly("tiny", SECOND)
    again = nightly("tiny", SECOND, return_state=True)
    assert again.is_completed()
    assert again.message == "tiny 2026-06-30: already published"
    assert sub_flows(client, again) == {}
    assert published(chosen, "tiny").count(SECOND) == 1


def test_a_backfill_trains_its_week_and_says_that_it_is_one(chosen: Settings, client: SyncPrefectClient) -> None:
    day = date(2026, 6, 28)
    state = backfill("tiny", day, day, return_state=True)
    assert state.is_completed(), state.message
    assert re.match(r"tiny 2026-06-27: trained, .*; tiny 2026-06-28: published, [\d,]+ rows", str(state.message))
    assert "trained" in artifacts(client)["backfill-summary"]
    warehouse = open_warehouse(chosen.warehouse.get_secret_value(), chosen.data_dir, threads=1, memory_mb=256)
    (run,) = warehouse.rows(
        "SELECT DISTINCT r.mode, m.as_of, k.known_from, k.known_to FROM metarisk.score_as_known AS k "
        "JOIN metarisk.run AS r ON r.run_id = k.run_id JOIN metarisk.model AS m ON m.model_id = r.model_id "
        "WHERE r.as_of = $day",
        {"day": day},
    )
    assert (run["mode"], run["as_of"], run["known_to"]) == ("backfill", date(2026, 6, 27), None)
    assert run["known_from"].date() > day
    swapped = backfill("tiny", day, day - timedelta(days=1), return_state=True)
    assert swapped.is_failed()
    assert "swap the dates" in str(swapped.message)


def test_an_unknown_portfolio_fails_with_a_remedy(chosen: Settings) -> None:
    state = nightly("tyni", SECOND, return_state=True)
    assert state.is_failed()
    assert "tyni" in str(state.message)
    assert "Remedy" in str(state.message)


HOLD = """
import sys
from pathlib import Path
from metarisk.warehouse import open_warehouse
with open_warehouse(sys.argv[1], Path(sys.argv[2]), threads=1, memory_mb=128).lock("tiny"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(chosen: Settings) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the portfolio until its input ends."""
    arguments = [sys.executable, "-c", HOLD, chosen.warehouse.get_secret_value(), str(chosen.data_dir)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_two_runs_at_once_the_second_waits(
    chosen: Settings, lock: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def let_go(_seconds: float) -> None:
        lock.communicate()

    monkeypatch.setattr(running.time, "sleep", let_go)
    day = date(2026, 6, 27)
    assert nightly("tiny", day, return_state=True).is_completed()
    assert lock.returncode is not None


def test_two_runs_at_once_the_second_ends_with_a_clear_message(
    chosen: Settings, lock: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LOCK_WAIT_SECONDS", 0.0)
    state = nightly("tiny", date(2026, 6, 26), return_state=True)
    assert state.is_failed()
    assert "LockedError: " in str(state.message)
    assert "tiny" in str(state.message)


@pytest.mark.parametrize(
    ("step", "error", "tries"),
    [("extract", WarehouseError, 4), ("extract", DataError, 1), ("score", WarehouseError, 1)],
)
def test_only_steps_at_the_warehouse_are_tried_again(
    step: str, error: type[WarehouseError], tries: int, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "FIRST_RETRY_SECONDS", 0.0)
    calls = []

    def failing(context: Context) -> None:
        """A step that never works."""
        calls.append(context.job)
        raise error("it is down", remedy="wait")

    failing.__name__ = step

    @flow
    def one_step() -> None:
        running.as_task(failing, Context(Job("tiny", FIRST), chosen, Quiet()))

    assert one_step(return_state=True).is_failed()
    assert len(calls) == tries


class Listening(Quiet):
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, str | Path]]] = []
        self.warnings: list[str] = []

    def event(self, name: str, about: Mapping[str, str | Path]) -> None:
        """Keep it."""
        self.events.append((name, about))

    def warn(self, message: str) -> None:
        """Keep it."""
        self.warnings.append(message)


@pytest.mark.parametrize("fails", [False, True])
def test_an_event_tells_of_what_was_committed_and_of_nothing_else(fails: bool, chosen: Settings) -> None:
    told = Listening()

    def publish(_context: Context) -> str:
        """Publish, or not."""
        if fails:
            raise DataError("it does not fit", remedy="mend it")
        return "published"

    @flow
    def one_step() -> str:
        done = running.as_task(publish, Context(Job("tiny", FIRST), chosen, told))
        assert told.events, "told on commit, which is before the next step"
        return done

    state = one_step(return_state=True)
    assert state.is_failed() == fails
    about = {"portfolio": "tiny", "as_of": str(FIRST), "mode": "nightly"}
    assert told.events == ([] if fails else [("published", about)])
    assert [bool(re.search("publish did not end", line)) for line in told.warnings] == [True] * fails


def test_a_step_that_hangs_is_ended_and_says_what_to_do(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TIMEOUT_SECONDS", 0.2)

    def score(_context: Context) -> None:
        """A step that waits for what never comes."""
        threading.Event().wait(60)

    @flow
    def one_step() -> None:
        running.as_task(score, Context(Job("tiny", FIRST), chosen, Quiet()))

    state = one_step(return_state=True)
    with pytest.raises(MetariskError, match=r"tiny, as of 2026-06-29: the step score did not end .* Remedy: look what"):
        state.result()


def test_a_night_that_failed_goes_on_after_its_last_finished_step(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = date(2026, 6, 25)

    def publish(*_inputs: object) -> None:
        """Publish, on a warehouse that is down."""
        raise WarehouseError("it is down", remedy="wait")

    def kept() -> dict[Path, tuple[int, int]]:
        files = (chosen.data_dir / "lake" / "tiny" / str(day)).rglob("runs/*/*/*")
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files if file.is_file()}

    monkeypatch.setattr(running, "FIRST_RETRY_SECONDS", 0.0)
    with monkeypatch.context() as down:
        down.setattr("metarisk.jobs.night.publish", publish)
        assert nightly("tiny", day, return_state=True).is_failed()
    before = kept()
    assert {file.parent.name for file in before} >= {"adapt", "score", "drift"}
    assert nightly("tiny", day, return_state=True).is_completed()
    assert kept().items() >= before.items()
    assert day in published(chosen, "tiny")


SECRETS = ("correct-horse-battery-staple", "key-of-the-bucket", "word-of-the-mailbox")


@pytest.fixture
def block(in_process: None) -> Iterator[Callable[[str], object]]:
    """Keeps a warehouse's URL as a block of the server, while the test runs."""
    yield lambda url: Secret(value=url).save("metarisk-warehouse")
    Secret.delete("metarisk-warehouse")


def defect(context: Context, *_inputs: object) -> None:
    """A step with a mistake in it, which shows all that it has."""
    context.warehouse.rows("SELECT 1")
    raise RuntimeError(f"a defect, of {context!r} {vars(context)!r} {context.warehouse!r}")


def test_a_password_reaches_nothing_that_prefect_keeps(
    prefect: Prefect,
    block: Callable[[str], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secret, key, word = SECRETS
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    monkeypatch.setenv("METARISK_NOTIFY", f"mailtos://ops:{word}@mail.example")
    with warehouses.server() as postgresql:
        url = postgresql.url(postgresql.create_database(), password=secret)
        settings = make_project(tmp_path / "project", SECOND, ("hushed",), ("broken",), warehouse=url)
        choose(settings, monkeypatch)
        assert weekly("hushed", CUT_OFF, return_state=True).is_completed()
        # The night has it from a block: the environment names no warehouse any more.
        monkeypatch.delenv("METARISK_WAREHOUSE")
        block(url)
        assert nightly(as_of=FIRST, return_state=True).is_failed()
        assert published(settings, "hushed") == [FIRST]
        with monkeypatch.context() as wrong:
            wrong.setattr("metarisk.jobs.night.guard", defect)
            state = nightly("hushed", SECOND, return_state=True)
            assert "RuntimeError: a defect, of Context(" in str(state.message)
            monkeypatch.setenv("METARISK_WAREHOUSE", url)
            told = CliRunner().invoke(app, ["nightly", "--portfolio", "hushed", "--as-of", str(SECOND)])
        said = "".join(traceback.format_exception(told.exception)) + told.output + str(state.message)
        assert said.count("a defect, of Context(") >= 2
        tables = Project(settings).contents()
        assert repr(FIRST) in str(tables["run"])
        said += str(tables)
    monkeypatch.setattr(running, "FIRST_RETRY_SECONDS", 0.0)
    assert nightly("hushed", SECOND, return_state=True).is_failed()
    # Prefect's database and logs; lake, registry, reports of every kind, those of failures too, and their manifests.
    for place in (prefect.home, settings.data_dir):
        kept = b"".join(path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file())
        assert b"hushed" in kept
        said += kept.decode("utf-8", "replace")
    said += "".join(capfd.readouterr())
    assert [one for one in SECRETS if one in said] == []
    assert {path.name.split("-")[0] for path in settings.data_dir.rglob("*.*ml")} >= {"2026", "drift", "model", "week"}


def test_the_server_keeps_settings_that_the_environment_does_not_name(
    in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METARISK_THREADS", "3")
    monkeypatch.delenv("METARISK_MEMORY_MB", raising=False)
    try:
        for name, value in (("metarisk_threads", 5), ("metarisk_memory_mb", 512)):
            Variable.set(name, value)
        found = configuration.settings()
        assert (found.threads, found.memory_mb) == (3, 512)
        Variable.set("metarisk_memory_mb", "much", overwrite=True)
        with pytest.raises(ConfigError, match=r"variable metarisk_memory_mb of the Prefect server is wrong.*Remedy"):
            configuration.settings()
    finally:
        for name in ("metarisk_threads", "metarisk_memory_mb"):
            Variable.unset(name)
